"""Sets of actions packed into words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs import boards
from internal_rl.experts import action_words

SIZES = [2, 7, 8, 9, 31]


def random_masks(grid_size):
    return np.random.default_rng(grid_size).integers(0, 16, (3, grid_size**2), np.uint8)


@pytest.mark.parametrize("grid_size", SIZES)
def test_words_hold_the_masks(grid_size):
    masks = random_masks(grid_size)
    words = action_words.from_masks(jnp.asarray(masks), grid_size)
    assert words.dtype == np.uint32 and words.shape == (3, action_words.num_words(grid_size))
    np.testing.assert_array_equal(action_words.to_masks(words, grid_size), masks)
    cells = np.arange(grid_size**2, dtype=np.int32)
    place = action_words.place_of(cells, grid_size)
    assert place.max() < 1024
    np.testing.assert_array_equal(action_words.cell_of(place, grid_size), cells)
    found = action_words.actions_at(words[:, place // 8], jnp.asarray(place))
    np.testing.assert_array_equal(found, masks)


@functools.partial(jax.jit, static_argnums=1)
def by_boards(masks, grid_size):
    sets = []
    for action in range(4):
        member = masks >> action & 1 == 1
        cells = jnp.where(member, jnp.arange(grid_size**2), grid_size**2)
        sets.append(boards.union(cells, grid_size))
    return action_words.from_boards(tuple(sets), grid_size)


@pytest.mark.parametrize("grid_size", [2, 5, 8, 9])
def test_words_of_boards_are_those_of_the_masks(grid_size):
    masks = random_masks(grid_size)
    found = by_boards(masks, grid_size)
    np.testing.assert_array_equal(found, action_words.from_masks(jnp.asarray(masks), grid_size))


def test_offsets_lead_to_the_neighbours():
    place = action_words.place_of(4 * 9 + 4, 9)
    cells = [action_words.cell_of(place + offset, 9) for offset in action_words.offsets(9)]
    assert cells == [31, 49, 39, 41]
