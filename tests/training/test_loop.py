"""The loop trains, saves and resumes to the same bits; faults end in one line."""

import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.errors import (
    ConfigError,
    DivergenceError,
    StageConflictError,
    StageMissingError,
    StorageError,
)
from internal_rl.training import checkpoints, loop
from internal_rl.training.loop import run_stage
from internal_rl.training.metrics import MetricsWriter, read_metrics
from internal_rl.training.program import Program
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_artifacts, load_stage
from tests.training.toy import make_stage

ROOT = pathlib.Path(__file__).parents[2]


def interrupt_at(monkeypatch, step):
    """Ends the run with a KeyboardInterrupt in place of the metrics of `step`."""
    write = MetricsWriter.write

    def interrupted(self, line_step, *arguments):
        if line_step == step:
            raise KeyboardInterrupt
        write(self, line_step, *arguments)

    monkeypatch.setattr(MetricsWriter, "write", interrupted)


def run_interrupted(monkeypatch, stage, workdir, step):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, step)
        run_stage(stage, workdir)


def folder(workdir, seed=0):
    return pathlib.Path(workdir) / "toy" / f"seed_{seed}"


def checkpoint_steps(workdir, seed=0):
    return sorted(int(path.name) for path in (folder(workdir, seed) / "checkpoints").iterdir())


def assert_same_params(workdir, other, seed=0):
    ours, theirs = load_stage(workdir, "toy", seed)[0], load_stage(other, "toy", seed)[0]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def metrics_without_seconds(workdir, seed=0):
    return [{**line, "seconds": 0} for line in read_metrics(folder(workdir, seed))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    run_stage(make_stage(), workdir)
    return workdir


def test_training_lowers_the_loss_and_leaves_every_file(undisturbed):
    losses = [line["loss"] for line in read_metrics(folder(undisturbed))]
    assert len(losses) == 10 and losses[-1] < losses[0]
    names = {path.name for path in folder(undisturbed).iterdir()}
    assert {"config.json", "versions.json", "DONE", "params.msgpack", "events"} <= names
    assert checkpoint_steps(undisturbed) == [32, 40]


def test_load_stage_returns_plain_dictionaries_and_the_config(undisturbed):
    params, config = load_stage(undisturbed, "toy", 0)
    assert set(params["layer"]) == {"weight", "bias"}
    assert isinstance(params["layer"]["weight"], np.ndarray)
    assert config == {"toy": {"learning_rate": 0.05, "steps": 40}}


@pytest.mark.slow
def test_killed_at_random_moments_then_resumed_gives_the_same_bits(tmp_path):
    seeds, num_steps = (0, 1), 400
    run_stage(make_stage(num_steps, seeds, log_every=20, checkpoint_every=40), tmp_path / "whole")
    command = [sys.executable, "-m", "tests.training.toy", str(tmp_path / "killed"), "400", "2"]
    metrics = folder(tmp_path / "killed", 1) / "metrics.jsonl"
    generator = random.Random(os.getpid())
    for lines in (3, 11):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
                time.sleep(generator.uniform(0.0, 0.05))
                process.send_signal(signal.SIGKILL)
                process.wait()
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    for seed in seeds:
        assert_same_params(tmp_path / "whole", tmp_path / "killed", seed)
        whole, killed = (
            metrics_without_seconds(tmp_path / name, seed) for name in ("whole", "killed")
        )
        assert whole == killed


def test_metrics_behind_the_checkpoint_are_cut_on_resume(tmp_path, monkeypatch, undisturbed):
    run_interrupted(monkeypatch, make_stage(), tmp_path, 24)
    with open(folder(tmp_path) / "metrics.jsonl", "a") as file:
        file.write('{"step": 24, "lo')
    run_stage(make_stage(), tmp_path)
    assert metrics_without_seconds(tmp_path) == metrics_without_seconds(undisturbed)
    assert_same_params(tmp_path, undisturbed)


def test_metrics_lost_before_the_checkpoint_do_not_hinder_resuming(
    tmp_path, monkeypatch, undisturbed
):
    run_interrupted(monkeypatch, make_stage(), tmp_path, 28)
    metrics = folder(tmp_path) / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:100])
    run_stage(make_stage(), tmp_path)
    assert_same_params(tmp_path, undisturbed)


def test_seeds_left_at_different_steps_resume_from_the_step_they_share(tmp_path, monkeypatch):
    stage = make_stage(seeds=(0, 1))
    run_stage(stage, tmp_path / "whole")
    run_interrupted(monkeypatch, stage, tmp_path / "torn", 28)
    newest = folder(tmp_path / "torn", 1) / "checkpoints" / "24"
    newest.rename(tmp_path / "away")
    run_stage(stage, tmp_path / "torn")
    for seed in (0, 1):
        assert_same_params(tmp_path / "whole", tmp_path / "torn", seed)


def test_what_only_some_seeds_have_hinders_no_later_checkpoint(tmp_path, monkeypatch):
    """Orbax saves no step where a later one is: the run would begin from the start in the end."""
    stage = make_stage(seeds=(0, 1))
    run_stage(stage, tmp_path / "whole")
    torn = tmp_path / "torn"
    run_interrupted(monkeypatch, stage, torn, 28)
    assert checkpoint_steps(torn, 0)[-1] == 24
    (folder(torn, 1) / "checkpoints" / "24").rename(tmp_path / "away")
    often = make_stage(seeds=(0, 1), checkpoint_minutes=1e-9)
    for _ in range(2):
        run_interrupted(monkeypatch, often, torn, 20)
        saved = [checkpoint_steps(torn, seed) for seed in (0, 1)]
        assert saved[0] == saved[1] and 16 < saved[0][-1] <= 20
    assert {path.name for path in (folder(torn) / "damaged_checkpoints").iterdir()} == {"24_0"}
    run_stage(stage, torn)
    for seed in (0, 1):
        assert_same_params(tmp_path / "whole", torn, seed)


def test_seeds_of_one_program_equal_runs_of_single_seeds(tmp_path, undisturbed):
    run_stage(make_stage(seeds=(0, 3)), tmp_path / "both")
    run_stage(make_stage(seeds=(3,)), tmp_path / "single")
    for seed, other in ((0, undisturbed), (3, tmp_path / "single")):
        both, single = (
            load_stage(tmp_path / "both", "toy", seed)[0],
            load_stage(other, "toy", seed)[0],
        )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), both, single)


def test_seeds_begun_together_go_on_together(tmp_path, monkeypatch):
    run_interrupted(monkeypatch, make_stage(seeds=(0, 1)), tmp_path, 20)
    with pytest.raises(StageConflictError, match=r"toy: seeds .*\[0, 1\]"):
        run_stage(make_stage(seeds=(0,)), tmp_path)
    run_stage(make_stage(seeds=(0, 1, 2)), tmp_path)
    run_stage(make_stage(seeds=(0, 1)), tmp_path / "whole")
    assert_same_params(tmp_path, tmp_path / "whole", 1)
    assert StageDirectory(tmp_path, "toy", 2).finished


def test_a_finished_stage_is_not_run_again(undisturbed):
    def fail(*_):
        raise AssertionError("a finished stage was started")

    run_stage(dataclasses.replace(make_stage(), init=fail, update=fail), undisturbed)


def test_an_update_is_compiled_once(tmp_path):
    traced = []
    stage = make_stage(num_steps=20)

    def update(state, frozen):
        traced.append(1)
        return stage.update(state, frozen)

    program = loop.Program(dataclasses.replace(stage, update=update))
    state, _ = program.advance(program.initial_state(), 3)
    first = len(traced)
    for count in (1, 2, 3):
        state, _ = program.advance(state, count)
    assert len(traced) == first


def test_nan_loss_stops_with_the_last_good_checkpoint_kept(tmp_path):
    stage = make_stage(break_loss_at=20)
    for _ in range(2):
        with pytest.raises(DivergenceError, match="loss not finite.*checkpoint of step 16 is kept"):
            run_stage(stage, tmp_path)
        assert checkpoint_steps(tmp_path) == [8, 16]
        assert read_metrics(folder(tmp_path))[-1]["step"] == 20
    assert not StageDirectory(tmp_path, "toy", 0).finished


def test_parameters_that_turn_nan_are_never_saved(tmp_path):
    # The folder of a variant is not the section whose rate is to be lowered.
    stage = dataclasses.replace(make_stage(break_params_at=23), name="toy_variant")
    told = "toy_variant: parameters not finite by step 24 .* a lower --config.toy.learning_rate in"
    with pytest.raises(DivergenceError, match=told):
        run_stage(stage, tmp_path)
    checkpoints = tmp_path / "toy_variant" / "seed_0" / "checkpoints"
    assert sorted(int(path.name) for path in checkpoints.iterdir()) == [8, 16]


def test_another_config_is_refused_by_the_field_that_differs(undisturbed):
    before = {p: p.stat().st_mtime_ns for p in folder(undisturbed).rglob("*")}
    with pytest.raises(StageConflictError, match=r"toy.learning_rate: 0.1 asked.*with 0.05"):
        run_stage(make_stage(learning_rate=0.1), undisturbed)
    with pytest.raises(StageConflictError, match=r"toy.learning_rate"):
        load_stage(undisturbed, "toy", 0, config=make_stage(learning_rate=0.1).config)
    assert {p: p.stat().st_mtime_ns for p in folder(undisturbed).rglob("*")} == before


def test_a_missing_stage_names_the_command_that_makes_it(tmp_path, monkeypatch):
    with pytest.raises(StageMissingError, match=r"run: internal-rl toy"):
        load_stage(tmp_path, "toy", 0)
    run_interrupted(monkeypatch, make_stage(), tmp_path, 28)
    with pytest.raises(StageMissingError, match=r"run: this"):
        load_stage(tmp_path, "toy", 0, command="this")


def test_a_directory_in_use_is_refused(tmp_path):
    directory = StageDirectory(tmp_path, "toy", 0)
    directory.begin(make_stage().config, [0])
    with pytest.raises(StageConflictError, match="another process"):
        run_stage(make_stage(), tmp_path)
    directory.release()
    run_stage(make_stage(num_steps=40), tmp_path)


@pytest.mark.parametrize("number", (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP))
def test_a_file_system_without_locks_is_worked_on_with_a_word(
    number, tmp_path, monkeypatch, caplog
):
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    run_stage(make_stage(6), tmp_path)
    assert folder(tmp_path).joinpath("DONE").exists()
    assert "has no locks" in caplog.text and "nothing else works there" in caplog.text


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(StorageError, match="must be a writable folder") as caught:
        run_stage(make_stage(), file / "workdir")
    assert "\n" not in str(caught.value)
    assert file.read_text() == "not a folder"


def test_a_disk_that_fills_up_is_one_line_and_can_be_resumed(tmp_path, monkeypatch, undisturbed):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("tensorboardX.event_file_writer.EventsWriter.flush", full)
        with pytest.raises(StorageError, match="No space left on device"):
            run_stage(make_stage(), tmp_path)
    save = checkpoints.Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoints.Checkpoints,
            "save",
            lambda self, step, state, sums: full() if step == 24 else save(self, step, state),
        )
        with pytest.raises(StorageError, match="No space left on device"):
            run_stage(make_stage(), tmp_path)
    run_stage(make_stage(), tmp_path)
    assert_same_params(tmp_path, undisturbed)


def test_evaluations_references_snapshots_and_artifacts_are_written(tmp_path, undisturbed):
    stage = make_stage(
        seeds=(0, 1),
        evaluate=lambda state, frozen: {"bias": state.params["layer"]["bias"] - frozen["bias"]},
        evaluate_every=20,
        references=lambda: {"noise": 0.25},
        snapshot_steps=(12,),
        artifacts=lambda state, frozen: {"target": frozen["target"] + jnp.float32(0.5)},
    )
    run_stage(stage, tmp_path)
    lines = read_metrics(folder(tmp_path, 1))
    assert [line["step"] for line in lines if "evaluation/bias" in line] == [20, 40]
    assert all(line["reference/noise"] == 0.25 for line in lines)
    early, late = (load_stage(tmp_path, "toy", 1, step=step)[0] for step in (12, None))
    assert np.abs(early["layer"]["weight"] - late["layer"]["weight"]).max() > 0.01
    target = load_artifacts(tmp_path, "toy", 1)["target"]
    np.testing.assert_allclose(target, np.arange(8) + 10.5)


def test_calls_that_take_long_are_cut_and_change_no_parameter(tmp_path, monkeypatch, undisturbed):
    counts, advance = [], Program.advance

    def watched_advance(self, state, count):
        counts.append(count)
        return advance(self, state, count)

    monkeypatch.setattr(Program, "advance", watched_advance)
    monkeypatch.setattr(loop, "LONGEST_CALL_SECONDS", 0.0)
    run_stage(make_stage(), tmp_path)
    assert counts[0] == 3 and set(counts[1:]) == {1} and sum(counts) == make_stage().num_steps
    assert_same_params(tmp_path, undisturbed)


def test_steps_that_do_not_divide_are_still_all_done(tmp_path):
    run_stage(make_stage(num_steps=11), tmp_path)
    assert [line["step"] for line in read_metrics(folder(tmp_path))] == [4, 8, 11]
    assert checkpoint_steps(tmp_path) == [8, 11]


@pytest.mark.parametrize(
    ("field", "value"), [("num_steps", 0), ("checkpoint_every", 6), ("snapshot_steps", (3,))]
)
def test_impossible_schedules_name_the_field(field, value):
    with pytest.raises(ConfigError, match=f"toy.{field}"):
        make_stage(**{field: value})


def test_how_a_stage_is_computed_may_change_and_is_written_down(tmp_path):
    run_stage(make_stage(8, computed={"precision": "float32"}), tmp_path)
    run_stage(make_stage(16, computed={"precision": "bfloat16"}), tmp_path)
    versions = json.loads((tmp_path / "toy" / "seed_0" / "versions.json").read_text())
    assert versions["precision"] == "float32"
    assert versions["later"] == [{"from_step": 8, "precision": "bfloat16"}]
