"""What layouts of a pool have to fulfil: free rectangles, ways and departures, with NumPy.

Cells of a `G x G` grid are numbered row by row, as in `envs.layouts`. Every function takes `n`
layouts at once: a pool is chosen from thousands of drawn ones.
"""

import itertools

import numpy as np

# Rows and columns that the actions of the grid world move by.
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
_FAR = np.iinfo(np.int32).max


def rectangles_clear(colours: np.ndarray, grid_size: int) -> np.ndarray:
    """Whether no colour of `(n, O)` lies in the rectangle of two others of its row: `(n,)` bool."""
    clear = np.ones(len(colours), bool)
    for a, b in itertools.combinations(range(colours.shape[1]), 2):
        inside = _num_inside(colours[:, a], colours[:, b], colours, grid_size)
        # The two that span the rectangle lie in it.
        clear &= inside == 2
    return clear


def starts_clear(
    cells: np.ndarray, things: np.ndarray, num_colours: int, grid_size: int
) -> np.ndarray:
    """Whether the rectangle of each cell `(n, F)` and any colour holds no other thing.

    Args:
      cells: where episodes may start.
      things: `(n, O + W)`, the colours and behind them the walls.
      num_colours: `O`.
      grid_size: side `G` of the grid.

    Returns:
      `(n, F)` bool.
    """
    clear = np.ones(cells.shape, bool)
    for colour in range(num_colours):
        inside = _num_inside(cells, things[:, colour, None], things[:, None], grid_size)
        # The colour itself lies in it.
        clear &= inside == 1
    return clear


def _num_inside(
    first: np.ndarray, second: np.ndarray, things: np.ndarray, grid_size: int
) -> np.ndarray:
    """How many of `things (..., n)` lie in the rectangle that two cells `(...)` span: `(...)`."""
    inside = True
    for a, b, thing in zip(
        *(np.divmod(x, grid_size) for x in (first, second, things)), strict=True
    ):
        low, high = np.minimum(a, b)[..., None], np.maximum(a, b)[..., None]
        inside &= (low <= thing) & (thing <= high)
    return inside.sum(axis=-1)


def departures(
    colours: np.ndarray, free: np.ndarray, grid_size: int, follows: np.ndarray
) -> np.ndarray:
    """Most different first actions of shortest paths from each colour to its followers.

    Args:
      colours: `(n, O)` cells of the colours.
      free: `(n, F)` cells without a colour or a wall.
      grid_size: side `G` of the grid.
      follows: `(O, O)` bool, followers of each colour.

    Returns:
      `(n, O)` int; paths enter no colour but their goal.
    """
    num_layouts, num_colours = colours.shape
    rows, opened = np.arange(num_layouts)[:, None], _open_cells(free, grid_size)
    # Which sets of actions can have been chosen, one action per follower: bit `a` of a set's number
    # is action `a`.
    sets = np.arange(2 ** len(_MOVES))
    chosen = np.zeros((num_layouts, num_colours, len(sets)), bool)
    chosen[..., 0] = True
    for goal in np.flatnonzero(follows.any(axis=0)):
        steps = _steps_from(colours[:, goal], opened, grid_size)
        ahead = _around(steps, grid_size, _FAR)[rows, :, colours]
        shortest = ahead == ahead.min(axis=-1, keepdims=True)
        leads = shortest & (ahead < _FAR)
        after = np.zeros_like(chosen)
        for action in range(len(_MOVES)):
            taken = chosen & leads[..., action, None]
            # Two sets lead to the same one, with the action and without it.
            without = sets[sets & 1 << action == 0]
            with_it = without | 1 << action
            after[..., with_it] |= taken[..., without] | taken[..., with_it]
        chosen = np.where(follows[:, goal, None], after, chosen)
    sizes = np.array([bin(number).count("1") for number in sets])
    return np.max(np.where(chosen, sizes, 0), axis=-1)


def all_connected(colours: np.ndarray, free: np.ndarray, grid_size: int) -> np.ndarray:
    """Whether the free cells `(n, F)` are one component that each colour `(n, O)` touches.

    Returns:
      `(n,)` bool.
    """
    opened = _open_cells(free, grid_size)
    reached = _steps_from(free[:, 0], opened, grid_size) < _FAR
    touches = _around(opened, grid_size, False).any(axis=1)
    rows = np.arange(len(colours))[:, None]
    return (reached.sum(axis=1) == free.shape[1]) & touches[rows, colours].all(axis=1)


def _open_cells(free: np.ndarray, grid_size: int) -> np.ndarray:
    """`(n, G*G)` bool, which cells are among `free (n, F)`."""
    opened = np.zeros((len(free), grid_size**2), bool)
    np.put_along_axis(opened, free, True, axis=1)
    return opened


def _steps_from(origin: np.ndarray, opened: np.ndarray, grid_size: int) -> np.ndarray:
    """Steps from `origin (n,)` to each cell over open ones `(n, G*G)`, `_FAR` where none lead."""
    steps = np.full(opened.shape, _FAR, np.int32)
    np.put_along_axis(steps, origin[:, None], 0, axis=1)
    for number in itertools.count(1):
        before = _around(steps == number - 1, grid_size, False).any(axis=1)
        entered = before & opened & (steps == _FAR)
        if not entered.any():
            return steps
        steps[entered] = number


def _around(grids: np.ndarray, size: int, outside) -> np.ndarray:
    """What lies one action away from each cell of `(n, G*G)`: `(n, 4, G*G)`."""
    squares = grids.reshape(len(grids), size, size)
    padded = np.pad(squares, ((0, 0), (1, 1), (1, 1)), constant_values=outside)
    moved = [
        padded[:, 1 + down : 1 + down + size, 1 + right : 1 + right + size]
        for down, right in _MOVES
    ]
    return np.stack(moved, axis=1).reshape(len(grids), len(_MOVES), size**2)
