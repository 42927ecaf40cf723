"""Layouts: uniform, without overlap, solvable."""

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


def test_pool_layouts_keep_their_distance_and_connect_everything():
    objects, walls, free = pinpad.layout_pool(20, 3, 6, 4, 3, min_colour_distance=3)
    assert objects.shape == (20, 4) and walls.shape == (20, 3) and free.shape == (20, 29)
    for colours, blocked, rest in zip(objects, walls, free, strict=True):
        assert sorted([*colours, *blocked, *rest]) == list(range(36))
        places = [divmod(int(cell), 6) for cell in colours]
        for i, (row, column) in enumerate(places):
            assert all(abs(row - r) + abs(column - c) >= 3 for r, c in places[:i])
        for goal in range(4):
            graph = path_graph(6, colours, blocked, goal)
            reaching = nx.ancestors(graph, int(colours[goal]))
            assert reaching >= (set(rest.tolist()) | set(colours.tolist())) - {int(colours[goal])}


def test_pool_is_a_function_of_its_seed():
    first, again = (pinpad.layout_pool(4, 5, 5, 3, 2) for _ in range(2))
    other = pinpad.layout_pool(4, 6, 5, 3, 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_impossible_pool_is_refused(monkeypatch):
    monkeypatch.setattr(pinpad, "_MAX_POOL_DRAWS", 200)
    with pytest.raises(
        ValueError, match="num_layouts=2 with min_colour_distance=9: only 0 layouts"
    ):
        pinpad.layout_pool(2, 0, 4, 4, 1, min_colour_distance=9)


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
