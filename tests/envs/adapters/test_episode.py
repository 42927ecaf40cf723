"""What ends an episode: the task, or the time limit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl import envs
from internal_rl.envs.adapters.episode import advance, start, told
from internal_rl.envs.adapters.worlds import find_task, find_world
from internal_rl.envs.gridworld import PRESETS, GridWorld
from tests.envs.adapters.scripted import TIME_LIMIT, Script, ScriptedWorld

TERMINATED, TRUNCATED = (True, False), (False, True)
NUM_EPISODES = 1_000
UNTOLD = {"visit": None, "progress": None}


def play(world, num_steps=TIME_LIMIT):
    episode = start(world, jax.random.key(0), world.post_training_task)
    for _ in range(num_steps):
        episode = advance(world, episode, jnp.zeros(2))
    return episode


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (Script(), TRUNCATED),
        (Script(ends=2), TERMINATED),
        # With the very last step: success, failure by a visit, and a visit that only leads on.
        (Script(reward=(0, 0, 1)), TERMINATED),
        (Script(reward=(0, 0, -1)), TERMINATED),
        (Script(visit=(-1, -1, 4)), TERMINATED),
        (Script(visit=(-1, -1, 4), progress=(0, 0, 1)), TRUNCATED),
        (Script(reward=(0, 0, 1), **UNTOLD), TERMINATED),
        # Steps cost more than the goal pays: no success, as everywhere else.
        (Script(reward=(-1, -1, 1)), TRUNCATED),
        (Script(visit=(-1, -1, 4), progress=None), TRUNCATED),
        # What went unpunished before is no end.
        (Script(reward=(0.5, 0.5, 0.5)), TRUNCATED),
        (Script(visit=(4, -1, 5)), TRUNCATED),
        (Script(visit=(4, -1, 5), reward=(0, 0, 1)), TERMINATED),
    ],
)
def test_end_is_told(script, expected):
    episode = play(ScriptedWorld(script))
    assert (bool(episode.terminated), bool(episode.truncated)) == expected
    assert not play(ScriptedWorld(script), script.ends - 1).shown.done
    assert int(episode.time) == script.ends
    assert bool(episode.success) == (sum(script.reward[: script.ends]) > 0)
    # Nothing changes after it.
    for old, new in zip(
        jax.tree.leaves(episode.replace(shown=None)),
        jax.tree.leaves(play(ScriptedWorld(script), 7).replace(shown=None)),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)


def test_info_holds_what_the_world_tells():
    assert set(told(play(ScriptedWorld()))) == {"visit", "progress", "success"}
    assert set(told(play(ScriptedWorld(Script(**UNTOLD))))) == {"success"}


def test_grid_world_ends_as_its_twin_without_a_time_limit_does():
    """The same starts and actions, in a world with more time than is played."""
    config = dataclasses.replace(PRESETS["smoke"], time_limit=12)
    world, twin = GridWorld(config), GridWorld(dataclasses.replace(config, time_limit=1_000))

    @jax.jit
    @jax.vmap
    def both(key):
        actions = jax.random.randint(jax.random.fold_in(key, 1), (config.time_limit,), 0, 4)
        state, _ = twin.reset(key, twin.pretraining_tasks[0])
        episode = start(world, key, world.pretraining_tasks[0])
        state, episode = jax.lax.scan(
            lambda carry, action: (
                (twin.step(carry[0], action)[0], advance(world, carry[1], action)),
                None,
            ),
            (state, episode),
            actions,
        )[0]
        return state, episode

    state, episode = both(jax.random.split(jax.random.key(0), NUM_EPISODES))
    np.testing.assert_array_equal(state.cell, episode.state.cell)
    np.testing.assert_array_equal(episode.terminated, state.done)
    np.testing.assert_array_equal(episode.truncated, ~state.done)
    np.testing.assert_array_equal(episode.success, state.success)
    # Some end of themselves with the very last step.
    last = np.asarray(episode.terminated & (state.time == config.time_limit))
    assert last.sum() > 10 and np.asarray(episode.truncated).sum() > 10


def test_a_registered_world_is_made_once():
    world = find_world("gridworld-pinpad", "smoke")
    assert find_world("gridworld-pinpad", "smoke") is world
    assert find_world(world) is world
    with pytest.raises(ValueError, match="preset of gridworld-pinpad is 'large', allowed are"):
        find_world("gridworld-pinpad", "large")
    with pytest.raises(ValueError, match="environment name is 'castles', allowed are"):
        find_world("castles")


def test_task_is_read_by_the_world():
    world = envs.make("gridworld-pinpad", "smoke")
    np.testing.assert_array_equal(find_task(world), world.post_training_task)
    np.testing.assert_array_equal(find_task(world, "0-2"), [0, 2])
    np.testing.assert_array_equal(find_task(world, np.array([1, 3, -1])), [1, 3, -1])
    with pytest.raises(ValueError, match="colour 9"):
        find_task(world, "0-9")
    with pytest.raises(ValueError, match="task is"):
        find_task(world, np.array([9]))
    with pytest.raises(ValueError, match="ScriptedWorld cannot read text"):
        find_task(ScriptedWorld(), "0-1")
