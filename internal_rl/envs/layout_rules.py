"""What layouts of a pool have to fulfil: free rectangles, ways and departures, with NumPy.

Cells of a `G x G` grid are numbered row by row, as in `envs.pinpad`.
"""

import itertools
from collections.abc import Iterator

import numpy as np


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
    """Whether the rectangle of each cell `(F,)` and any colour holds no other thing: `(F,)` bool.

    `things (O + W,)` are the colours and behind them the walls.
    """
    inside = _num_inside(cells[:, None], things[:num_colours], things, grid_size)
    # The colour itself lies in it.
    return np.all(inside == 1, axis=1)


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
      colours: `(O,)` cells of the colours.
      free: cells without a colour or a wall.
      grid_size: side `G` of the grid.
      follows: `(O, O)` bool, followers of each colour.

    Returns:
      `(O,)` int; paths enter no colour but their goal.
    """
    steps = [_steps_from(int(goal), free, grid_size) for goal in colours]
    counts = []
    for here, goals in zip(colours, follows, strict=True):
        choices = [
            _first_actions(int(here), steps[goal], grid_size) for goal in np.flatnonzero(goals)
        ]
        counts.append(max(len(set(choice)) for choice in itertools.product(*choices)))
    return np.array(counts)


def _first_actions(cell: int, steps: dict[int, int], grid_size: int) -> list[int]:
    """Actions that lead from `cell` to the fewest remaining steps."""
    ahead = {action: steps[n] for action, n in _around(cell, grid_size) if n in steps}
    shortest = min(ahead.values(), default=None)
    return [action for action, remaining in ahead.items() if remaining == shortest]


def all_connected(colours: np.ndarray, free: np.ndarray, grid_size: int) -> bool:
    """Whether the free cells are one component and every colour touches it."""
    if len(_steps_from(int(free[0]), free, grid_size)) < len(free):
        return False
    cells = set(free.tolist())
    return all(
        any(neighbour in cells for _, neighbour in _around(int(colour), grid_size))
        for colour in colours
    )


def _steps_from(origin: int, free: np.ndarray, grid_size: int) -> dict[int, int]:
    """Steps from `origin` to each free cell that it reaches over free cells, by breadth first."""
    cells, steps, queue = set(free.tolist()), {origin: 0}, [origin]
    for cell in queue:
        for _, neighbour in _around(cell, grid_size):
            if neighbour in cells and neighbour not in steps:
                steps[neighbour] = steps[cell] + 1
                queue.append(neighbour)
    return steps


def _around(cell: int, grid_size: int) -> Iterator[tuple[int, int]]:
    """Actions that stay inside the grid and the cells they lead to."""
    row, column = divmod(cell, grid_size)
    for action, (down, right) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
        if 0 <= row + down < grid_size and 0 <= column + right < grid_size:
            yield action, (row + down) * grid_size + column + right
