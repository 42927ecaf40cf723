"""gymnax's interface."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import internal_rl as irl
from internal_rl.envs import adapters
from tests.envs.adapters.scripted import TIME_LIMIT, Script, ScriptedWorld

gymnax = pytest.importorskip("gymnax")
from gymnax.environments import environment, spaces  # noqa: E402
from gymnax.wrappers import GymnaxToGymWrapper, LegacyStepAPIWrapper, LogWrapper  # noqa: E402

NUM_ENVS, NUM_STEPS = 8, 40


@pytest.fixture(scope="module")
def grid():
    return adapters.gymnax_env("gridworld-pinpad", preset="smoke", task="0-1-2")


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def rollout(env, params, num_steps=NUM_STEPS, num_envs=NUM_ENVS):
    """Random actions in environments side by side: the start and all steps, `(T, N, ...)`."""
    reset_key, step_key = jax.random.split(jax.random.key(0))
    start = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, num_envs), params)

    def step(carry, key):
        action_key, env_key = jax.random.split(key)
        keys = jax.random.split(action_key, num_envs)
        action = jax.vmap(env.action_space(params).sample)(keys)
        keys = jax.random.split(env_key, num_envs)
        result = jax.vmap(env.step, (0, 0, 0, None))(keys, carry[1], action, params)
        return result[:2], {"before": carry, "action": action, "result": result}

    return start, jax.lax.scan(step, start, jax.random.split(step_key, num_steps))[1]


def test_it_is_an_environment_of_gymnax(grid):
    env, params = grid
    assert isinstance(env, environment.Environment)
    world = env.world
    assert (env.name, env.num_actions) == ("gridworld-pinpad", 4)
    assert params.max_steps_in_episode == world.time_limit
    assert isinstance(params, environment.EnvParams)
    np.testing.assert_array_equal(params.task, [0, 1, 2])
    action, observation = env.action_space(params), env.observation_space(params)
    assert isinstance(action, spaces.Discrete) and (action.n, action.shape) == (4, ())
    assert isinstance(observation, spaces.Box) and observation.dtype == np.uint8
    assert observation.shape == (world.observation_spec.size,)
    shown, state = env.reset(jax.random.key(0), params)
    assert shown.shape == observation.shape and shown.dtype == observation.dtype
    assert bool(observation.contains(shown))
    np.testing.assert_array_equal(env.observe(jax.random.key(0), state, None, params), shown)
    own, own_params = adapters.gymnax_env(ScriptedWorld())
    box = own.action_space(own_params)
    assert (box.low, box.high, box.shape) == (-2.0, 2.0, (2,)) and own.name == "ScriptedWorld"


def test_episodes_are_those_of_the_world_and_follow_each_other(grid):
    env, params = grid
    _, play = rollout(env, params)
    observation, state, reward, terminated, truncated, info = play["result"]
    ended = np.asarray(terminated | truncated)
    assert ended.any() and not (terminated & truncated).any()
    # Every step is the world's own from the state before it.
    step = jax.jit(jax.vmap(jax.vmap(env.world.step)))
    _, shown = step(play["before"][1].state, play["action"])
    np.testing.assert_array_equal(info["final_observation"], shown.observation)
    np.testing.assert_array_equal(reward, shown.reward)
    np.testing.assert_array_equal(ended, shown.done)
    np.testing.assert_array_equal(info["visit"], shown.visit)
    np.testing.assert_array_equal(info["progress"], shown.progress)
    np.testing.assert_array_equal(info["discount"], 1.0 - np.asarray(terminated))
    # What goes on shows the last observation, what has ended the first one of another episode.
    np.testing.assert_array_equal(np.asarray(observation)[~ended], shown.observation[~ended])
    np.testing.assert_array_equal(np.asarray(state.time) == 0, ended)
    assert not np.asarray(state.shown.done).any()
    starts = np.asarray(state.state.start_cell)[ended]
    assert len(set(starts.tolist())) > 1


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (Script(), (False, True)),
        (Script(ends=2), (True, False)),
        (Script((0, 0, 1)), (True, False)),
    ],
)
def test_an_end_and_a_time_limit_are_told_apart(script, expected):
    env, params = adapters.gymnax_env(ScriptedWorld(script))
    _, play = rollout(env, params, script.ends, 1)
    _, _, _, terminated, truncated, info = play["result"]
    assert (bool(terminated[-1, 0]), bool(truncated[-1, 0])) == expected
    assert not np.asarray(terminated | truncated)[:-1].any()
    np.testing.assert_array_equal(info["terminated"], terminated)
    np.testing.assert_array_equal(info["truncated"], truncated)


def test_parameters_choose_task_and_a_shorter_time_limit(grid):
    env, params = grid
    shorter = params.replace(max_steps_in_episode=2, task=jnp.array([3, 1, 0]))
    (_, state), play = rollout(env, shorter)
    assert (np.asarray(state.shown.subgoal) == 3).all()
    _, _, _, terminated, truncated, _ = play["result"]
    times = np.asarray(play["before"][1].time)
    np.testing.assert_array_equal(terminated | truncated, (times == 1) | np.asarray(terminated))
    longer = adapters.gymnax_env(ScriptedWorld())[1].replace(max_steps_in_episode=99)
    own = adapters.gymnax_env(ScriptedWorld())[0]
    _, play = rollout(own, longer, TIME_LIMIT, 1)
    assert bool(play["result"][4][-1, 0])


def test_gymnaxs_wrappers_take_it():
    env, params = adapters.gymnax_env(ScriptedWorld(Script((0, 1, 0), ends=2)))
    key, action = jax.random.key(0), jnp.zeros(2)
    logged = LogWrapper(env)
    _, state = logged.reset(key, params)
    for _ in range(2):
        _, state, *_, info = logged.step(key, state, action, params)
    assert bool(info["returned_episode"])
    assert (float(info["returned_episode_returns"]), int(info["returned_episode_lengths"])) == (
        1,
        2,
    )
    legacy = LegacyStepAPIWrapper(env)
    _, state = legacy.reset(key, params)
    dones = []
    for _ in range(3):
        _, state, _, done, _ = legacy.step(key, state, action, params)
        dones.append(bool(done))
    assert dones == [False, True, False]
    gym = GymnaxToGymWrapper(env, params, seed=0)
    observation, _ = gym.reset()
    assert gym.observation_space.contains(np.asarray(observation))
    assert len(gym.step(gym.action_space.sample())) == 5


def test_a_world_by_name_is_the_one_given_to_it():
    world = irl.make_world("gridworld-pinpad", "smoke")
    env, params = adapters.gymnax_env(world)
    np.testing.assert_array_equal(params.task, world.post_training_task)
    assert env.world is world and env.name == "GridWorld"
