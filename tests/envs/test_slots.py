"""Many episodes on few slots: nothing is lost, mixed up or dependent on the slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs import slots
from internal_rl.envs.slots import choose_num_phases, run_episodes

NUM_STEPS = 9


def run(lengths, num_slots, num_phases=3, at_end=None):
    """Episodes of given lengths; what a slot remembers is the sum of the episode's own steps."""

    def step(slots, state, memory):
        length, total = state, jnp.where(slots.time == 0, 0, memory["total"])
        total = total + slots.episode + 1
        record = {"total": total, "pair": jnp.stack([slots.episode, slots.time], axis=-1)}
        memory = {"total": total, "clock": memory["clock"] + 1}
        return state, memory, slots.time + 1 >= length, record

    # What a slot holds before its first episode must not matter, and so is not zero.
    memory = {"total": jnp.full(num_slots, 77), "clock": jnp.int32(0)}
    return run_episodes(
        step, lengths, memory, num_slots, NUM_STEPS, at_end=at_end, num_phases=num_phases
    )


def check(records, lengths, expected_lengths):
    np.testing.assert_array_equal(lengths, expected_lengths)
    for episode, length in enumerate(expected_lengths):
        for time in range(NUM_STEPS):
            ran = time < length
            np.testing.assert_array_equal(
                records["pair"][episode, time], [episode, time] if ran else [0, 0]
            )
            assert records["total"][episode, time] == ran * (episode + 1) * (time + 1)


@pytest.mark.parametrize(("num_slots", "num_phases"), [(1, 1), (5, 1), (8, 3), (23, 3)])
def test_every_episode_is_recorded_whole_and_in_its_place(num_slots, num_phases):
    lengths = np.random.default_rng(0).integers(1, NUM_STEPS + 1, size=23)
    check(*run(jnp.asarray(lengths), num_slots, num_phases), lengths)


@pytest.mark.parametrize(("num_slots", "num_phases"), [(1, 1), (8, 3)])
def test_the_end_of_every_episode_is_kept(num_slots, num_phases):
    """Of episodes that count their steps in their state, some cut off by the time limit."""
    lengths = np.random.default_rng(0).integers(1, NUM_STEPS + 5, size=23)

    def step(slots, state, memory):
        length, count = state
        return (length, count + 1), memory, count + 1 >= length, {"time": slots.time}

    records, found = run_episodes(
        step,
        (jnp.asarray(lengths), jnp.zeros(23, jnp.int32)),
        (),
        num_slots,
        NUM_STEPS,
        at_end=lambda state: {"count": state[1]},
        num_phases=num_phases,
    )
    np.testing.assert_array_equal(found, np.minimum(lengths, NUM_STEPS))
    np.testing.assert_array_equal(records["count"], found)


def test_ends_under_vmap_do_not_disturb_each_other():
    lengths = np.array([[1, 1, 1, 1], [2, 7, 3, 9]])

    def at_end(state):
        return {"length": state}

    records, _ = jax.vmap(lambda x: run(x, 2, at_end=at_end))(jnp.asarray(lengths))
    np.testing.assert_array_equal(records["length"], lengths)


def test_the_time_limit_ends_episodes():
    lengths = np.array([3, 40, 1, 40])
    check(*run(jnp.asarray(lengths), 2), np.minimum(lengths, NUM_STEPS))


def test_copies_under_vmap_do_not_disturb_each_other():
    lengths = np.random.default_rng(1).integers(1, NUM_STEPS + 1, size=(3, 17))
    lengths[1] = 1
    records, found = jax.vmap(lambda x: run(x, 8))(jnp.asarray(lengths))
    for copy in range(3):
        check(jax.tree.map(lambda x, copy=copy: x[copy], records), found[copy], lengths[copy])


@pytest.mark.parametrize(
    ("num_slots", "num_phases"), [(1, 1), (31, 1), (32, 2), (127, 2), (128, 3), (4_096, 3)]
)
def test_few_slots_are_not_divided_further(num_slots, num_phases, monkeypatch):
    monkeypatch.setattr(slots, "MAX_PHASES", 3)
    assert choose_num_phases(num_slots) == num_phases
