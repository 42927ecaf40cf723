"""What the configs of worlds say about pools of layouts, and which pools there can be."""

import dataclasses

import numpy as np

# Cells of all layouts of a pool together, once for each colour: an expert knows the way from each.
_MAX_CELLS = 50_000_000
# Colours times cells, and that times all things: seconds for a few hundred layouts.
_MOST_DEPARTURES, _MOST_STARTS = 5_000, 500_000
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
        most = _MAX_CELLS // (self.num_colours * self.grid_size**2)
        if self.num_layouts > most:
            raise ValueError(
                f"num_layouts is {self.num_layouts}, allowed is up to {most} on a grid of"
                f" grid_size={self.grid_size} with num_colours={self.num_colours}"
            )
        for name, lowest_value in (("min_colour_distance", 1), ("min_line_distance", 0)):
            value = getattr(self, name)
            if value != lowest_value and (value < lowest_value or self.num_layouts == 0):
                raise ValueError(
                    f"{name} is {value}, allowed is {lowest_value} without a pool of layouts "
                    f"(num_layouts=0) and {lowest_value} or more with one"
                )
        for name in ("clear_rectangles", "clear_starts"):
            if getattr(self, name) and self.num_layouts == 0:
                raise ValueError(
                    f"{name} is True, allowed is False without a pool of layouts (num_layouts=0)"
                )
        if self.clear_rectangles and self.num_colours > _MOST_CLEAR:
            raise ValueError(
                f"clear_rectangles is True, allowed is False with more than {_MOST_CLEAR} colours"
                f" (num_colours={self.num_colours}): of five cells one always lies between two"
            )
        self._check_effort()
        last = self.grid_size - 1
        rooms = {"min_colour_distance": 2 * last}
        rooms["min_line_distance"] = last // max(self.num_colours - 1, 1)
        for name, most in rooms.items():
            if getattr(self, name) > most:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, allowed is up to {most}: a grid of"
                    f" grid_size={self.grid_size} holds {self.num_colours} colours no further apart"
                )
        self._check_floor_plan()
        self._check_homes()

    def _check_effort(self):
        """What every drawn layout is asked takes long where there are many colours and cells."""
        cells = self.num_colours * self.grid_size**2
        things = cells * (self.num_colours + self.num_walls)
        sizes = f"grid_size={self.grid_size}, num_colours={self.num_colours}"
        if self.min_departures and cells > _MOST_DEPARTURES:
            raise ValueError(
                f"min_departures is {self.min_departures}, allowed is 0 with {sizes}: fewer colours"
                " or a smaller grid"
            )
        if self.clear_starts and things > _MOST_STARTS:
            raise ValueError(
                f"clear_starts is True, allowed is False with {sizes} and"
                f" num_walls={self.num_walls}: fewer of them or a smaller grid"
            )

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
