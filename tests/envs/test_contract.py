"""What both worlds promise to those who run them: donation, pickling, meshes, double precision."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from internal_rl import envs
from internal_rl.envs.slots import run_episodes

NAMES = ("gridworld-pinpad", "ant-pinpad")
NUM_EPISODES = 4
KEYS = jax.random.split(jax.random.key(0), NUM_EPISODES)


@pytest.fixture(scope="module", params=NAMES)
def world(request):
    return envs.make(request.param, "smoke")


def actions_of(world):
    return jnp.zeros((NUM_EPISODES, *world.action_spec.shape), world.action_spec.dtype)


def run(world, keys, task, actions):
    """A start and two steps of several episodes."""
    start = jax.vmap(world.reset, (0, None))(keys, task)

    def step(carry, _):
        after = jax.vmap(world.step)(carry[0], actions)
        return after, None

    return start, jax.lax.scan(step, start, length=2)[0]


def assert_same(first, second):
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def expected(world):
    return jax.jit(lambda *inputs: run(world, *inputs))(
        KEYS, world.post_training_task, actions_of(world)
    )


def test_the_state_of_an_eager_reset_can_be_donated(world):
    action = actions_of(world)[0]
    task = jnp.asarray(world.post_training_task)
    kept = jax.jit(world.step)(world.reset(KEYS[0], task)[0], action)
    state, timestep = world.reset(KEYS[0], task)
    assert_same(jax.jit(world.step, donate_argnums=0)(state, action), kept)
    # Neither the task nor what was shown went with it.
    np.testing.assert_array_equal(task, world.post_training_task)
    assert not timestep.done and timestep.progress == 0


def test_a_pickled_world_is_the_same_world(world):
    again = pickle.loads(pickle.dumps(world))
    assert again.config == world.config
    inputs = KEYS[:1], world.post_training_task, actions_of(world)[:1]
    assert_same(*(jax.jit(lambda *x, w=w: run(w, *x))(*inputs) for w in (again, world)))


def one_device(kind):
    return jax.make_mesh((1,), ("data",), devices=jax.devices()[:1], axis_types=(kind,))


def test_episodes_can_be_spread_by_shard_map(world, expected):
    """With its default arguments, which check how values vary over devices."""
    rows, all_of_it = PartitionSpec("data"), PartitionSpec()
    spread = jax.shard_map(
        lambda *inputs: run(world, *inputs),
        mesh=one_device(AxisType.Auto),
        in_specs=(rows, all_of_it, rows),
        out_specs=rows,
    )
    inputs = KEYS, world.post_training_task, actions_of(world)
    assert_same(jax.jit(spread)(*inputs), expected)


def test_episodes_can_be_spread_over_explicit_axes(world, expected):
    mesh = one_device(AxisType.Explicit)
    with jax.set_mesh(mesh):
        keys, actions = jax.device_put(
            (KEYS, actions_of(world)), NamedSharding(mesh, PartitionSpec("data"))
        )
        found = jax.jit(lambda *inputs: run(world, *inputs))(
            keys, world.post_training_task, actions
        )
    assert_same(found, expected)
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.spec[0] == "data"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["smoke", "paper"])
def test_layouts_are_drawn_alike_by_shard_map_of_every_preset(name, preset):
    world = envs.make(name, preset)
    spread = jax.shard_map(
        jax.vmap(world.reset, (0, None)),
        mesh=one_device(AxisType.Auto),
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec("data"),
    )
    jax.eval_shape(spread, KEYS, world.post_training_task)


def test_double_precision_changes_nothing(world, expected):
    with jax.enable_x64(True):
        found = jax.jit(lambda *inputs: run(world, *inputs))(
            KEYS, world.post_training_task, actions_of(world)
        )
        assert_same(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_no_number_becomes_wider_in_double_precision(name):
    """Of layouts that are drawn anew, too."""
    world = envs.make(name, "paper")
    inputs = KEYS, world.post_training_task, actions_of(world)
    narrow = jax.eval_shape(lambda *inputs: run(world, *inputs), *inputs)
    with jax.enable_x64(True):
        assert jax.eval_shape(lambda *inputs: run(world, *inputs), *inputs) == narrow


def test_slots_run_in_double_precision():
    def step(slots, state, memory):
        return state, memory + 1, slots.time + 1 >= state, {"time": slots.time}

    with jax.enable_x64(True):
        lengths = jnp.array([2, 1, 3], jnp.int32)
        records, found = run_episodes(step, lengths, jnp.zeros(2, jnp.int32), 2, 4)
    assert records["time"].dtype == found.dtype == jnp.int32
    np.testing.assert_array_equal(found, [2, 1, 3])
    np.testing.assert_array_equal(records["time"][2], [0, 1, 2, 0])


def test_constants_of_a_world_are_no_arrays_of_a_device(world):
    """So that its programs can be lowered for other devices than those that are here."""
    inputs = KEYS, world.post_training_task, actions_of(world)
    program = jax.make_jaxpr(lambda *inputs: run(world, *inputs))(*inputs)
    assert not any(isinstance(constant, jax.Array) for constant in program.consts)
