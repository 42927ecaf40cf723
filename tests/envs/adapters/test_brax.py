"""brax's interface."""

import brax.envs.base
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.wrappers import training

from internal_rl.envs import adapters
from internal_rl.envs.adapters.brax import BraxEnv
from tests.envs.adapters.scripted import TIME_LIMIT, Script, ScriptedWorld

NUM_ENVS = 16


def play(env, num_steps, episode_length):
    """Random actions in environments side by side; states `(T, N, ...)`.

    brax's wrappers want keys of the older kind.
    """
    wrapped = training.wrap(env, episode_length=episode_length)

    @jax.jit
    def run(key):
        state = wrapped.reset(jax.random.split(key, NUM_ENVS))

        def step(state, key):
            action = jax.random.uniform(key, (NUM_ENVS, env.action_size), jnp.float32, -1, 1)
            state = wrapped.step(state, action)
            return state, state

        return jax.lax.scan(step, state, jax.random.split(key, num_steps))[1]

    return run(jax.random.PRNGKey(0))


@pytest.mark.parametrize(
    ("script", "truncation"),
    [(Script(), 1.0), (Script(ends=2), 0.0), (Script((0, 0, 1)), 0.0)],
)
def test_an_end_and_a_time_limit_are_told_apart(script, truncation):
    env = adapters.brax_env(ScriptedWorld(script))
    assert isinstance(env, brax.envs.base.Env)
    assert (env.observation_size, env.action_size) == (2, 2)
    states = play(env, script.ends, env.world.time_limit)
    np.testing.assert_array_equal(states.done[-1], 1.0)
    np.testing.assert_array_equal(states.done[:-1], 0.0)
    np.testing.assert_array_equal(states.info["truncation"][-1], truncation)
    np.testing.assert_array_equal(states.reward[:, 0], script.reward[: script.ends])
    np.testing.assert_array_equal(states.metrics["success"], states.reward > 0)


def test_without_a_wrapper_the_time_limit_is_no_end():
    env = BraxEnv(ScriptedWorld())
    state = env.reset(jax.random.PRNGKey(0))
    for _ in range(TIME_LIMIT):
        state = env.step(state, jnp.zeros(2))
    assert bool(state.pipeline_state.truncated) and float(state.done) == 0.0


def test_grid_world_takes_the_largest_of_as_many_numbers_as_it_has_actions():
    env = adapters.brax_env("gridworld-pinpad", preset="smoke")
    assert env.action_size == 4
    state = env.reset(jax.random.PRNGKey(0))
    assert state.obs.shape == (env.observation_size,) and state.obs.dtype == jnp.float32
    for action in range(4):
        after = env.step(state, jnp.full(4, -0.5).at[action].set(0.5))
        expected, _ = env.world.step(state.pipeline_state.state, action)
        assert int(after.pipeline_state.state.cell) == int(expected.cell)


def test_every_episode_draws_one_of_the_tasks():
    world = adapters.brax_env("gridworld-pinpad", preset="smoke").world
    env = adapters.brax_env(world, tasks=world.pretraining_tasks)
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.PRNGKey(0), 64))
    tasks = {tuple(task) for task in np.asarray(states.pipeline_state.state.task).tolist()}
    assert len(tasks) > 8 and tasks <= {tuple(task) for task in world.pretraining_tasks.tolist()}
    one = adapters.brax_env(world, tasks="3-1").reset(jax.random.PRNGKey(0))
    np.testing.assert_array_equal(one.pipeline_state.state.task, [3, 1])


def test_metrics_add_up_over_an_episode():
    env = adapters.brax_env("gridworld-pinpad", preset="smoke")
    states = play(env, 3 * env.world.time_limit, env.world.time_limit)
    summed, done = states.info["episode_metrics"], np.asarray(states.done) > 0
    assert done.any() and (summed["progress"][done] >= 0).all()
    lengths = np.asarray(summed["length"])[done]
    assert lengths.max() <= env.world.time_limit
    # Ends at the time limit that are none of the task.
    truncated = np.asarray(states.info["truncation"]) > 0
    np.testing.assert_array_equal(summed["length"][truncated], env.world.time_limit)
    assert np.asarray(summed["progress"]).max() > 0


def test_ant_world_is_an_environment_of_brax():
    env = adapters.brax_env("ant-pinpad", preset="smoke")
    states = play(env, 2, env.world.time_limit)
    assert env.action_size == 8 and states.obs.shape == (2, NUM_ENVS, env.observation_size)
    assert np.isfinite(states.obs).all()
