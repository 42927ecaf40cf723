"""Stages stopped at random moments and started again end with the same bits."""

import random
import signal

import pytest

from benchmarks.faults import LOOPS, STAGES, Faults, Round, command, rounds_of

NUM_STOPS = {"gridworld": 4, "ant": 2}
EVERY_STAGE = [(world, stage) for world in sorted(STAGES) for stage in STAGES[world]]


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize(("world", "stage"), EVERY_STAGE)
def test_a_stopped_stage_ends_with_the_bits_of_an_undisturbed_one(world, stage, faults):
    for index in range(NUM_STOPS[world]):
        number = (signal.SIGTERM, signal.SIGKILL)[index % 2]
        in_training = stage in LOOPS and index % 4 < 2
        trial = Round(world, stage, number, random.random(), in_training)
        assert faults.survived(trial) == [], trial


@pytest.mark.slow
def test_an_expert_killed_behind_its_last_round_is_finished(faults, tmp_path):
    arguments = command("ant", "expert", tmp_path, tmp_path)
    faults.finish(arguments)
    folder = tmp_path / "expert" / "seed_0"
    names = ("params.msgpack", "artifacts.npz", "metrics.jsonl")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in ("DONE", "params.msgpack", "artifacts.npz"):
        (folder / name).unlink()
    faults.finish(arguments)
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_every_stage_is_tried_before_one_comes_again():
    count = len(EVERY_STAGE)
    found = list(rounds_of(2 * count, ("gridworld", "ant"), STAGES["ant"], (15, 9), 0))
    for half in (found[:count], found[count:]):
        assert sorted((trial.world, trial.stage) for trial in half) == sorted(EVERY_STAGE)
    assert [trial.number for trial in found[:4]] == [15, 9, 15, 9]
    assert {trial.in_training for trial in found} == {True, False}
    assert not any(trial.in_training for trial in found if trial.stage in ("expert", "collect"))
    assert list(rounds_of(3, ("ant",), ("probe",), (15,), 1)) == list(
        rounds_of(3, ("ant",), ("probe",), (15,), 1)
    )
