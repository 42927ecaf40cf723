"""Bit boards against sets of cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs import boards

SIZES = [2, 3, 5, 7, 8, 13, 15, 16, 31]


row_bits, union, single, neighbours = (
    jax.jit(f, static_argnums=1)
    for f in (boards.row_bits, boards.union, boards.single, boards.neighbours)
)


def cells_of(board, grid_size):
    """`(..., G, G)` bool."""
    rows = np.asarray(row_bits(board, grid_size))
    return rows[..., None] >> np.arange(grid_size, dtype=np.uint32) & 1 == 1


def random_cells(grid_size, count=6):
    """Cells inside and outside of the grid."""
    return np.random.default_rng(grid_size).integers(-1, grid_size**2 + 2, (4, count), np.int32)


def occupied(cells, grid_size):
    found = (np.arange(grid_size**2) == cells[..., None]).any(axis=-2)
    return found.reshape(*found.shape[:-1], grid_size, grid_size)


@pytest.mark.parametrize("grid_size", SIZES)
def test_boards_hold_the_cells_of_the_grid_and_no_others(grid_size):
    cells = random_cells(grid_size)
    found = cells_of(union(jnp.asarray(cells), grid_size), grid_size)
    np.testing.assert_array_equal(found, occupied(cells, grid_size))
    found = cells_of(single(jnp.asarray(cells), grid_size), grid_size)
    np.testing.assert_array_equal(found, occupied(cells[..., None], grid_size))
    assert cells_of(boards.whole(grid_size), grid_size).all()
    bits = sum(int(word).bit_count() for word in boards.whole(grid_size))
    assert bits == grid_size**2 and len(boards.whole(grid_size)) == boards.num_words(grid_size)


@pytest.mark.parametrize("grid_size", SIZES)
def test_neighbours_are_the_cells_that_an_action_leads_from(grid_size):
    cells = random_cells(grid_size, grid_size**2 // 2)
    ahead = neighbours(union(jnp.asarray(cells), grid_size), grid_size)
    padded = np.pad(occupied(cells, grid_size), ((0, 0), (1, 1), (1, 1)))
    expected = [
        padded[:, :-2, 1:-1],
        padded[:, 2:, 1:-1],
        padded[:, 1:-1, :-2],
        padded[:, 1:-1, 2:],
    ]
    for board, there in zip(ahead, expected, strict=True):
        np.testing.assert_array_equal(cells_of(board, grid_size), there)


def test_sets_of_cells_are_joined_and_subtracted():
    first, second = np.array([1, 5, 30]), np.array([5, 48])
    a, b = (union(jnp.asarray(cells), 7) for cells in (first, second))
    np.testing.assert_array_equal(
        cells_of(boards.any_of((a, b)), 7), occupied(np.array([1, 5, 30, 48]), 7)
    )
    np.testing.assert_array_equal(cells_of(boards.without(a, b), 7), occupied(np.array([1, 30]), 7))
    assert boards.any_cell(a) and not boards.any_cell(boards.without(a, a))
