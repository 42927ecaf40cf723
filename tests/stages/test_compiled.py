"""Programs are compiled once for a work directory; a damaged cache costs nothing but time."""

import os
import pathlib
import subprocess
import sys

import pytest

from internal_rl.analysis.results import read_run
from internal_rl.errors import ConfigError, StageMissingError
from internal_rl.stages import compiled
from internal_rl.training.curves import curves
from tests.marks import quick
from tests.stages.test_launch import ROOT


def run_script(*arguments, **environment):
    smoke = "--config=configs/gridworld.py:smoke"
    command = [sys.executable, "-m", "tests.stages.toy_script", smoke, *arguments]
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    # Programs of the toy compile too quickly to be kept otherwise.
    inherited["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=inherited | environment
    )
    assert process.returncode == 0, process.stderr
    return process


def entries(folder):
    return sorted(folder.glob("*-cache"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run_script(f"--workdir={workdir}")
    return workdir


def test_a_run_keeps_its_programs_in_its_work_directory_and_finds_them_again(workdir):
    before = {path: path.stat().st_mtime_ns for path in entries(workdir / "compiled")}
    assert before
    # Another seed has the same programs.
    run_script(f"--workdir={workdir}", "--config.seed=1")
    assert {path: path.stat().st_mtime_ns for path in entries(workdir / "compiled")} == before


def test_what_is_compiled_is_no_stage(workdir):
    assert list(read_run(workdir)) == ["toy"]
    with pytest.raises(StageMissingError, match="there are stages toy$"):
        curves(workdir, "none")


@pytest.mark.parametrize(
    ("choice", "already", "folder", "enabled"),
    [
        ("on", "", "run/compiled", True),
        ("on", "users", "users", True),
        ("chosen", "users", "chosen", True),
        ("gs://bucket/compiled", "", "gs://bucket/compiled", True),
        ("off", "users", "users", False),
    ],
)
def test_the_flag_goes_before_what_is_set_already(choice, already, folder, enabled, monkeypatch):
    chosen = {"jax_compilation_cache_dir": already, "jax_enable_compilation_cache": True}
    monkeypatch.setattr(compiled.jax.config, "update", chosen.__setitem__)
    with monkeypatch.context() as patch:
        patch.setattr(
            type(compiled.jax.config), "jax_compilation_cache_dir", already, raising=False
        )
        compiled.keep_compiled(choice, pathlib.Path("run"))
    assert chosen == {"jax_compilation_cache_dir": folder, "jax_enable_compilation_cache": enabled}


def test_a_cache_of_ones_own_is_left_alone(tmp_path):
    run_script(f"--workdir={tmp_path}/a", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "chosen"))
    assert entries(tmp_path / "chosen") and not (tmp_path / "a" / "compiled").exists()


def test_a_refused_start_leaves_no_folder_of_its_own(tmp_path):
    there, used = tmp_path / "there", tmp_path / "used"
    there.mkdir()
    for workdir in (tmp_path / "new" / "run", there, used):
        with pytest.raises(ConfigError), compiled.nothing_left(workdir):
            (workdir / "compiled").mkdir(parents=True)
            if workdir == used:
                (workdir / "compiled" / "x-cache").touch()
            raise ConfigError("x")
    assert sorted(tmp_path.rglob("*")) == [
        there,
        used,
        used / "compiled",
        *entries(used / "compiled"),
    ]


@pytest.mark.parametrize(
    "damage", quick(["cut off and replaced", "a file in its place"], ["a file in its place"])
)
def test_a_damaged_cache_is_harmless(damage, workdir, tmp_path):
    folder = tmp_path / "compiled"
    if damage == "a file in its place":
        folder.write_text("")
    else:
        folder.mkdir()
        for index, path in enumerate(entries(workdir / "compiled")):
            content = path.read_bytes()
            content = content[: len(content) // 2] if index % 2 else b"nonsense"
            (folder / path.name).write_bytes(content)
    run_script(f"--workdir={tmp_path}")
    ours, theirs = (
        (place / "toy" / "seed_0" / "params.msgpack").read_bytes() for place in (tmp_path, workdir)
    )
    assert ours == theirs
