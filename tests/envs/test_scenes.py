"""What both worlds tell of an observation, and how an episode goes on without its task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs.ant import AntWorld, AntWorldConfig
from internal_rl.envs.gridworld import GridWorld, GridWorldConfig


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
    if world.action_head == "categorical":
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


def test_without_its_task_an_episode_goes_on_behind_a_wrong_colour(world):
    state, _ = jax.jit(world.reset)(jax.random.key(0), world.post_training_task)
    ended = state.replace(done=jnp.bool_(True), success=jnp.bool_(True), progress=jnp.int32(2))
    freed = world.without_task(ended)
    assert not freed.done and not freed.success and freed.progress == 0


@pytest.mark.parametrize("fault", ["fallen", "wall", "diverged"])
def test_an_ant_that_is_lost_stays_so_without_its_task(fault):
    world = AntWorld(AntWorldConfig(physics="native"), glide)
    state, _ = jax.jit(world.reset)(jax.random.key(0), world.post_training_task)
    if fault == "fallen":
        qpos = state.physics.qpos.at[2].set(0.1)
        state = state.replace(physics=state.physics.replace(qpos=qpos))
    elif fault == "wall":
        state = state.replace(cell=state.walls[0])
    else:
        state = state.replace(diverged=jnp.bool_(True))
    assert world.without_task(state.replace(done=jnp.bool_(True))).done
