"""Runs whose work directory is on a store: the same bits as on this machine, also after a kill."""

import json

import numpy as np
import pytest

from internal_rl.analysis.results import read_run
from internal_rl.errors import ConfigError, StageMissingError
from internal_rl.paths import as_path
from internal_rl.training import checkpoint_copies, loop
from internal_rl.training.checkpoints import Checkpoints
from internal_rl.training.curves import curves
from internal_rl.training.loop import run_stage
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_artifacts, load_stage
from tests.stores import store
from tests.training.test_loop import (
    assert_same_params,
    make_stage,
    metrics_without_seconds,
    run_interrupted,
)

SEEDS = (0, 1)


def whole_stage(**more):
    return make_stage(
        seeds=SEEDS,
        snapshot_steps=(8,),
        artifacts=lambda state, frozen: {"bias": np.asarray(state.params["layer"]["bias"])},
        **more,
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("local")
    run_stage(whole_stage(), workdir)
    return workdir


@pytest.fixture(params=["gs", "s3"])
def place(request, monkeypatch):
    """Name of a work directory on a store, and the objects of the store."""
    with store(monkeypatch, request.param) as objects:
        yield f"{request.param}://bucket/runs/one", objects


def lines_of(workdir, seed):
    lines = read_metrics(as_path(workdir) / f"toy/seed_{seed}")
    return [{**line, "seconds": 0} for line in lines]


def steps_on(place, seed=0):
    workdir, objects = place
    folder = f"{workdir}/toy/seed_{seed}/checkpoints"
    return {name[len(folder) + 1 :].partition("/")[0] for name in objects.below(folder)}


def test_a_run_on_a_store_leaves_what_a_run_on_this_machine_leaves(place, local):
    workdir, objects = place
    run_stage(whole_stage(), workdir)
    for seed in SEEDS:
        assert_same_params(workdir, local, seed)
        assert lines_of(workdir, seed) == metrics_without_seconds(local, seed)
        ours, theirs = (load_artifacts(place, "toy", seed) for place in (workdir, local))
        assert ours["bias"] == theirs["bias"]
        np.testing.assert_array_equal(
            load_stage(workdir, "toy", seed, step=8)[0]["layer"]["weight"],
            load_stage(local, "toy", seed, step=8)[0]["layer"]["weight"],
        )
        assert {"32", "40"} <= steps_on(place, seed)
        folder = f"{workdir}/toy/seed_{seed}"
        assert json.loads(objects[f"{folder}/DONE"]) == {"steps": 40}
        assert [name for name in objects.below(f"{folder}/events") if objects[name]]
        assert not [name for name in objects if name.endswith((".tmp", ".lock"))]


def test_an_interrupted_run_on_a_store_goes_on_to_the_same_bits(place, local, monkeypatch):
    workdir, _ = place
    run_interrupted(monkeypatch, whole_stage(), workdir, 28)
    assert not StageDirectory(workdir, "toy", 0).finished
    with pytest.raises(StageMissingError, match="toy/seed_0: not there or not finished"):
        load_stage(workdir, "toy", 0)
    run_stage(whole_stage(), workdir)
    for seed in SEEDS:
        assert_same_params(workdir, local, seed)
        assert lines_of(workdir, seed) == metrics_without_seconds(local, seed)


def test_lines_are_on_the_store_before_their_checkpoint(place, monkeypatch):
    workdir, objects = place
    written = []

    def save(self, step, *_):
        name = f"{workdir}/toy/seed_0/metrics.jsonl"
        written.append((step, json.loads(objects[name].splitlines()[-1])["step"]))

    monkeypatch.setattr(Checkpoints, "save", save)
    run_stage(make_stage(), workdir)
    assert written == [(step, step) for step in (8, 16, 24, 32, 40)]
    # Not line by line: stores take a few writes of the same name in a minute.
    metrics = [name for name in objects.writes if name.endswith("metrics.jsonl")]
    assert len(metrics) == len(written)


def test_a_finished_run_on_a_store_is_left_as_it_is_and_can_be_trained_further(place):
    workdir, objects = place
    run_stage(make_stage(), workdir)
    objects.writes.clear()
    run_stage(make_stage(), workdir)
    assert not objects.writes
    run_stage(make_stage(num_steps=48), workdir)
    assert json.loads(objects[f"{workdir}/toy/seed_0/DONE"]) == {"steps": 48}
    assert [line["step"] for line in lines_of(workdir, 0)] == list(range(4, 49, 4))


def test_results_and_curves_are_read_from_a_store(place):
    workdir, objects = place
    run_stage(whole_stage(), workdir)
    run = read_run(workdir)
    assert list(run) == ["toy"] and [results.seed for results in run["toy"]] == [0, 1]
    assert run["toy"][0].artifacts["bias"].shape == ()
    assert len(run["toy"][1].metrics) == 10
    assert len(curves(workdir)) == 20


def test_a_checkpoint_that_was_cut_off_on_its_way_to_the_store_does_not_count(monkeypatch, local):
    with store(monkeypatch, "s3") as objects:
        workdir = "s3://bucket/run"
        run_interrupted(monkeypatch, whole_stage(), workdir, 28)
        folder = f"{workdir}/toy/seed_1/checkpoints"
        assert f"{folder}/24/WHOLE" in objects
        del objects[f"{folder}/24/WHOLE"]
        run_stage(whole_stage(), workdir)
        for seed in SEEDS:
            assert_same_params(workdir, local, seed)
        # What the other seed alone has is moved: with it no later checkpoint could be saved.
        aside = f"{workdir}/toy/seed_0/damaged_checkpoints/24_0/"
        assert any(name.startswith(aside) for name in objects)


def test_several_processes_are_refused_where_checkpoints_are_copied(monkeypatch):
    monkeypatch.setattr(loop.hosts, "several", lambda: True)
    with store(monkeypatch, "s3") as objects:
        with pytest.raises(ConfigError, match="--workdir: s3://bucket/run given, allowed for sev"):
            run_stage(make_stage(), "s3://bucket/run")
        assert not objects


def test_which_stores_orbax_writes_itself():
    assert not checkpoint_copies.needs_copies(as_path("runs/one"))
    assert not checkpoint_copies.needs_copies(as_path("gs://bucket/run"))
    assert checkpoint_copies.needs_copies(as_path("s3://bucket/run"))
