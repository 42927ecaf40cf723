"""Rows of a dataset: every one once an epoch, in an order that the position alone decides."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.experts.dataset import Dataset
from internal_rl.types import Trajectory


def rows(count, first=0):
    number = jnp.broadcast_to(jnp.arange(first, first + count)[:, None], (count, 5))
    return Trajectory(
        observation=number[..., None] * jnp.ones(3),
        next_observation=None,
        action=number[..., None] * jnp.ones(2),
        mask=jnp.broadcast_to(jnp.arange(5) < 4, (count, 5)),
        subgoal=number,
        segment=jnp.zeros_like(number),
    )


def drawn(data, state, count):
    step = jax.jit(data.next)
    batches = []
    for _ in range(count):
        state, batch = step(state, data.arrays)
        batches.append(np.asarray(batch.subgoal[:, 0]))
        np.testing.assert_array_equal(batch.observation[:, :, 0], batch.subgoal)
    return state, batches


def test_every_row_once_an_epoch_in_changing_order():
    data = Dataset.from_rows(rows(12), rows(2, 100), 1.0)
    _, batches = drawn(data, data.init(jax.random.key(0), 4), 6)
    epochs = [np.concatenate(batches[i : i + 3]) for i in (0, 3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_a_stored_position_goes_on_with_the_same_rows():
    data = Dataset.from_rows(rows(10), rows(1, 100), 1.0)
    state, _ = drawn(data, data.init(jax.random.key(1), 3), 2)
    stored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
    for one, other in zip(drawn(data, state, 5)[1], drawn(data, stored, 5)[1], strict=True):
        np.testing.assert_array_equal(one, other)
    other = drawn(data, data.init(jax.random.key(2), 3), 2)[1]
    assert any((a != b).any() for a, b in zip(drawn(data, state, 2)[1], other, strict=True))


def test_held_out_rows_are_never_drawn():
    data = Dataset.from_rows(rows(5), rows(2, 100), 1.0)
    _, batches = drawn(data, data.init(jax.random.key(0), 7), 4)
    assert np.concatenate(batches).max() < 5
    held_out = data.held_out(jax.random.key(0), 1, data.arrays)
    np.testing.assert_array_equal(held_out.subgoal[:, 0], [100])


def test_held_out_rows_are_no_copies_of_each_other(caplog):
    data = Dataset.from_rows(rows(5), rows(37, 100), 1.0)
    with caplog.at_level(logging.INFO):
        for held_out in (data.held_out, jax.jit(data.held_out, static_argnums=1)):
            found = held_out(jax.random.key(0), 128, data.arrays)
            np.testing.assert_array_equal(found.subgoal[:, 0], np.arange(100, 137))
            assert found.next_observation.shape == (37, 5, 3)
    told = "128 held-out rows are asked for, all 37 that there are are taken"
    assert [record.getMessage() for record in caplog.records].count(told) == 1


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="held_out has no rows"):
        Dataset.from_rows(rows(3), rows(0), 1.0)


def test_targets_behind_which_nothing_is_known_are_refused():
    given = rows(3)
    mask = given.mask.at[1, 4].set(True)
    with pytest.raises(ValueError, match="held_out: the last token of a trajectory in row 1 has a"):
        Dataset.from_rows(rows(3), given.replace(mask=mask), 1.0)


def test_rows_that_do_not_fit_each_other_are_refused():
    wider = rows(2).replace(observation=np.zeros((2, 5, 4), np.float32))
    for other, named in ((wider, "observation"), (rows(2).replace(subgoal=None), "subgoal")):
        with pytest.raises(ValueError, match=f"{named} of held_out is .* as in train"):
            Dataset.from_rows(rows(3), other, 1.0)
    with pytest.raises(ValueError, match="trajectories_per_row is 0, allowed is above 0"):
        Dataset.from_rows(rows(3), rows(1), 0)
