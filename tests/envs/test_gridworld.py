"""The grid world against an independent reference, and its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl import envs
from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from tests.envs.numpy_gridworld import NumpyGridWorld

TIME_LIMIT = 30


@pytest.fixture(scope="module")
def world():
    return GridWorld(GridWorldConfig(time_limit=TIME_LIMIT))


@pytest.fixture(scope="module")
def step(world):
    return jax.jit(world.step)


def random_task(key, world):
    """Up to five colours without repeated neighbours, padded."""
    first_key, step_key, length_key = jax.random.split(key, 3)
    first = jax.random.randint(first_key, (), 0, world.config.num_colours)
    steps = jax.random.randint(step_key, (world.max_task_length,), 1, world.config.num_colours)
    colours = (first + jnp.cumsum(steps)) % world.config.num_colours
    length = jax.random.randint(length_key, (), 1, 6)
    return jnp.where(jnp.arange(world.max_task_length) < length, colours, -1)


def play(key, world):
    """An episode of half random, half greedy actions, so that some tasks are completed."""
    task_key, reset_key, step_key = jax.random.split(key, 3)
    task = random_task(task_key, world)
    state, timestep = world.reset(reset_key, task)

    def step(state, key):
        way_key, greedy_key, action_key = jax.random.split(key, 3)
        size = world.config.grid_size
        goal = state.objects[task[state.progress]]
        down, right = goal // size - state.cell // size, goal % size - state.cell % size
        vertical = jnp.where(down > 0, 1, 0)
        horizontal = jnp.where(right > 0, 3, 2)
        use_vertical = (right == 0) | ((down != 0) & jax.random.bernoulli(way_key))
        greedy = jnp.where(use_vertical, vertical, horizontal)
        action = jnp.where(
            jax.random.bernoulli(greedy_key), greedy, jax.random.randint(action_key, (), 0, 4)
        )
        state, timestep = world.step(state, action)
        return state, (action, timestep, state.success)

    keys = jax.random.split(step_key, TIME_LIMIT + 2)
    return state, timestep, *jax.lax.scan(step, state, keys)[1]


def pair_or_colour(world, task, progress):
    """The subgoal of a task's next colour by the list of subgoals, -1 for none of them."""
    task = [int(colour) for colour in task if colour >= 0]
    length = world.task_set.subgoal_length
    first = min(progress, len(task) - 1) // length * length
    subgoals = list(world.task_set.subgoals)
    wanted = tuple(task[first : first + length])
    return subgoals.index(wanted) if wanted in subgoals else -1


def assert_identical_to_numpy(world, key, num_episodes):
    keys = jax.random.split(key, num_episodes)
    batch = jax.jit(jax.vmap(lambda key: play(key, world)))(keys)
    batch = jax.tree.map(np.asarray, batch)
    successes = 0
    for i in range(num_episodes):
        state, first, actions, timesteps, success = jax.tree.map(lambda x, i=i: x[i], batch)
        reference = NumpyGridWorld(
            world.config.grid_size,
            state.objects,
            state.walls,
            state.start_cell,
            state.task,
            TIME_LIMIT,
        )
        np.testing.assert_array_equal(first.observation, reference.observation().reshape(-1))
        assert first.visit == -1 and first.progress == 0
        assert first.subgoal == pair_or_colour(world, state.task, 0)
        for t, action in enumerate(actions):
            assert reference.step(action) == timesteps.reward[t]
            assert reference.done == timesteps.done[t]
            assert reference.success == success[t]
            seen = timesteps.observation[t]
            assert np.array_equal(seen, reference.observation().reshape(-1))
            assert timesteps.visit[t] == reference.visit
            assert timesteps.progress[t] == reference.progress
            subgoal = pair_or_colour(world, state.task, reference.progress)
            assert timesteps.subgoal[t] == subgoal
        successes += reference.success
    return successes


def test_random_episodes_are_identical_to_the_numpy_reference(world):
    assert assert_identical_to_numpy(world, jax.random.key(0), 200) > 10


@pytest.mark.slow
def test_ten_thousand_random_episodes_are_identical_to_the_numpy_reference(world):
    keys = jax.random.split(jax.random.key(1), 20)
    assert sum(assert_identical_to_numpy(world, key, 500) for key in keys) > 1000


def test_observation_has_the_documented_channels(world):
    objects = jnp.arange(8) * 2 + 1
    walls = jnp.array([20, 22, 24, 26])
    _, timestep = world.reset_to(objects, walls, 48, world.post_training_task)
    assert timestep.observation.dtype == jnp.uint8
    board = np.asarray(timestep.observation).reshape(7, 7, 13)
    cells = [*objects.tolist(), *walls.tolist(), 48]
    expected = [(*divmod(cell, 7), channel) for channel, cell in enumerate(cells)]
    assert sorted(zip(*np.nonzero(board), strict=True)) == sorted(expected)


def test_actions_move_up_down_left_right_and_stop_at_walls_and_borders(world, step):
    objects = jnp.arange(41, 49)
    walls = jnp.array([9, 30, 31, 32])
    state, _ = world.reset_to(objects, walls, 8, world.post_training_task)
    moves = [step(state, action)[0].cell for action in range(4)]
    assert [int(cell) for cell in moves] == [1, 15, 7, 8]
    corner, _ = world.reset_to(objects, walls, 0, world.post_training_task)
    assert [int(step(corner, action)[0].cell) for action in range(4)] == [0, 7, 0, 1]


def test_finished_episode_does_not_change(world, step):
    objects = jnp.arange(8) + 1
    task = jnp.array([0, 1] + [-1] * 10)
    state, _ = world.reset_to(objects, jnp.array([20, 22, 24, 26]), 0, task)
    for action in (3, 3):
        state, timestep = step(state, action)
    assert timestep.reward == 1.0 and timestep.done and state.success
    after, again = step(state, 2)
    assert again.reward == 0.0 and again.done
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(before, now)
    np.testing.assert_array_equal(timestep.observation, again.observation)


def test_state_keeps_its_types_so_that_it_can_be_scanned(world):
    shape = jax.eval_shape(world.reset, jax.random.key(0), world.post_training_task)
    state, _ = shape
    assert jax.eval_shape(world.step, state, jnp.int32(0)) == shape


def test_observation_does_not_depend_on_the_task(world):
    objects, walls = jnp.arange(8), jnp.arange(8, 12)
    seen = [world.reset_to(objects, walls, 48, task)[1] for task in world.pretraining_tasks[:2]]
    np.testing.assert_array_equal(seen[0].observation, seen[1].observation)


def many_resets(world):
    """States of 2,000 resets."""
    keys = jax.random.split(jax.random.key(0), 2000)
    return jax.jit(jax.vmap(world.reset, (0, None)))(keys, world.post_training_task)[0]


def test_pool_resets_use_every_layout_and_every_free_cell():
    world = envs.make("gridworld-pinpad", "smoke")
    state = many_resets(world)
    objects, walls, free, _ = world.layouts
    index = np.asarray(state.layout_index)
    np.testing.assert_array_equal(state.objects, objects[index])
    np.testing.assert_array_equal(state.walls, walls[index])
    for layout, cells in enumerate(free):
        assert set(np.asarray(state.cell)[index == layout]) == set(cells)


def test_pool_resets_start_in_every_cell_that_clear_starts_allow():
    config = GridWorldConfig(
        grid_size=5,
        num_colours=4,
        num_walls=2,
        tasks="ant-pinpad",
        num_layouts=4,
        clear_starts=True,
    )
    world = GridWorld(config)
    state = many_resets(world)
    pool, index = world.layouts, np.asarray(state.layout_index)
    for layout, (cells, number) in enumerate(zip(pool.starts, pool.num_starts, strict=True)):
        times = [np.sum(np.asarray(state.cell)[index == layout] == c) for c in cells[:number]]
        assert sum(times) == np.sum(index == layout)
        assert min(times) > 0.7 * np.mean(times)


def test_presets_build_and_unknown_names_are_refused():
    assert envs.make("gridworld-pinpad").observation_spec.size == 637
    assert envs.make("gridworld-pinpad", "small").layouts is not None
    with pytest.raises(
        ValueError, match="environment name is 'maze', allowed are .*gridworld-pinpad"
    ):
        envs.make("maze")
    with pytest.raises(ValueError, match="preset of gridworld-pinpad is 'big', allowed are paper"):
        envs.make("gridworld-pinpad", "big")
    with pytest.raises(ValueError, match="no field 'gridsize', allowed are grid_size"):
        envs.make_from_config({"name": "gridworld-pinpad", "gridsize": 7})
    assert envs.make_from_config({"name": "gridworld-pinpad", "time_limit": 9}).time_limit == 9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid_size": 1}, "grid_size is 1, allowed is 2 or more"),
        ({"grid_size": 99}, "grid_size is 99, allowed is up to 31"),
        ({"grid_size": 7.0}, "grid_size is 7.0, allowed is int"),
        ({"num_walls": -1}, "num_walls is -1, allowed is 0 or more"),
        ({"grid_size": 3}, "num_colours \\+ num_walls is 12, allowed is up to 8"),
        ({"num_colours": 7}, "has 8 colours, allowed are up to num_colours=7"),
        ({"min_colour_distance": 2}, "min_colour_distance is 2, allowed is 1 without a pool"),
        ({"min_line_distance": 1}, "min_line_distance is 1, allowed is 0 without a pool"),
        ({"clear_rectangles": True}, "clear_rectangles is True, allowed is False without a pool"),
        ({"clear_starts": True}, "clear_starts is True, allowed is False without a pool"),
        ({"clear_rectangles": 1}, "clear_rectangles is 1, allowed is bool"),
        ({"num_colours": True}, "num_colours is True, allowed is int"),
        ({"tasks": "maze"}, "tasks is 'maze'"),
        ({"floor_plan": "##/##"}, "floor_plan is '##/##', allowed is '' or, with a pool"),
        (
            {"grid_size": 3, "num_walls": 2, "floor_plan": "#../.../...", "num_layouts": 4}
            | {"num_colours": 3},
            "3 rows of 3 signs .* with num_walls=2 signs '#'",
        ),
        ({"home_radius": 1}, "home_radius is 1, allowed is 0 or more with homes and 0 without"),
        ({"homes": "01/23"}, "homes is '01/23', allowed is '' or, with a pool"),
        (
            {"grid_size": 3, "num_walls": 0, "homes": "0../1../.1.", "num_layouts": 4}
            | {"num_colours": 3, "tasks": "walks:3:3:0-1"},
            "each of the colours 0 to 2 once and '.' elsewhere",
        ),
    ],
)
def test_impossible_settings_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        GridWorld(GridWorldConfig(**fields))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (4, "action is 4, allowed are the whole numbers 0 to 3"),
        (jnp.int32(-1), "action is -1, allowed"),
        (1.0, "action is 1.0, allowed are the whole numbers"),
        (jnp.zeros(1, jnp.int32), r"action has shape \(1,\), allowed is \(\)"),
    ],
)
def test_actions_that_do_not_exist_are_refused(world, action, message):
    state, _ = world.reset_to(jnp.arange(8), jnp.arange(8, 12), 48, world.post_training_task)
    with pytest.raises(ValueError, match=message):
        world.step(state, action)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ([0, 8], r"task is \[0, 8\], allowed are one or more colours, 0 to 7, and behind"),
        ([0, -1, 1], r"task is \[0, -1, 1\], allowed"),
        ([-1, -1], r"task is \[-1, -1\], allowed are one or more"),
        ([[0, 1]], r"task has shape \(1, 2\), allowed is \(K,\)"),
    ],
)
def test_tasks_of_unknown_colours_are_refused(world, task, message):
    with pytest.raises(ValueError, match=message):
        world.reset(jax.random.key(0), np.array(task))


def test_subgoals_of_a_traced_task_are_those_of_its_colours(world):
    """Pairs 0-1, 2-3, 4-5, 6-7; the pair 1-2 is none of the set."""
    task = jnp.array([4, 5, 1, 2, 6, 7, -1, -1])
    ask = jax.jit(jax.vmap(world.next_subgoal, (None, 0)))
    np.testing.assert_array_equal(ask(task, jnp.arange(7)), [2, 2, -1, -1, 3, 3, 3])
