"""The command line refuses bad input in one line that names the field, with exit code 2."""

import dataclasses
import re
import signal
import subprocess
import sys

import pytest

from configs import gridworld
from internal_rl import pretrained
from internal_rl.errors import ConfigError, StageConflictError
from internal_rl.stages import config_file, launch
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from tests.training.test_loop import ROOT


def test_a_signal_that_a_library_turns_into_a_fault_of_its_own_is_a_stop(monkeypatch):
    left = []
    monkeypatch.setattr(launch, "leave", lambda interrupted: left.append(interrupted.exit_code))

    def action():
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            raise ImportError("initialization failed") from None

    launch._exit_with_one_line(action)
    assert left == [130]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--minutes=nan", "--minutes: nan given, allowed is 0 or more"),
        ("--seeds=0,x", "--seeds: 'x' given, allowed are whole numbers such as 0,2"),
        ("--seeds=7", "--seeds: 7 given, allowed for probe is 0"),
        ("--seeds=", "--seeds: none given, allowed for probe is 0"),
    ],
)
def test_flags_of_a_stage_are_refused_in_one_line(flag, message, tmp_path):
    flags = ["--config=configs/gridworld.py:smoke", f"--workdir={tmp_path / 'run'}", flag]
    # By its own script, or by the one of all stages.
    scripts = [["experiments.probe"], ["experiments", "--stage", "probe"]]
    for script in scripts if flag == "--seeds=7" else scripts[:1]:
        command = [sys.executable, "-m", *script, *flags]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert error_line(process) == f"error: {message}"
        assert not (tmp_path / "run").exists()


def test_what_libraries_say_at_the_end_of_a_failed_process_is_left_out(tmp_path):
    code = (
        "from internal_rl.errors import UserError\n"
        "from internal_rl.stages import launch\n"
        "class Loop:\n"
        "    def __del__(self):\n"
        "        raise RuntimeError('Event loop is closed')\n"
        "def main(settings, places):\n"
        "    raise UserError('no space')\n"
        "kept = [Loop()]\n"
        "launch.run(main)\n"
    )
    command = [sys.executable, "-c", code, "--config=configs/gridworld.py:smoke"]
    command += [f"--workdir={tmp_path / 'run'}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert error_line(process) == "error: no space"
    assert "Event loop" not in process.stderr


def run_script(*arguments):
    command = [sys.executable, "-m", "tests.stages.toy_script", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def error_line(process):
    """The one line of a refused command; whatever the log said is no part of it."""
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    lines = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert lines == process.stderr.splitlines()[-1:]
    return lines[0]


def test_a_good_command_runs_and_logs_the_thread_guard(tmp_path):
    process = run_script(
        "--config=configs/gridworld.py:smoke", f"--workdir={tmp_path}", "--config.seed=3"
    )
    assert process.returncode == 0, process.stderr
    assert "host threads" in process.stderr
    assert (tmp_path / "toy" / "seed_3" / "DONE").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/gridworld.py:huge"], "preset 'huge' .* smoke, small, paper"),
        (["--config.pretrain.steps=1.5"], r"config.pretrain.steps: '1.5' .* a whole number"),
        (["--config.base.block=lstm"], r"config.base.block: 'lstm' .* hawk, transformer"),
        (["--wrkdir=x"], "wrkdir.*workdir"),
        (["--upstream=nowhere"], "--upstream: 'nowhere' is not there, allowed are work dir"),
        (["--config=configs/gridworld.py:paper"], "run: python -m experiments.pretrain --config"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    workdir = tmp_path / "run"
    line = error_line(run_script(*arguments, f"--workdir={workdir}"))
    assert re.search(message, line), line
    assert not workdir.exists()


def test_a_workdir_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("")
    line = error_line(run_script(f"--workdir={tmp_path}/file/run"))
    assert "--workdir must be a writable folder" in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.pretrain.stepz=3", "config.pretrain.stepz: unknown field.*steps_per_call"),
        ("--config.nope.x=3", "config.nope: unknown field, allowed in config: base, compile, data"),
        ("--config.preset.x=3", "config.preset: has no fields"),
        ("--config.raw_rl.num_seeds=3", "config.raw_rl.num_seeds: .* allowed is seeds_per_input"),
    ],
)
def test_unknown_fields_are_named_with_their_neighbours(override, message):
    with pytest.raises(ConfigError, match=message):
        launch._check_overrides("configs/gridworld.py:small", ["script", override])


def test_help_lists_the_flags(tmp_path):
    process = run_script("--help")
    assert process.returncode == 0
    for expected in ("--workdir", "--upstream", "--loggers", "--config.SECTION.FIELD=VALUE"):
        assert expected in process.stdout
    assert "chex" not in process.stdout


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="config: 'configs/moon.py' is not there"):
        config_file.load_config("configs/moon.py:small")


def test_importing_the_package_defines_no_flags():
    code = (
        "import importlib, pkgutil\n"
        "from absl import flags\n"
        "import internal_rl\n"
        "left_out = ('internal_rl.stages.launch', 'internal_rl.stages.quickstart')\n"
        "for module in pkgutil.walk_packages(internal_rl.__path__, 'internal_rl.'):\n"
        "    if module.name not in left_out:\n"
        "        importlib.import_module(module.name)\n"
        "defined = {m for m in flags.FLAGS.flags_by_module_dict() if not m.startswith('absl')}\n"
        "assert not {m for m in defined if 'internal_rl' in m}, defined\n"
        "assert not {'config', 'workdir', 'upstream'} & set(flags.FLAGS), list(flags.FLAGS)\n"
        "import internal_rl.stages.launch\n"
        "assert {'config', 'workdir', 'upstream'} <= set(flags.FLAGS)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_the_grid_world_needs_neither_mujoco_nor_brax():
    code = (
        "import sys\n"
        "from internal_rl.stages import Settings\n"
        "from internal_rl.stages.config_file import load_config\n"
        "import internal_rl.stages.trained\n"
        "Settings.read(load_config('configs/gridworld.py:smoke'))\n"
        "heavy = {'mujoco', 'brax'} & {name.partition('.')[0] for name in sys.modules}\n"
        "assert not heavy, heavy\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_a_config_file_from_outside_brings_its_world_and_its_stages(tmp_path):
    def run(stage, *arguments):
        chosen = ("--config=tests/stages/own_config.py", *arguments, f"--workdir={tmp_path}")
        command = [sys.executable, "-m", "experiments", f"--stage={stage}", *chosen]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    line = error_line(run("late", "--config.late.target=3.0"))
    assert line.endswith(
        "run: python -m experiments --stage=early --config=tests/stages/own_config.py"
        f" --config.late.target=3.0 --workdir={tmp_path}"
    )
    for stage in ("early", "late"):
        process = run(stage)
        assert process.returncode == 0, process.stderr
        assert (tmp_path / stage / "seed_0" / "DONE").exists()
    assert "no such stage in this config" in error_line(run("moon"))


def test_what_the_quickstart_shortens_stays_as_it_was_asked_for():
    from internal_rl.stages.quickstart import shortened

    settings = Settings.read(gridworld.get_config("small"))
    short = settings.quickstart["internal_rl"]["steps"]
    assert shortened(settings, ()).internal_rl.steps == short
    asked = settings.updated("internal_rl", steps=7)
    found = shortened(asked, {"internal_rl.steps"})
    assert found.internal_rl.steps == 7
    assert found.raw_rl.steps == settings.quickstart["raw_rl"]["steps"]
    # What does not fit to the few updates of the quickstart fits to a stage.
    config = gridworld.get_config("small")
    config.raw_rl.warmup_steps = 50
    warm = Settings.read(config)
    with pytest.raises(ConfigError, match=r"raw_rl.warmup_steps: 50 .*quickstart takes raw_rl.st"):
        shortened(warm)


def test_the_quickstart_looks_at_what_is_there_before_it_copies_or_trains(tmp_path):
    from internal_rl.stages import quickstart

    settings, places = Settings.read(gridworld.get_config("small")), Places(tmp_path)
    quickstart._check_what_is_there(settings, places)
    quickstart._check_not_shipped(places)
    pretrained.install("gridworld-pinpad", "small", tmp_path, "pretrain")
    quickstart._check_what_is_there(settings, places)
    other = settings.updated("pretrain", learning_rate=0.5)
    with pytest.raises(StageConflictError, match="pretrain.learning_rate: 0.5 asked for"):
        quickstart._check_what_is_there(other, places)
    with pytest.raises(ConfigError, match="--from_scratch: .*pretrain/seed_0 holds what is shipp"):
        quickstart._check_not_shipped(places)
    several = dataclasses.replace(
        places, arguments=("--config=gridworld:small", "--config.raw_rl.seeds_per_input=3")
    )
    three = settings.updated("raw_rl", seeds_per_input=3)
    with pytest.raises(ConfigError, match="raw_rl.seeds_per_input: given, but the quickstart has"):
        quickstart.main(three, several)
