"""The console command, config files found from any folder, and scripts run by their path."""

import pathlib
import subprocess
import sys

import pytest

import internal_rl
from internal_rl.extras import needs_extra
from internal_rl.stages import config_file
from internal_rl.stages.catalogue import STAGES
from internal_rl.stages.command import OTHERS, usage
from tests.marks import quick
from tests.training.test_loop import ROOT

COMMAND = "from internal_rl.stages.command import main; main()"


def run_in(folder, *command):
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
    )


def test_usage_names_every_command():
    assert all(name in usage() for name in (*OTHERS, *STAGES))


def test_a_flag_in_place_of_a_command_is_refused():
    process = run_in(ROOT, "-c", COMMAND, "--workdir=x")
    assert process.returncode == 2
    assert process.stderr.startswith("error: --workdir=x: given in place of a command")


def test_an_unknown_command_is_named_with_those_there_are(tmp_path):
    process = run_in(tmp_path, "-c", COMMAND, "quickstrat", f"--workdir={tmp_path}/run")
    assert process.returncode == 2
    said = process.stderr.splitlines()[-1]
    assert said.startswith("error: quickstrat: unknown command, allowed are quickstart")
    assert "pretrain" in said and not (tmp_path / "run").exists()


def test_the_version_is_told(tmp_path):
    process = run_in(tmp_path, "-c", COMMAND, "--version")
    assert process.stdout == f"internal_rl {internal_rl.__version__}\n"


def test_examples_are_copied_and_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own_block.py").write_text("mine")
    process = run_in(tmp_path, "-c", COMMAND, "examples", "mine")
    assert process.returncode == 0, process.stderr
    copied = {path.name for path in (tmp_path / "mine").iterdir()}
    assert copied == {path.name for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert (tmp_path / "mine" / "own_block.py").read_text() == "mine"
    assert "mine/own_block.py: there already, left alone" in process.stdout
    refused = run_in(tmp_path, "-c", COMMAND, "examples", "a", "b")
    assert refused.returncode == 2 and refused.stderr.startswith("error: b: unexpected")


@pytest.mark.parametrize(
    "config", quick(["gridworld:smoke", "configs/gridworld.py:smoke"], ["gridworld:smoke"])
)
def test_the_command_finds_the_config_files_of_the_package_from_any_folder(config, tmp_path):
    process = run_in(
        tmp_path, "-c", COMMAND, "probe", f"--config={config}", f"--workdir={tmp_path}/run"
    )
    assert process.returncode == 2
    assert "/pretrain/seed_0: not there" in process.stderr.splitlines()[-1]
    assert "--config=configs/gridworld.py:smoke" in process.stderr.splitlines()[-1]


def test_a_file_in_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file.find_config("gridworld:small") != "gridworld:small"
    pathlib.Path("configs").mkdir()
    pathlib.Path("configs/gridworld.py").write_text("")
    assert config_file.find_config("configs/gridworld.py:small") == "configs/gridworld.py:small"
    assert config_file.find_config("elsewhere/gridworld.py") == "elsewhere/gridworld.py"


@pytest.mark.parametrize("script", ["pretrain", "internal_rl"])
def test_a_script_runs_by_its_path_too(script):
    process = run_in(ROOT, f"experiments/{script}.py", "--config=configs/gridworld.py:smoke")
    assert process.stderr.splitlines()[-1].startswith("error: --workdir: not given")


def test_a_missing_extra_is_one_line_that_names_the_command(tmp_path):
    without = f"import sys; sys.modules['mujoco'] = None; {COMMAND}"
    process = run_in(tmp_path, "-c", without, "expert", "--config=ant:smoke", "--workdir=run")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == (
        "error: environment 'ant-pinpad' needs mujoco, which is not installed:"
        " pip install 'internal_rl[ant]'"
    )


def test_a_module_of_the_package_that_is_missing_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError), needs_extra("ant", "a test"):
        import internal_rl.not_there  # noqa: F401


def test_a_config_file_imports_what_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "my_toy_values.py").write_text("PRESET = 'small'\n")
    (tmp_path / "mine.py").write_text(
        "from configs.gridworld import get_config as grid\n"
        "from my_toy_values import PRESET\n"
        "def get_config(preset=PRESET):\n    return grid(preset)\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert config_file.load_config(str(tmp_path / "mine.py")).preset == "small"
    # Nothing that was found before is hidden.
    assert sys.path[-1] == str(tmp_path)
