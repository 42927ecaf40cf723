"""Bit boards: sets of cells of a grid, held as the bits of a few integers.

A board is a tuple of `uint32` arrays, the words, all of one shape `(...)`: one set of cells for
every element. A word holds as many rows of the grid as fit, each followed by a bit that is always
0, so that a step to a neighbouring cell is a shift. The bit of a cell within the board is its
place: `row * (G + 1) + column`, counted over all words.

Words are separate arrays, so that a step of a flood is a handful of shifts that fuse into one loop.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

Board = tuple[chex.Array, ...]


def rows_per_word(grid_size: int) -> int:
    """Rows of the grid in one word."""
    return 32 // (grid_size + 1)


def num_words(grid_size: int) -> int:
    """Words of a board, `W`."""
    return -(-grid_size // rows_per_word(grid_size))


def whole(grid_size: int) -> tuple[np.uint32, ...]:
    """The board of all cells."""
    rows, row = rows_per_word(grid_size), (1 << grid_size) - 1
    words = [0] * num_words(grid_size)
    for i in range(grid_size):
        words[i // rows] |= row << i % rows * (grid_size + 1)
    return tuple(map(np.uint32, words))


def single(cells: chex.Array, grid_size: int) -> Board:
    """For every cell of `(...)` the board that holds it alone; none for cells outside the grid."""
    place = cells + cells // grid_size
    size = rows_per_word(grid_size) * (grid_size + 1)
    words = []
    for number, inside in enumerate(whole(grid_size)):
        bit = place - number * size
        here = (bit >= 0) & (bit < size)
        shift = jnp.where(here, bit, 0).astype(jnp.uint32)
        words.append(jnp.where(here, jnp.uint32(1) << shift & inside, jnp.uint32(0)))
    return tuple(words)


def union(cells: chex.Array, grid_size: int) -> Board:
    """The boards `(...)` of all cells of `(..., n)`."""
    last, words = cells.ndim - 1, single(cells, grid_size)
    return tuple(jax.lax.reduce(word, np.uint32(0), jax.lax.bitwise_or, (last,)) for word in words)


def neighbours(board: Board, grid_size: int) -> tuple[Board, Board, Board, Board]:
    """For each action 0 up, 1 down, 2 left, 3 right the cells that it leads from into `board`."""
    stride, rows = grid_size + 1, rows_per_word(grid_size)
    # A word holds the last row of the one before at its first row, and the other way round.
    far = np.uint32(stride * (rows - 1))
    none = jnp.zeros_like(board[0])
    before, behind = (none, *board[:-1]), (*board[1:], none)
    up = [last >> far for last in before]
    down = [first << far for first in behind]
    if rows > 1:
        near = np.uint32(stride)
        up = [word << near | more for word, more in zip(board, up, strict=True)]
        down = [word >> near | more for word, more in zip(board, down, strict=True)]
    left = [word << np.uint32(1) for word in board]
    right = [word >> np.uint32(1) for word in board]
    return tuple(
        tuple(word & inside for word, inside in zip(words, whole(grid_size), strict=True))
        for words in (up, down, left, right)
    )


def any_of(sets: tuple[Board, ...]) -> Board:
    """Cells that lie in one of several boards at least."""
    result = sets[0]
    for board in sets[1:]:
        result = tuple(word | more for word, more in zip(result, board, strict=True))
    return result


def without(board: Board, removed: Board) -> Board:
    """Cells of the first board that do not lie in the second one."""
    return tuple(word & ~other for word, other in zip(board, removed, strict=True))


def any_cell(board: Board) -> chex.Array:
    """Whether the boards `(...)` hold any cell: `(...)` bool."""
    return functools.reduce(jnp.bitwise_or, board) > 0


def row_bits(board: Board, grid_size: int) -> chex.Array:
    """For every row of the grid its cells, bit `column` for each: `(..., G)` uint32."""
    rows = rows_per_word(grid_size)
    words = jnp.stack([board[i // rows] for i in range(grid_size)], axis=-1)
    shifts = np.arange(grid_size) % rows * (grid_size + 1)
    return words >> shifts.astype(np.uint32) & np.uint32((1 << grid_size) - 1)
