"""Trajectories of another world are refused before anything trains on them."""

import types

import numpy as np
import pytest

from internal_rl.experts import source_checks
from internal_rl.experts.dataset import Dataset
from internal_rl.experts.source_checks import check_arrays, check_source
from internal_rl.types import ActionSpec, ObservationSpec

BINARY, REAL = ObservationSpec("bernoulli", 3, np.uint8), ObservationSpec("gaussian", 3)
FOUR, TORQUES = ActionSpec("categorical", 4), ActionSpec("gaussian", 2)


def world(observations=BINARY, actions=FOUR, time_limit=5, **more):
    specs = {"observation_spec": observations, "action_spec": actions}
    return types.SimpleNamespace(time_limit=time_limit, **specs, **more)


def data(binary=True, discrete=True, labelled=True):
    rng = np.random.default_rng(0)
    shape = (20, 5)
    return Dataset.from_arrays(
        rng.integers(0, 2, (*shape, 3)) if binary else rng.normal(size=(*shape, 3)),
        rng.integers(0, 4, shape) if discrete else rng.normal(size=(*shape, 2)),
        np.full(20, 5),
        rng.integers(0, 3, shape) if labelled else None,
    )


@pytest.mark.parametrize(
    ("source", "fitting"),
    [
        (data(), world(num_subgoals=3)),
        (data(), world(REAL)),
        (data(labelled=False), world(num_subgoals=1)),
        (data(binary=False, discrete=False), world(REAL, TORQUES)),
    ],
)
def test_trajectories_of_the_world_pass(source, fitting):
    check_source(source, fitting)


@pytest.mark.parametrize(
    ("source", "other", "message"),
    [
        (data(), world(ObservationSpec("bernoulli", 4)), r"observations have the shape \(3,\)"),
        (data(binary=False), world(), "observations hold .*, allowed are 0 and 1"),
        (data(), world(actions=TORQUES), r"actions have the shape \(\), allowed is \(2,\)"),
        (data(discrete=False), world(actions=FOUR), r"actions have the shape \(2,\)"),
        (data(), world(actions=ActionSpec("categorical", 3)), "actions hold 3, allowed is 0 to 2"),
        (data(), world(num_subgoals=2), "subgoals hold 2, allowed is 0 to 1"),
        (data(), world(time_limit=3), "trajectories have up to 4 actions, allowed is 3, the time"),
    ],
)
def test_what_does_not_fit_is_named(source, other, message):
    with pytest.raises(ValueError, match=message):
        check_source(source, other)


@pytest.mark.parametrize("part", ["train", "held_out"])
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("observation", 17, "observations hold 17, allowed are 0 and 1"),
        ("action", 40, "actions hold 40, allowed is 0 to 3"),
        ("subgoal", 77, "subgoals hold 77, allowed is 0 to 2"),
    ],
)
def test_one_wrong_step_anywhere_in_a_dataset_is_found(part, field, value, message):
    source = data()
    rows = source.arrays[part]
    values = np.array(getattr(rows, field))
    step = np.argwhere(np.asarray(rows.mask))[-1]
    values[tuple(step)] = value
    source.arrays[part] = rows.replace(**{field: values})
    with pytest.raises(ValueError, match=message):
        check_source(source, world(num_subgoals=3))
    # What stands behind the last step is no step.
    source.arrays[part] = rows.replace(mask=np.zeros_like(rows.mask), **{field: values})
    if field != "observation":
        check_source(source, world(num_subgoals=3))


@pytest.mark.parametrize(
    ("factor", "told"), [(50.0, True), (1e-4, True), (1.0, False), (0.0, False)]
)
def test_real_numbers_of_an_odd_scale_are_told(caplog, factor, told):
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(20, 5, 2)) * [1.0, factor]
    source = Dataset.from_arrays(rng.normal(size=(20, 5, 3)), actions, np.full(20, 5))
    check_source(source, world(REAL, TORQUES))
    assert ("actions: number 1 of each (and 0 more) has a standard dev" in caplog.text) is told
    assert "observations:" not in caplog.text


@pytest.mark.parametrize(
    ("source", "specs", "message"),
    [
        (data(), (BINARY, FOUR, 4), ""),
        (data(binary=False), (REAL, FOUR, 9), ""),
        (data(), (BINARY, FOUR, 3), "have up to 4 actions, allowed is 3, the max_length of the b"),
        (data(binary=False), (BINARY, FOUR, 4), "observations hold .*, allowed are 0 and 1 where"),
        (data(), (BINARY, TORQUES, 4), r"actions have the shape \(\), .* as the base model has it"),
        (data(), (BINARY, ActionSpec("categorical", 3), 4), "actions hold 3, allowed is 0 to 2"),
    ],
)
def test_datasets_are_compared_with_what_a_model_reads(source, specs, message):
    if not message:
        check_arrays(source, *specs, num_subgoals=3)
        return
    with pytest.raises(ValueError, match=message):
        check_arrays(source, *specs)


def test_labels_are_compared_with_what_reads_them():
    check_arrays(data(), BINARY, FOUR, 4)
    with pytest.raises(ValueError, match="subgoals hold 2, allowed is 0 to 1 as num_subgoals t"):
        check_arrays(data(), BINARY, FOUR, 4, num_subgoals=2)


def test_sources_that_make_their_rows_are_let_through():
    for arrays in (None, {"turn": np.zeros(3)}):
        check_arrays(types.SimpleNamespace(arrays=arrays), BINARY, FOUR, 1)


def test_one_long_trajectory_is_found_among_many_rows(monkeypatch):
    monkeypatch.setattr(source_checks, "SOME_ROWS", 3)
    length = np.full(40, 2)
    # In the training of this seed, and in no row that is looked at for its numbers.
    length[23] = 5
    numbers = np.zeros((40, 6, 3), np.uint8)
    source = Dataset.from_arrays(numbers, np.zeros((40, 5), int), length, sequence_length=6)
    check_arrays(source, BINARY, FOUR, 5)
    with pytest.raises(ValueError, match="trajectories have up to 5 actions, allowed is 4"):
        check_arrays(source, BINARY, FOUR, 4)
