"""Pools of fixed layouts for small worlds, drawn once with NumPy when a world is built."""

import functools
from typing import NamedTuple

import numpy as np

from internal_rl.envs import tasks
from internal_rl.envs.layout_config import LayoutPoolConfig
from internal_rl.envs.layout_rules import (
    all_connected,
    departures,
    rectangles_clear,
    starts_clear,
)

_DRAWS_AT_ONCE, _CHECKED_AT_ONCE = 4_096, 512
_MAX_FRUITLESS_DRAWS, _MAX_DRAWS = 200_000, 4_000_000
# On larger grids there is time for fewer: ways are as long as the side, and every step of all of
# them passes over all cells.
_USUAL_SIDE = 7


class LayoutPool(NamedTuple):
    """Fixed layouts, all int32.

    Attributes:
      objects: `(N, O)` cell of each colour.
      walls: `(N, W)` cell of each wall.
      starts: `(N, F)` cells where episodes start, in ascending order; behind the first `num_starts`
        the last one is repeated. `F` is the number of cells without a colour or a wall.
      num_starts: `(N,)`.
    """

    objects: np.ndarray
    walls: np.ndarray
    starts: np.ndarray
    num_starts: np.ndarray


@functools.lru_cache(maxsize=2)
def pool_of(config: LayoutPoolConfig) -> LayoutPool:
    """The pool of a config, see `draw_pool`; large ones take seconds to draw."""
    return draw_pool(config)


def draw_pool(config: LayoutPoolConfig, follows: np.ndarray | None = None) -> LayoutPool:
    """Draws fixed layouts in which every free cell and every colour reaches every colour.

    Args:
      config: settings of a world with a pool, see `LayoutPoolConfig`.
      follows: `(O, O)` bool, followers of each colour, for `min_departures`; by default those of
        the config's pretraining tasks.

    Raises:
      ValueError: if such layouts are too rare to be found.
    """
    if follows is None:
        follows = tasks.followers(tasks.task_set(config.tasks), config.num_colours)
    wanted = np.minimum(config.min_departures, follows.sum(axis=1))
    rng = np.random.default_rng(config.layout_seed)
    draw = _draw_at_home if config.homes else _draw_anywhere
    share = min((_USUAL_SIDE / config.grid_size) ** 3, 1.0)
    fruitless, most = _MAX_FRUITLESS_DRAWS * share, _MAX_DRAWS * share
    kept, last_hit = [], 0
    draws = num_kept = 0
    while num_kept < config.num_layouts and draws - last_hit < fruitless and draws < most:
        draws += _DRAWS_AT_ONCE
        drawn = draw(rng, config)
        # In parts: of large grids a few layouts are all that there is time for.
        for first in range(0, len(drawn), _CHECKED_AT_ONCE):
            part = drawn[first : first + _CHECKED_AT_ONCE]
            kept.append(_suitable(part, config, wanted, follows))
            num_kept += len(kept[-1].objects)
            if len(kept[-1].objects):
                last_hit = draws
            if num_kept >= config.num_layouts:
                break
    if num_kept < config.num_layouts:
        raise ValueError(_too_rare(config, num_kept))
    pool = (np.concatenate(parts)[: config.num_layouts] for parts in zip(*kept, strict=True))
    return LayoutPool(*(cells.astype(np.int32) for cells in pool))


def _suitable(
    cells: np.ndarray, config: LayoutPoolConfig, wanted: np.ndarray, follows: np.ndarray
) -> LayoutPool:
    """Those of the drawn layouts `cells (n, G*G)` that fulfil all that the config asks for."""
    grid_size, num_colours = config.grid_size, config.num_colours
    num_things = num_colours + config.num_walls
    cells = _apart(cells, config)
    if config.clear_rectangles:
        cells = cells[rectangles_clear(cells[:, :num_colours], grid_size)]
    cells[:, num_things:].sort(axis=1)
    cells = cells[all_connected(cells[:, :num_colours], cells[:, num_things:], grid_size)]
    if wanted.any():
        most = departures(cells[:, :num_colours], cells[:, num_things:], grid_size, follows)
        cells = cells[np.all(most >= wanted, axis=1)]
    rest = cells[:, num_things:]
    allowed = np.ones(rest.shape, bool)
    if config.clear_starts:
        allowed = starts_clear(rest, cells[:, :num_things], num_colours, grid_size)
    some = allowed.any(axis=1)
    cells, rest, allowed = cells[some], rest[some], allowed[some]
    num_starts = allowed.sum(axis=1)
    # The allowed ones first, and the last of them again behind.
    order = np.argsort(~allowed, axis=1, kind="stable")
    order = np.take_along_axis(
        order, np.minimum(np.arange(rest.shape[1]), num_starts[:, None] - 1), axis=1
    )
    starts = np.take_along_axis(rest, order, axis=1)
    return LayoutPool(cells[:, :num_colours], cells[:, num_colours:num_things], starts, num_starts)


def _too_rare(config: LayoutPoolConfig, num_found: int) -> str:
    names = ("min_colour_distance", "min_line_distance", "clear_rectangles", "clear_starts")
    limits = ", ".join(f"{name}={getattr(config, name)}" for name in names)
    return (
        f"num_layouts={config.num_layouts} with {limits} and "
        f"min_departures={config.min_departures}: only {num_found} layouts found, allowed are "
        f"values that a {config.grid_size}x{config.grid_size} grid with {config.num_colours} "
        f"colours and {config.num_walls} walls can hold"
    )


def _draw_anywhere(rng: np.random.Generator, config: LayoutPoolConfig) -> np.ndarray:
    """Random orders of all cells, `(n, G*G)`; fixed walls follow behind the `O` colours."""
    every, fixed_walls = np.arange(config.grid_size**2), config.fixed_walls()
    if fixed_walls is not None:
        every = np.setdiff1d(every, fixed_walls)
    cells = rng.permuted(np.tile(every, (_DRAWS_AT_ONCE, 1)), axis=1)
    if fixed_walls is None:
        return cells
    walls = np.tile(fixed_walls, (_DRAWS_AT_ONCE, 1))
    colours, rest = np.split(cells, [config.num_colours], axis=1)
    return np.concatenate([colours, walls, rest], axis=1)


def _draw_at_home(rng: np.random.Generator, config: LayoutPoolConfig) -> np.ndarray:
    """The same with every colour at most `home_radius` rows and columns away from its home."""
    grid_size, homes = config.grid_size, config.home_cells()
    rows, columns = np.divmod(np.arange(grid_size**2), grid_size)
    fixed_walls = config.fixed_walls()
    walls = np.array([], int) if fixed_walls is None else fixed_walls
    colours = []
    for home in homes:
        row, column = divmod(int(home), grid_size)
        near = np.maximum(np.abs(rows - row), np.abs(columns - column)) <= config.home_radius
        cells = np.setdiff1d(np.flatnonzero(near), walls)
        if len(cells) == 0:
            raise ValueError(
                f"homes: the floor plan leaves no cell within {config.home_radius} of {home}, "
                "allowed are homes with one"
            )
        colours.append(rng.choice(cells, _DRAWS_AT_ONCE))
    colours = np.stack(colours, axis=1)
    # Each colour drew for itself; two in one cell leave no order of all cells.
    colours = colours[np.all(np.diff(np.sort(colours, axis=1), axis=1) > 0, axis=1)]
    front = np.concatenate([colours, np.tile(walls, (len(colours), 1))], axis=1)
    place = rng.random((len(colours), grid_size**2))
    np.put_along_axis(place, front, np.arange(front.shape[1]) - float(front.shape[1]), axis=1)
    return np.argsort(place, axis=1)


def _apart(cells: np.ndarray, config: LayoutPoolConfig) -> np.ndarray:
    """The rows of `cells (n, G*G)` whose first `O` cells are different and far enough apart."""
    rows, columns = np.divmod(cells[:, : config.num_colours], config.grid_size)
    first, second = np.triu_indices(config.num_colours, 1)
    apart = np.stack([np.abs(x[:, first] - x[:, second]) for x in (rows, columns)])
    far = apart.sum(axis=0) >= config.min_colour_distance
    off_lines = apart.min(axis=0) >= config.min_line_distance
    return cells[np.all(far & off_lines, axis=1)]
