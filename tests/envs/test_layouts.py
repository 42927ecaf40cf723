"""Layouts: uniform, without overlap, and what can be solved in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs import layouts
from internal_rl.envs.tasks import task_array, task_set
from tests.envs.numpy_gridworld import solvable_by_search

SIZE = 5


def test_sample_distinct_is_uniform_over_ordered_samples():
    keys = jax.random.split(jax.random.key(0), 24_000)
    samples = jax.jit(jax.vmap(lambda key: layouts.sample_distinct(key, 4, 3)))(keys)
    assert samples.dtype == jnp.int32
    codes, counts = np.unique(np.asarray(samples) @ np.array([16, 4, 1]), return_counts=True)
    assert len(codes) == 24
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000))


def test_solvable_agrees_with_graph_search():
    keys = jax.random.split(jax.random.key(1), 300)
    cells = jax.jit(jax.vmap(lambda key: layouts.sample_distinct(key, SIZE**2, 12)))(keys)
    task = jnp.array([2, 0, 1, 3, -1])
    check = jax.vmap(lambda c: layouts.solvable(c[:4], c[4:11], c[11], task, SIZE))
    found = jax.jit(check)(cells)
    drawn = ((c[:4], c[4:11], c[11]) for c in np.asarray(cells))
    expected = [solvable_by_search(SIZE, *layout, np.asarray(task)) for layout in drawn]
    np.testing.assert_array_equal(found, expected)
    assert 50 < np.sum(expected) < 250


def test_layouts_are_redrawn_until_they_solve_the_task():
    keys = jax.random.split(jax.random.key(2), 200)
    task = jnp.array([2, 0, 1, 3])
    draw = jax.jit(jax.vmap(lambda key: layouts.sample_layout(key, SIZE, 4, 7, task)))
    objects, walls, start = draw(keys)
    things = np.concatenate([objects, walls, np.asarray(start)[:, None]], axis=1)
    assert all(len(set(row)) == 12 for row in things.tolist())
    assert things.min() == 0 and things.max() == SIZE**2 - 1
    drawn = zip(np.asarray(objects), np.asarray(walls), np.asarray(start), strict=True)
    assert all(solvable_by_search(SIZE, *layout, np.asarray(task)) for layout in drawn)


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
            layout = layouts.sample_layout(key, *sizes, None)
            return ~layouts.solvable(*layout, task, sizes[0])

        keys = jax.random.split(jax.random.key(3), 20_000)
        found = float(jnp.mean(jax.jit(jax.vmap(unsolved))(keys)))
        # Five standard errors.
        assert abs(found - share) < 0.0005 + 5 * np.sqrt(share / 20_000)


def test_without_redrawing_the_first_layout_is_taken():
    keys = jax.random.split(jax.random.key(2), 200)
    task = jnp.array([2, 0, 1, 3])
    first = jax.jit(jax.vmap(lambda key: layouts.sample_layout(key, SIZE, 4, 7, None)))(keys)
    redrawn = jax.jit(jax.vmap(lambda key: layouts.sample_layout(key, SIZE, 4, 7, task)))(keys)
    same = np.all(
        [(x == y).reshape(200, -1).all(axis=1) for x, y in zip(first, redrawn, strict=True)], axis=0
    )
    drawn = zip(*map(np.asarray, first), strict=True)
    expected = [solvable_by_search(SIZE, *layout, np.asarray(task)) for layout in drawn]
    np.testing.assert_array_equal(same, expected)
    assert 20 < same.sum() < 180
