"""Layouts: uniform, without overlap, solvable; and the visit rule."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from internal_rl.envs import pinpad
from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from internal_rl.envs.tasks import task_array, task_set
from internal_rl.envs.world import capabilities, make_from_config
from tests.envs.numpy_gridworld import path_graph

SIZE = 5


def solvable_by_search(objects, walls, start_cell, task):
    """Whether networkx finds a way through all colours of the task."""
    cell = int(start_cell)
    for colour in task[task >= 0]:
        if not nx.has_path(path_graph(SIZE, objects, walls, colour), cell, int(objects[colour])):
            return False
        cell = int(objects[colour])
    return True


def test_sample_distinct_is_uniform_over_ordered_samples():
    keys = jax.random.split(jax.random.key(0), 24_000)
    samples = jax.jit(jax.vmap(lambda key: pinpad.sample_distinct(key, 4, 3)))(keys)
    assert samples.dtype == jnp.int32
    codes, counts = np.unique(np.asarray(samples) @ np.array([16, 4, 1]), return_counts=True)
    assert len(codes) == 24
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000))


def test_solvable_agrees_with_graph_search():
    keys = jax.random.split(jax.random.key(1), 300)
    cells = jax.jit(jax.vmap(lambda key: pinpad.sample_distinct(key, SIZE**2, 12)))(keys)
    task = jnp.array([2, 0, 1, 3, -1])
    check = jax.vmap(lambda c: pinpad.solvable(c[:4], c[4:11], c[11], task, SIZE))
    found = jax.jit(check)(cells)
    layouts = ((c[:4], c[4:11], c[11]) for c in np.asarray(cells))
    expected = [solvable_by_search(*layout, np.asarray(task)) for layout in layouts]
    np.testing.assert_array_equal(found, expected)
    assert 50 < np.sum(expected) < 250


def test_layouts_are_redrawn_until_they_solve_the_task():
    keys = jax.random.split(jax.random.key(2), 200)
    task = jnp.array([2, 0, 1, 3])
    draw = jax.jit(jax.vmap(lambda key: pinpad.sample_layout(key, SIZE, 4, 7, task)))
    objects, walls, start = draw(keys)
    things = np.concatenate([objects, walls, np.asarray(start)[:, None]], axis=1)
    assert all(len(set(row)) == 12 for row in things.tolist())
    assert things.min() == 0 and things.max() == SIZE**2 - 1
    layouts = zip(np.asarray(objects), np.asarray(walls), np.asarray(start), strict=True)
    assert all(solvable_by_search(*layout, np.asarray(task)) for layout in layouts)


@pytest.mark.parametrize(
    ("content", "moved", "progress", "expected"),
    [
        (1, True, 0, (1, False, False)),
        (2, True, 0, (0, False, True)),
        (2, False, 0, (0, False, False)),
        (pinpad.FREE, True, 0, (0, False, False)),
        (0, True, 1, (2, True, False)),
    ],
    ids=["next colour", "wrong colour", "standing still", "free cell", "last colour"],
)
def test_visit_rule(content, moved, progress, expected):
    task = jnp.array([1, 0, -1])
    outcome = pinpad.visit(jnp.int8(content), jnp.bool_(moved), task, jnp.int32(progress))
    assert tuple(int(x) for x in outcome) == expected


def test_visit_completes_a_task_without_padding():
    outcome = pinpad.visit(jnp.int8(0), jnp.bool_(True), jnp.array([1, 0]), jnp.int32(1))
    assert tuple(int(x) for x in outcome) == (2, True, False)


@pytest.mark.parametrize(
    ("sizes", "tasks", "shares"),
    [((7, 8, 4), "gridworld-pinpad", (0.141, 0.189)), ((4, 4, 1), "ant-pinpad", (0.110, 0.134))],
    ids=["grid world", "ant"],
)
def test_so_many_uniform_layouts_cannot_be_solved(sizes, tasks, shares):
    """On the pretraining tasks and on the post-training task of the preset `paper`."""
    chosen = task_set(tasks)
    for task_list, share in zip((chosen.pretraining, (chosen.post_training,)), shares, strict=True):
        array = jnp.asarray(task_array(task_list, max(map(len, task_list))))

        def unsolved(key, array=array):
            task_key, key = jax.random.split(key)
            task = array[jax.random.randint(task_key, (), 0, len(array))]
            layout = pinpad.sample_layout(key, *sizes, None)
            return ~pinpad.solvable(*layout, task, sizes[0])

        keys = jax.random.split(jax.random.key(3), 20_000)
        found = float(jnp.mean(jax.jit(jax.vmap(unsolved))(keys)))
        # Five standard errors.
        assert abs(found - share) < 0.0005 + 5 * np.sqrt(share / 20_000)


def test_without_redrawing_the_first_layout_is_taken():
    keys = jax.random.split(jax.random.key(2), 200)
    task = jnp.array([2, 0, 1, 3])
    first = jax.jit(jax.vmap(lambda key: pinpad.sample_layout(key, SIZE, 4, 7, None)))(keys)
    redrawn = jax.jit(jax.vmap(lambda key: pinpad.sample_layout(key, SIZE, 4, 7, task)))(keys)
    same = np.all(
        [(x == y).reshape(200, -1).all(axis=1) for x, y in zip(first, redrawn, strict=True)], axis=0
    )
    layouts = zip(*map(np.asarray, first), strict=True)
    expected = [solvable_by_search(*layout, np.asarray(task)) for layout in layouts]
    np.testing.assert_array_equal(same, expected)
    assert 20 < same.sum() < 180


def test_a_world_tells_what_cannot_be_solved_where_it_draws_that_alone():
    sizes = {"grid_size": SIZE, "num_colours": 4, "num_walls": 7, "tasks": "ant-pinpad"}
    every, solved = (GridWorld(GridWorldConfig(**sizes, solvable_only=x)) for x in (False, True))
    assert "solvable" in capabilities(every) and "solvable" not in capabilities(solved)
    assert "solvable" not in capabilities(every.with_solvable_layouts())
    keys = jax.random.split(jax.random.key(4), 100)
    state, _ = jax.jit(jax.vmap(every.reset, (0, None)))(keys, every.post_training_task)
    layouts = zip(*map(np.asarray, (state.objects, state.walls, state.start_cell)), strict=True)
    expected = [solvable_by_search(*layout, every.post_training_task) for layout in layouts]
    np.testing.assert_array_equal(jax.jit(jax.vmap(every.solvable))(state), expected)
    assert 10 < np.sum(expected) < 90
    # An older config knows no such field, and layouts were redrawn then.
    assert make_from_config({"name": "gridworld-pinpad", **sizes}).config.solvable_only
    sizes |= {"num_walls": 1, "num_layouts": 2}
    pool = GridWorld(GridWorldConfig(**sizes, solvable_only=False))
    assert "solvable" not in capabilities(pool)
