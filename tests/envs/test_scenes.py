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


def actions_of(world, count):
    rng = np.random.default_rng(0)
    if world.action_spec.discrete:
        return jnp.asarray(rng.integers(0, 4, count))
    return jnp.asarray(rng.uniform(-1, 1, (count, 8)), jnp.float32)


def cell_at(place, size):
    column, up = np.clip(np.floor(np.asarray(place) + size / 2), 0, size - 1).astype(int)
    return (size - 1 - up) * size + column


def test_scene_shows_the_agent_and_all_things(world):
    size = world.config.grid_size
    step = jax.jit(world.step)
    state, timestep = jax.jit(world.reset)(jax.random.key(0), world.post_training_task)
    fingerprint = world.layout_fingerprint(timestep.observation)
    for action in actions_of(world, 12):
        state, timestep = step(state, action)
        scene = world.scene(timestep.observation)
        assert cell_at(scene.place, size) == state.cell
        assert [cell_at(place, size) for place in scene.colours] == state.objects.tolist()
        assert [cell_at(place, size) for place in scene.walls] == state.walls.tolist()
        # Things stand in the middle of their cells, which are counted in halves here.
        np.testing.assert_allclose(2 * scene.colours % 2, 1, atol=1e-4)
        assert world.layout_fingerprint(timestep.observation) == fingerprint
    _, other = jax.jit(world.reset)(jax.random.key(1), world.post_training_task)
    assert world.layout_fingerprint(other.observation) != fingerprint


def test_scene_of_a_batch_is_that_of_its_rows(world):
    keys = jax.random.split(jax.random.key(2), 6)
    _, timestep = jax.vmap(world.reset, in_axes=(0, None))(keys, world.post_training_task)
    rows = timestep.observation.reshape(2, 3, -1)
    together, one = world.scene(rows), world.scene(rows[1, 2])
    for name in ("place", "colours", "walls"):
        np.testing.assert_array_equal(getattr(together, name)[1, 2], getattr(one, name))
    assert world.layout_fingerprint(rows).shape == (2, 3)


def test_frames_show_an_episode_with_gate_and_code(world):
    keys = jax.random.split(jax.random.key(3), 5)
    _, timestep = jax.jit(jax.vmap(world.reset, (0, None)))(keys, world.post_training_task)
    observations = np.asarray(timestep.observation)
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


def test_no_time_limit_ends_an_episode_without_its_task(world):
    state, _ = jax.jit(world.reset)(jax.random.key(0), world.post_training_task)
    state = state.replace(time=jnp.int32(world.time_limit))
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
    state, _ = jax.jit(world.reset)(jax.random.key(0), world.post_training_task)
    if fault == "wall":
        place = world.centre_of(state.walls[0])
        qpos = state.physics.qpos.at[:2].set(place)
        state = state.replace(physics=state.physics.replace(qpos=qpos))
    state, timestep = world.step_without_task(state, jnp.zeros(8))
    assert timestep.done and timestep.reward == 0
    after, again = world.step_without_task(state, jnp.ones(8))
    assert again.done and again.visit == -1
    np.testing.assert_array_equal(after.physics.qpos, state.physics.qpos)
