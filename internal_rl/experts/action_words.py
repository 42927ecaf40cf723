"""Sets of actions of eight neighbouring cells of a row in one `uint32`, four bits for each.

Bit `a` of the four stands for action `a`. A row of the grid takes as many words as it needs; the
place of a cell is where its four bits are: word `place // 8`, bits from `4 * (place % 8)` on.
"""

import chex
import jax.numpy as jnp
import numpy as np

from internal_rl.envs import boards

_CELLS = 8
_SHIFTS = np.arange(0, 32, 4, dtype=np.uint32)


def num_words(grid_size: int) -> int:
    """Words of a grid."""
    return grid_size * _words_per_row(grid_size)


def place_of(cell: chex.Array, grid_size: int) -> chex.Array:
    """Places of cells; below 1024 for grids of up to 31 x 31."""
    return cell + cell // grid_size * (_width(grid_size) - grid_size)


def cell_of(place: chex.Array, grid_size: int) -> chex.Array:
    """Cells at places."""
    return place - place // _width(grid_size) * (_width(grid_size) - grid_size)


def offsets(grid_size: int) -> tuple[int, int, int, int]:
    """By how much each action changes the place."""
    return -_width(grid_size), _width(grid_size), -1, 1


def actions_at(word: chex.Array, place: chex.Array) -> chex.Array:
    """Mask of the actions at a place, int32, from word `place // 8`."""
    shift = ((place & _CELLS - 1) * 4).astype(jnp.uint32)
    return (word >> shift & 15).astype(jnp.int32)


def from_boards(sets: tuple[boards.Board, ...], grid_size: int) -> chex.Array:
    """A bit board `(...)` of the cells with each action, to words `(..., num_words)`."""
    total = np.uint32(0)
    for action, board in enumerate(sets):
        rows = boards.row_bits(board, grid_size)[..., None]
        eights = rows >> np.arange(0, grid_size, _CELLS, dtype=np.uint32) & np.uint32(0xFF)
        total |= _every_fourth(eights) << np.uint32(action)
    return total.reshape(*total.shape[:-2], num_words(grid_size))


def from_masks(mask: chex.Array, grid_size: int) -> chex.Array:
    """Masks of actions by cell, `(..., G*G)` uint8, to words `(..., num_words)`."""
    lead = mask.shape[:-1]
    rows = mask.reshape(*lead, grid_size, grid_size).astype(jnp.uint32)
    beyond = _width(grid_size) - grid_size
    rows = jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, beyond)])
    eights = rows.reshape(*lead, num_words(grid_size), _CELLS)
    return jnp.sum(eights << _SHIFTS, axis=-1, dtype=jnp.uint32)


def to_masks(words: chex.Array, grid_size: int) -> chex.Array:
    """The reverse of `from_masks`."""
    lead = words.shape[:-1]
    eights = (words[..., None] >> _SHIFTS & 15).astype(jnp.uint8)
    rows = eights.reshape(*lead, grid_size, _width(grid_size))
    return rows[..., :grid_size].reshape(*lead, grid_size**2)


def _words_per_row(grid_size: int) -> int:
    return -(-grid_size // _CELLS)


def _width(grid_size: int) -> int:
    """Places of a row."""
    return _CELLS * _words_per_row(grid_size)


def _every_fourth(bits: chex.Array) -> chex.Array:
    """Moves bit `i` of eight to bit `4 * i`."""
    for shift, kept in ((12, 0x000F000F), (6, 0x03030303), (3, 0x11111111)):
        bits = (bits | bits << np.uint32(shift)) & np.uint32(kept)
    return bits
