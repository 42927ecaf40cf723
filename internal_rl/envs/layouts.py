"""Layouts that are drawn at every reset, and whether a task can be completed in one.

Cells of a `G x G` grid are numbered row by row, `cell = row * G + column`, rows downwards. A layout
is `objects (O,)`, the cell of every colour, and `walls (W,)`, the cells of the walls.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.backend import backend
from internal_rl.envs import boards

# A row of the grid and one more bit fit into a word of a bit board.
MAX_GRID_SIZE = 31
MAX_REDRAWS = 1000
# Steps of a flood in one iteration of its loop, chosen by timing: each iteration has a fixed cost.
_FLOOD_STEPS = 4


def sample_distinct(key: chex.PRNGKey, num_values: int, num_samples: int) -> chex.Array:
    """Ordered sample without replacement from `range(num_values)`, `(num_samples,)` int32.

    Draws a Lehmer code (element i is uniform over `num_values - i` ranks) and decodes it, which
    needs a few dozen comparisons instead of a sort of all values.
    """
    ranks = jnp.arange(num_values, num_values - num_samples, -1)
    sample = jax.random.randint(key, (num_samples,), 0, ranks, jnp.int32)
    later = np.arange(num_samples)
    for i in range(num_samples - 2, -1, -1):
        if backend() == "tpu":
            # Otherwise XLA does all steps before in each step once more.
            sample = jax.lax.optimization_barrier(sample)
        sample = sample + ((later > i) & (sample >= sample[i]))
    return sample


def solvable(
    objects: chex.Array, walls: chex.Array, start_cell: chex.Array, task: chex.Array, grid_size: int
) -> chex.Array:
    """Whether `task` can be completed from `start_cell` without entering a wrong colour.

    Floods the free cells from the start and from every colour at once, on bit boards.

    Args:
      objects: `(O,)`, walls: `(W,)`, start_cell: `()` free cell.
      task: `(K,)` colours padded with -1.
      grid_size: side `G` of the grid, up to `MAX_GRID_SIZE`.

    Returns:
      `()` bool.
    """

    def spread(board):
        return boards.any_of((board, *boards.neighbours(board, grid_size)))

    def flood(carry):
        board, _ = carry
        larger = board
        for _ in range(_FLOOD_STEPS):
            wider = zip(larger, spread(larger), free, strict=True)
            larger = tuple(word | more & free_word for word, more, free_word in wider)
        gained = boards.without(larger, board)
        return larger, jnp.any(boards.any_cell(gained))

    things = boards.union(jnp.concatenate([objects, walls]), grid_size)
    free = boards.without(boards.whole(grid_size), things)
    origin = boards.single(jnp.concatenate([start_cell[None], objects]), grid_size)
    # Where the cells are spread over devices the flag has to be so too from the start.
    begun = jnp.any(boards.any_cell(origin))
    with jax.named_scope("flood"):
        board, _ = jax.lax.while_loop(lambda carry: carry[1], flood, (origin, begun))
    # Colours are not free, so that a flood stops in front of them and one more step enters them.
    entered = spread(board)
    source = jnp.concatenate([jnp.zeros(1, task.dtype), task[:-1] + 1])
    target = boards.single(objects[jnp.maximum(task, 0)], grid_size)
    pairs = zip(entered, target, strict=True)
    found = boards.any_cell(tuple(word[source] & bit for word, bit in pairs))
    return jnp.all(found | (task < 0))


def sample_layout(
    key: chex.PRNGKey, grid_size: int, num_colours: int, num_walls: int, task: chex.Array | None
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Draws a layout and a start cell, uniformly without overlap.

    Args:
      key: randomness.
      grid_size: side `G` of the grid, in cells.
      num_colours: `O`.
      num_walls: `W`.
      task: `(K,)`; layouts that do not solve it are drawn again. None takes the first one.

    Returns:
      objects `(O,)`, walls `(W,)`, start cell `()`, all int32. After `MAX_REDRAWS` unsolvable
      draws the last one is returned.
    """
    num_things = num_colours + num_walls + 1

    def draw_one(key):
        cells = sample_distinct(key, grid_size**2, num_things)
        return cells[:num_colours], cells[num_colours:-1], cells[-1]

    def draw(key):
        layout = draw_one(key)
        return layout, solvable(*layout, task, grid_size)

    def redraw(carry):
        key, count, _, _ = carry
        key, draw_key = jax.random.split(key)
        return key, count + 1, *draw(draw_key)

    def unsolved(carry):
        _, count, _, solved = carry
        return (count < MAX_REDRAWS) & ~solved

    key, draw_key = jax.random.split(key)
    if task is None:
        return draw_one(draw_key)
    layout, solved = draw(draw_key)
    # All that the loop carries is spread over devices as its condition is; the same numbers.
    start = (key, jnp.int32(1), layout, solved)
    start = jax.tree.map(lambda x: jax.lax.select(solved, x, x), start)
    with jax.named_scope("redraw"):
        _, _, layout, _ = jax.lax.while_loop(unsolved, redraw, start)
    return layout
