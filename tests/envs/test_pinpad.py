"""Layouts: uniform, without overlap, solvable; and the visit rule."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from internal_rl.envs import pinpad
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
