"""Which trajectories a stage learns from: those of pretraining, or the cleaner ones (method §2)."""

import jax
import numpy as np
import pytest

from configs import ant, gridworld
from internal_rl.errors import ConfigError
from internal_rl.experts.dataset import Dataset
from internal_rl.stages import build, collect
from internal_rl.stages.build import _checksum_of_data, make_base
from internal_rl.stages.places import Places
from internal_rl.stages.running import make_stage
from internal_rl.stages.settings import Settings
from tests.parameters import drawn
from tests.stages.test_seeds import finish

NOISY, CLEAN = (0.5, "fork"), (0.0, "axis")
# What a stage reads, and whether its trajectories end with a token of their last observation.
STAGES = {
    "pretrain": (NOISY, False),
    "probe": (NOISY, False),
    "steer": (CLEAN, False),
    "metacontroller": (CLEAN, True),
    "compile": (CLEAN, True),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The stages on a base model that was never trained, with data that can be told apart."""
    config = gridworld.get_config("smoke")
    config.data.update({"epsilon": NOISY[0], "ties": NOISY[1]})
    config.data.update({"clean_epsilon": CLEAN[0], "clean_ties": CLEAN[1]})
    settings, workdir = Settings.read(config), tmp_path_factory.mktemp("data")
    params = drawn(make_base(settings).initial_params)
    finish(settings, workdir, "pretrain", lambda key: params)
    return lambda stage: make_stage(settings, stage, Places(workdir))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_from_its_data(made, stage):
    source = made(stage).update.__self__.source
    found = (source.epsilon, source.ties), source.include_terminal
    assert found == STAGES[stage]


def test_the_cleaner_dataset_of_the_ant_holds_the_mean_actions_on_the_same_tasks():
    config = ant.get_config("smoke")
    config.collect.curriculum_tasks = "032,103"
    found = collect.datasets(Settings.read(config))
    means = {name: deterministic for name, (_, deterministic) in found.items()}
    assert means == {"pretraining": False, "clean": True, "curriculum": False}
    tasks = {name: tasks for name, (tasks, _) in found.items()}
    assert tasks["clean"] == tasks["pretraining"] != tasks["curriculum"]


def test_the_data_of_a_stage_have_a_checksum():
    arrays = {"data": {"train": np.arange(6.0)}, "curriculum": None}
    found = _checksum_of_data(arrays)
    assert len(found) == 64 and found == _checksum_of_data(dict(arrays))
    key = jax.random.key(0)
    for other in (
        arrays | {"curriculum": np.zeros(1)},
        {"data": {"train": np.arange(6.0).reshape(2, 3)}},
        {"data": {"train": np.arange(6)}},
        {"data": {"train": np.arange(6.0) + np.eye(6)[5]}},
        {"data": {"train": jax.random.split(key)}},
        {"data": {"train": jax.numpy.arange(6.0, dtype=jax.numpy.bfloat16)}},
    ):
        assert _checksum_of_data(other) not in ("", found)
    for nothing in ({"data": None}, None, key, {"model": np.ones(3)}):
        assert _checksum_of_data(nothing) == ""


def dataset(*, sequence_length=8, labelled=True, observation=np.uint8, action=np.int32):
    shape, length = (3, 4), np.full(3, 4)
    rows = Dataset.from_arrays(
        np.ones((3, 5, 2), observation),
        np.ones(shape, np.int32),
        length,
        np.ones(shape, np.int32) if labelled else None,
        sequence_length=sequence_length,
    ).arrays
    rows = {name: part.replace(action=part.action.astype(action)) for name, part in rows.items()}
    return Dataset.from_rows(**rows, trajectories_per_row=1.0)


@pytest.mark.parametrize(
    ("differing", "message"),
    [
        ({"sequence_length": 9}, "sequence_length of the curriculum is 9, allowed is 8 as of"),
        ({"labelled": False}, "labelled of the curriculum is False, allowed is True"),
        (
            {"observation": np.float64},
            "config.data: dtype of observations of the curriculum is float32, allowed is uint8 as"
            " of the data of pretraining; from_arrays makes uint8 of whole numbers",
        ),
        ({"action": np.int16}, "dtype of actions of the curriculum is int16, allowed is int32 as"),
        ({}, ""),
    ],
)
def test_a_curriculum_has_rows_as_the_data_that_follow(monkeypatch, differing, message):
    source, other = dataset(), dataset(**differing)
    monkeypatch.setattr(build, "make_source", lambda settings, places, role: other)
    settings = Settings.read(gridworld.get_config("smoke")).updated("pretrain", curriculum_steps=1)
    if not message:
        assert build.make_curriculum(settings, None, source) is other
        return
    with pytest.raises(ConfigError, match=message):
        build.make_curriculum(settings, None, source)
