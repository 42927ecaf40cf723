"""Pools of fixed layouts for small worlds, drawn once with NumPy when a world is built."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from internal_rl.envs import tasks
from internal_rl.envs.layout_rules import (
    all_connected,
    departures,
    rectangles_clear,
    starts_clear,
)

_DRAWS_AT_ONCE, _CHECKED_AT_ONCE = 4_096, 512
_MAX_FRUITLESS_DRAWS = 200_000
# Cells of layouts that are drawn without finding one, and of all that are drawn: seconds.
_MAX_FRUITLESS_CELLS, _MAX_DRAWN_CELLS = 10_000_000, 200_000_000
# Cells of all layouts of a pool together, eight bytes each.
_MAX_CELLS = 50_000_000
# Five cells, ordered by their columns, hold three whose rows rise or fall (Erdős, Szekeres 1935).
_MOST_CLEAR = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayoutPoolConfig:
    """What the configs of all worlds say about their layouts.

    A config adds `grid_size`, `num_colours`, `num_walls` and `tasks`.

    Attributes:
      num_layouts: 0 draws a new layout at every reset; otherwise the size of a fixed pool.
      solvable_only: a layout in which the task cannot be completed is drawn again. False draws
        layouts uniformly, as in the paper, so that some episodes cannot succeed (grid world, preset
        `paper`: 19 % of those on the post-training task, ant 13 %). Layouts of a pool can all be
        solved, whatever it says.
      layout_seed: seed of the pool.
      min_colour_distance: smallest L1 distance between two colours of a pool layout, in cells.
      min_line_distance: smallest number of rows, and of columns, between two colours of a pool
        layout; 1 lets no two colours share a row or a column, so that a path of two straight legs
        between two colours passes no third one.
      clear_rectangles: with a pool, no third colour lies in the rectangle that two colours span, so
        that no path between them, straight ones included, has to go around a third one.
      clear_starts: with a pool, episodes start only in cells that span no rectangle with any colour
        in which another colour or a wall lies, so that nothing has to be gone around on the way to
        the first one.
      min_departures: with a pool, the shortest paths from each colour to those that follow it in
        pretraining tasks can leave by at least this many different actions (or all different, where
        fewer colours follow), so that a change of subgoal shows in the first action.
      floor_plan: with a pool, walls that stand in the same cells in all layouts: rows from the top
        to the bottom separated by "/", "#" for a wall and "." for any other cell, with `num_walls`
        walls; "" draws the walls of each layout.
      homes: with a pool, cells around which the colours lie in every layout: rows as in
        `floor_plan`, with the number of each colour at its home and "." elsewhere; "" lets every
        colour lie anywhere.
      home_radius: most rows, and most columns, between a colour and its home; 0 without homes.
    """

    num_layouts: int = 0
    solvable_only: bool = True
    layout_seed: int = 0
    min_colour_distance: int = 1
    min_line_distance: int = 0
    clear_rectangles: bool = False
    clear_starts: bool = False
    min_departures: int = 0
    floor_plan: str = ""
    homes: str = ""
    home_radius: int = 0

    def check_pool(self) -> None:
        """Raises ValueError naming the first of these fields whose value is not allowed."""
        if not 0 <= self.min_departures <= (4 if self.num_layouts else 0):
            raise ValueError(
                f"min_departures is {self.min_departures}, allowed is 0 to 4 with a pool of "
                "layouts (num_layouts above 0) and 0 without"
            )
        most = _MAX_CELLS // self.grid_size**2
        if self.num_layouts > most:
            raise ValueError(
                f"num_layouts is {self.num_layouts}, allowed is up to {most} on a grid of"
                f" grid_size={self.grid_size}"
            )
        for name, lowest_value in (("min_colour_distance", 1), ("min_line_distance", 0)):
            value = getattr(self, name)
            if value != lowest_value and (value < lowest_value or self.num_layouts == 0):
                raise ValueError(
                    f"{name} is {value}, allowed is {lowest_value} without a pool of layouts "
                    f"(num_layouts=0) and {lowest_value} or more with one"
                )
        if self.clear_rectangles and self.num_colours > _MOST_CLEAR:
            raise ValueError(
                f"clear_rectangles is True, allowed is False with more than {_MOST_CLEAR} colours"
                f" (num_colours={self.num_colours}): of five cells one always lies between two"
            )
        last = self.grid_size - 1
        rooms = {"min_colour_distance": 2 * last}
        rooms["min_line_distance"] = last // max(self.num_colours - 1, 1)
        for name, most in rooms.items():
            if getattr(self, name) > most:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, allowed is up to {most}: a grid of"
                    f" grid_size={self.grid_size} holds {self.num_colours} colours no further apart"
                )
        for name in ("clear_rectangles", "clear_starts"):
            if getattr(self, name) and self.num_layouts == 0:
                raise ValueError(
                    f"{name} is True, allowed is False without a pool of layouts (num_layouts=0)"
                )
        self._check_floor_plan()
        self._check_homes()

    def _check_floor_plan(self):
        if not self.floor_plan:
            return
        if (
            not self._drawn(self.floor_plan, "#.")
            or self.floor_plan.count("#") != self.num_walls
            or self.num_layouts == 0
        ):
            raise ValueError(
                f"floor_plan is {self.floor_plan!r}, allowed is '' or, with a pool of layouts "
                f"(num_layouts above 0), {self.grid_size} rows of {self.grid_size} signs '#' or "
                f"'.' separated by '/', with num_walls={self.num_walls} signs '#'"
            )

    def _check_homes(self):
        if self.home_radius < 0 or (self.home_radius > 0 and not self.homes):
            raise ValueError(
                f"home_radius is {self.home_radius}, allowed is 0 or more with homes and 0 without"
            )
        if not self.homes:
            return
        colours = "".join(str(colour) for colour in range(self.num_colours))
        signs = sorted(self.homes.replace("/", "").replace(".", ""))
        named = self.num_colours <= 10 and signs == list(colours)
        if not named or not self._drawn(self.homes, colours + ".") or self.num_layouts == 0:
            raise ValueError(
                f"homes is {self.homes!r}, allowed is '' or, with a pool of layouts (num_layouts "
                f"above 0) and at most 10 colours, {self.grid_size} rows of {self.grid_size} signs "
                f"separated by '/', with each of the colours 0 to {self.num_colours - 1} once and "
                "'.' elsewhere"
            )

    def _drawn(self, plan: str, signs: str) -> bool:
        """Whether a plan has `G` rows of `G` signs, all of them among `signs`."""
        rows = plan.split("/")
        return len(rows) == self.grid_size and all(
            len(row) == self.grid_size and set(row) <= set(signs) for row in rows
        )

    def home_cells(self) -> np.ndarray | None:
        """`(O,)` cell of each colour's home; None without homes."""
        if not self.homes:
            return None
        plan = self.homes.replace("/", "")
        return np.array([plan.index(str(colour)) for colour in range(self.num_colours)])

    def fixed_walls(self) -> np.ndarray | None:
        """`(W,)` cells of the walls of the floor plan, row by row; None without a plan."""
        if not self.floor_plan:
            return None
        return np.flatnonzero([sign == "#" for sign in self.floor_plan.replace("/", "")])


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
    fruitless = min(_MAX_FRUITLESS_DRAWS, _MAX_FRUITLESS_CELLS // config.grid_size**2)
    most = _MAX_DRAWN_CELLS // config.grid_size**2
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
