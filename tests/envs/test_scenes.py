"""What both worlds tell of an observation, and how an episode goes on without its task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs.ant import AntWorld, AntWorldConfig
from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from internal_rl.errors import UserError


def glide(model, state, control):
    """Physics that moves the torso by the first two controls, a metre at most."""
    del model
    return state.replace(qpos=state.qpos.at[:2].add(control[:2]))


@pytest.fixture(scope="module", params=["grid", "ant"])
def world(request):
    if request.param == "grid":
        return GridWorld(GridWorldConfig(grid_size=4, num_colours=4, tasks="ant-pinpad"))
    return AntWorld(AntWorldConfig(physics="native"), glide)


@pytest.fixture(scope="module")
def starts(world):
    """States and timesteps of six episodes at their start."""
    keys = jax.random.split(jax.random.key(0), 6)
    reset = jax.jit(jax.vmap(world.reset, (0, None)))
    return jax.device_get(reset(keys, world.post_training_task))


def first_of(starts):
    return jax.tree.map(lambda x: x[0], starts)


def actions_of(world, count):
    rng = np.random.default_rng(0)
    if world.action_spec.discrete:
        return rng.integers(0, 4, count)
    return rng.uniform(-1, 1, (count, 8)).astype(np.float32)


def cell_at(place, size):
    column, up = np.clip(np.floor(np.asarray(place) + size / 2), 0, size - 1).astype(int)
    return (size - 1 - up) * size + column


def test_scene_shows_the_agent_and_all_things(world, starts):
    size = world.config.grid_size
    step, scene_of = jax.jit(world.step), jax.jit(world.scene)
    fingerprint_of = jax.jit(world.layout_fingerprint)
    state, timestep = first_of(starts)
    fingerprint = fingerprint_of(timestep.observation)
    for action in actions_of(world, 12):
        state, timestep = step(state, action)
        scene = jax.device_get(scene_of(timestep.observation))
        assert cell_at(scene.place, size) == int(state.cell)
        assert [cell_at(place, size) for place in scene.colours] == state.objects.tolist()
        assert [cell_at(place, size) for place in scene.walls] == state.walls.tolist()
        # Things stand in the middle of their cells, which are counted in halves here.
        np.testing.assert_allclose(2 * scene.colours % 2, 1, atol=1e-4)
        assert int(fingerprint_of(timestep.observation)) == int(fingerprint)
    assert int(fingerprint_of(starts[1].observation[1])) != int(fingerprint)


def test_scene_of_a_batch_is_that_of_its_rows(world, starts):
    rows = starts[1].observation.reshape(2, 3, -1)
    scene_of = jax.jit(world.scene)
    together, one = jax.device_get((scene_of(rows), scene_of(rows[1, 2])))
    for name in ("place", "colours", "walls"):
        np.testing.assert_array_equal(getattr(together, name)[1, 2], getattr(one, name))
    assert jax.jit(world.layout_fingerprint)(rows).shape == (2, 3)


def test_frames_show_an_episode_with_gate_and_code(world, starts):
    observations = starts[1].observation[:5]
    with pytest.raises(ValueError, match="one of them is missing"):
        world.frames(observations, np.ones(5))
    try:
        frames = world.frames(observations, np.linspace(0, 1, 5), np.ones((5, 2)))
    except UserError as error:
        pytest.skip(str(error))
    # Each step of the grid world, every fourth one of the ant.
    assert len(frames) in (5, 2) and world.seconds_per_frame == 0.25
    assert all(frame.dtype == np.uint8 and frame.shape[-1] == 3 for frame in frames)
    assert not np.array_equal(frames[0], frames[1])


def test_without_its_task_an_episode_goes_on_behind_a_wrong_colour(world):
    """Wherever a step with the task ends the episode, one without it only tells the visit."""
    actions = actions_of(world, 12)

    def play(key, task):
        def both(state, action):
            after, timestep = world.step(state, action)
            state, free = world.step_without_task(state, action)
            return state, (timestep, free, after.success, state.success)

        return jax.lax.scan(both, world.reset(key, task)[0], actions)[1]

    keys = jax.random.split(jax.random.key(0), 100)
    colours = np.arange(100) % 4
    played = jax.jit(jax.vmap(play))(keys, colours[:, None])
    timestep, free, completed, free_success = jax.device_get(played)
    assert not free_success.any() and not free.progress.any() and not free.reward.any()
    np.testing.assert_array_equal(free.subgoal, np.broadcast_to(colours[:, None], (100, 12)))
    np.testing.assert_array_equal(free.observation, timestep.observation)
    np.testing.assert_array_equal(free.visit, timestep.visit)
    # An ant that walks into a wall is lost in any case.
    running = ~free.done
    visited = free.visit >= 0
    np.testing.assert_array_equal(timestep.done[running], visited[running])
    np.testing.assert_array_equal(completed, visited & (free.visit == colours[:, None]))
    assert (visited & ~completed).sum() > 20 and completed.sum() > 5
    assert running[:, -1].sum() > 50


def test_no_time_limit_ends_an_episode_without_its_task(world, starts):
    state, _ = first_of(starts)
    state = state.replace(time=np.int32(world.time_limit))
    _, timestep = jax.jit(world.step_without_task)(state, actions_of(world, 1)[0] * 0)
    assert not timestep.done


@pytest.mark.parametrize("fault", ["fallen", "wall", "diverged"])
def test_an_ant_that_is_lost_stays_so_without_its_task(fault):
    def physics(model, state, control):
        state = glide(model, state, control)
        if fault == "fallen":
            return state.replace(qpos=state.qpos.at[2].set(0.1))
        return state.replace(qvel=state.qvel.at[0].set(jnp.nan)) if fault == "diverged" else state

    world = AntWorld(AntWorldConfig(), physics)
    state, _ = jax.device_get(jax.jit(world.reset)(jax.random.key(0), world.post_training_task))
    if fault == "wall":
        qpos = state.physics.qpos.copy()
        qpos[:2] = world.centre_of(state.walls[0])
        state = state.replace(physics=state.physics.replace(qpos=qpos))
    step = jax.jit(world.step_without_task)
    state, timestep = step(state, np.zeros(8, np.float32))
    assert bool(timestep.done) and float(timestep.reward) == 0
    after, again = jax.device_get(step(state, np.ones(8, np.float32)))
    assert again.done and again.visit == -1
    np.testing.assert_array_equal(after.physics.qpos, state.physics.qpos)
