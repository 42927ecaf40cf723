"""As much of a run as fits into some minutes; what trains is replaced, but for one slow test."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from internal_rl.errors import ConfigError, UserError
from internal_rl.stages import paper_run as paper_run_lib
from internal_rl.stages.config_file import load_config
from internal_rl.stages.paper_run import RECORD, PaperRun, minutes_of, paper_run, table, to_train
from internal_rl.stages.settings import Settings
from internal_rl.stages.weight_files import packed
from tests.training.test_loop import ROOT

WORLD = "gridworld-pinpad"


def make_run(folder, **fields):
    given = {"minutes": 12.0, "config": "configs/gridworld.py:paper"} | fields
    return PaperRun(workdir=folder / "work", out=folder / "out", **given)


def leave_stage(run, stage, steps, done=True):
    seed = run.workdir / stage / "seed_0"
    seed.mkdir(parents=True, exist_ok=True)
    lines = [{"step": step, "loss": 1.0, "seconds": 10.0 + step} for step in range(1, steps + 1)]
    (seed / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = Settings.read(load_config(run.config)).stage_config(stage).values
    (seed / "config.json").write_text(json.dumps({"config": config}))
    if done:
        (seed / "DONE").write_text(json.dumps({"steps": steps}))


@pytest.fixture
def started(monkeypatch):
    """Commands that were started; each stage is done with 5 updates at once."""
    commands = []

    def run_until(command, end, run, read=False):
        commands.append(command)
        if read:
            return 1, ""
        leave_stage(run, command[3], 5)
        return 0, ""

    monkeypatch.setattr(paper_run_lib, "_run_until", run_until)
    return commands


def test_stages_follow_each_other_and_count_as_they_stand(tmp_path, started):
    run = make_run(tmp_path, config="configs/gridworld.py:smoke")
    record = paper_run(run, WORLD)
    assert started[0][1:3] == ["-m", "benchmarks.run"]
    assert [command[3] for command in started[1:]] == list(paper_run_lib.SHARES)
    assert "--config.pretrain.steps=5" not in started[1]
    assert "--config.pretrain.steps=5" in started[2]
    assert {"--config.pretrain.steps=5", "--config.metacontroller.steps=5"} < set(started[3])
    for seeds in ("pretrain.num_seeds=1", "internal_rl.seeds_per_input=1"):
        assert all(f"--config.{seeds}" in command for command in started[1:])
    written = json.loads((tmp_path / "out" / RECORD).read_text())
    assert written["stages"]["internal_rl"]["updates"] == 5
    assert written["stages"]["internal_rl"]["updates_per_second"] == pytest.approx(1.0)
    assert list(written["files"]) == [path.name for path in packed(tmp_path / "out")]
    assert "internal_rl: 5 updates, 1 per second" in table(record, tmp_path / "out")


def test_what_is_shipped_is_taken_as_it_stands(tmp_path, started):
    paper_run(make_run(tmp_path), WORLD)
    assert [command[3] for command in started[1:]] == ["metacontroller", "internal_rl"]
    as_it_was = (
        "pretrain.steps=21248",
        "pretrain.optimiser=muon",
        "environment.solvable_only=True",
    )
    assert {f"--config.{field}" for field in as_it_was} < set(started[1])
    again = make_run(tmp_path / "again", stages=("pretrain",))
    paper_run(again, WORLD)
    assert started[-1][3] == "pretrain" and "21248" not in str(started[-1])


def test_a_later_run_goes_on_from_what_an_earlier_one_left(tmp_path, started):
    paper_run(make_run(tmp_path, stages=("pretrain",)), WORLD)
    later = make_run(tmp_path / "later", weights=str(tmp_path / "out"))
    paper_run(later, WORLD)
    assert [command[3] for command in started[-2:]] == ["metacontroller", "internal_rl"]
    other = make_run(tmp_path / "other", weights=str(tmp_path / "out"), config="gridworld:small")
    with pytest.raises(ConfigError, match=r"--config: gridworld:small given, .* is of configs"):
        paper_run(other, WORLD)
    with pytest.raises(ConfigError, match=f"--weights: no {RECORD} in"):
        paper_run(make_run(tmp_path / "other", weights=str(tmp_path)), WORLD)


def test_a_fault_of_a_stage_is_told_after_what_was_trained_is_packed(tmp_path, monkeypatch):
    def run_until(command, end, run, read=False):
        if not read:
            leave_stage(run, command[3], 5, done=command[3] == "pretrain")
        return (0, "") if command[3] == "pretrain" else (2, "")

    monkeypatch.setattr(paper_run_lib, "_run_until", run_until)
    with pytest.raises(UserError, match="metacontroller: ended with exit code 2"):
        paper_run(make_run(tmp_path, config="configs/gridworld.py:smoke"), WORLD)
    assert set(json.loads((tmp_path / "out" / RECORD).read_text())["stages"]) == set(
        paper_run_lib.SHARES
    )


CHILD = """
import pathlib, signal, sys, time

def stop(*_):
    pathlib.Path("saved").write_text("")
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
pathlib.Path("started").write_text("")
time.sleep(60)
"""


def test_told_to_stop_it_stops_what_trains_and_packs_what_is_there(tmp_path):
    run = make_run(tmp_path)
    leave_stage(run, "pretrain", 3)
    script = (
        "from internal_rl.stages import paper_run as lib\n"
        f"lib._CHILD = {CHILD!r}\n"
        "lib._measure = lambda *_: {}\n"
        "lib._arguments = lambda *_: []\n"
        "lib.launch_paper_run()\n"
    )
    command = [sys.executable, "-c", script, "--out=out", "--workdir=work"]
    paths = {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | paths, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143 and "interrupted: SIGTERM" in said, said
    assert (tmp_path / "saved").exists()
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["trained"] == ["metacontroller"] and record["files"]
    assert record["stages"]["pretrain"]["updates"] == 3


def test_the_accelerator_is_left_to_the_stages(tmp_path):
    code = "import os; print(os.environ['JAX_PLATFORMS'])"
    script = (
        "import jax\n"
        "from internal_rl.stages import paper_run as lib\n"
        f"lib._CHILD = {code!r}\n"
        "lib._measure = lambda *_: {}\n"
        "lib.launch_paper_run()\n"
    )
    # The world of the ant asks which backend there is; there is none of this kind.
    command = [sys.executable, "-c", script, "--config=configs/ant.py:smoke", "--out=out"]
    process = subprocess.run(
        [*command, f"--workdir={tmp_path}/work", f"--out={tmp_path}/out", "--stages=pretrain"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "\ncuda\n" in process.stderr


def test_help_lists_the_flags():
    command = [sys.executable, "-m", "experiments.paper_run", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0
    assert all(f"--{flag}:" in said.stdout for flag in ("minutes", "out", "stages", "weights"))


def test_stages_that_are_not_finished_are_trained_and_then_the_last_one(tmp_path):
    run = make_run(tmp_path)
    assert to_train(run) == ("pretrain", "metacontroller", "internal_rl")
    leave_stage(run, "pretrain", 5)
    leave_stage(run, "metacontroller", 5, done=False)
    assert to_train(run) == ("metacontroller", "internal_rl")
    for stage in ("metacontroller", "internal_rl"):
        leave_stage(run, stage, 5)
    assert to_train(run) == ("internal_rl",)


def test_a_stage_is_not_trained_further_under_one_that_stands_on_it(tmp_path):
    run = make_run(tmp_path, stages=("pretrain",))
    leave_stage(run, "pretrain", 5)
    assert to_train(run) == ("pretrain",)
    leave_stage(run, "metacontroller", 5)
    with pytest.raises(ConfigError, match=r"--stages: 'pretrain' .* metacontroller .* another"):
        to_train(run)


def test_minutes_are_shared_out_among_the_stages_that_are_left():
    assert minutes_of(["pretrain", "metacontroller", "internal_rl"], 12.0) == pytest.approx(6.0)
    assert minutes_of(["metacontroller", "internal_rl"], 6.0) == pytest.approx(4.0)
    assert minutes_of(["internal_rl"], 2.0) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minutes": 0.0}, "--minutes: 0.0 given, allowed is more than 0"),
        ({"minutes": float("nan")}, "--minutes: nan given"),
        ({"seeds": 0}, "--seeds: 0 given, allowed is 1 or more"),
        ({"stages": ("probe",)}, "--stages: 'probe' given, allowed are pretrain"),
    ],
)
def test_fields_out_of_range_are_refused(tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        make_run(tmp_path, **fields)


def script(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.paper_run", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_script_tells_faults_in_one_line(tmp_path):
    process = script("--config=configs/gridworld.py:tiny", f"--out={tmp_path}/out")
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: config: preset 'tiny' is unknown, allowed are")
    assert not pathlib.Path(tmp_path / "out").exists()


@pytest.mark.slow
def test_three_stages_in_minutes_and_on_from_their_files(tmp_path):
    config = "--config=configs/gridworld.py:smoke"
    process = script(config, "--minutes=8", f"--out={tmp_path}/a", "--config.pretrain.steps=10000")
    assert process.returncode == 0, process.stderr
    record = json.loads((tmp_path / "a" / RECORD).read_text())
    assert 8 < record["stages"]["pretrain"]["updates"] < 10_000
    assert all(found["finished"] for found in record["stages"].values())
    assert 0 < record["speed"]["share_of_matmul_rate"] < 1
    before = record["stages"]["internal_rl"]["updates"]
    process = script(
        config,
        "--minutes=4",
        f"--out={tmp_path}/b",
        f"--weights={tmp_path}/a",
        f"--config.internal_rl.steps={before + 2}",
    )
    assert process.returncode == 0, process.stderr
    record = json.loads((tmp_path / "b" / RECORD).read_text())
    assert record["stages"]["internal_rl"]["updates"] == before + 2
