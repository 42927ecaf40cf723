"""Pinpad on a grid: visit coloured cells in the order of a task that is never observed."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.envs import pinpad, tasks
from internal_rl.envs.layout_pool import draw_pool
from internal_rl.types import Timestep


@dataclasses.dataclass(frozen=True)
class GridWorldConfig:
    """Settings of a grid world.

    Attributes:
      grid_size: side `G` of the grid, in cells.
      num_colours: `O`, number of coloured cells.
      num_walls: `W`, number of wall cells.
      time_limit: `T`, an episode ends after this many steps.
      tasks: name of the task set, see `tasks.task_set`.
      num_layouts: 0 draws a new layout at every reset; otherwise the size of a fixed pool.
      layout_seed: seed of the pool.
      min_colour_distance: smallest L1 distance between two colours of a pool layout, in cells.
      min_line_distance: smallest number of rows, and of columns, between two colours of a pool
        layout; 1 lets no two colours share a row or a column, so that a path of two straight legs
        between two colours passes no third one.
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

    grid_size: int = 7
    num_colours: int = 8
    num_walls: int = 4
    time_limit: int = 100
    tasks: str = "gridworld-pinpad"
    num_layouts: int = 0
    layout_seed: int = 0
    min_colour_distance: int = 1
    min_line_distance: int = 0
    min_departures: int = 0
    floor_plan: str = ""
    homes: str = ""
    home_radius: int = 0

    def __post_init__(self):
        lowest = {"grid_size": 2, "num_colours": 1, "num_walls": 0, "time_limit": 1}
        pinpad.check_fields(self, lowest | {"num_layouts": 0})
        if not 0 <= self.min_departures <= (4 if self.num_layouts else 0):
            raise ValueError(
                f"min_departures is {self.min_departures}, allowed is 0 to 4 with a pool of "
                "layouts (num_layouts above 0) and 0 without"
            )
        for name, lowest_value in (("min_colour_distance", 1), ("min_line_distance", 0)):
            value = getattr(self, name)
            if value != lowest_value and (value < lowest_value or self.num_layouts == 0):
                raise ValueError(
                    f"{name} is {value}, allowed is {lowest_value} without a pool of layouts "
                    f"(num_layouts=0) and {lowest_value} or more with one"
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


@struct.dataclass
class GridState:
    """State of one episode.

    Attributes:
      objects: `(O,)` int32 cell of each colour.
      walls: `(W,)` int32 cell of each wall.
      board: `(G*G,)` int8 what stands in each cell, see `pinpad.board`; follows from the former.
      layout_index: `()` int32 index into the pool of layouts, -1 for a layout outside the pool.
      start_cell: `()` int32 cell at the reset.
      cell: `()` int32 cell of the agent.
      task: `(K,)` int32 colours to visit, padded with -1.
      progress: `()` int32 number of colours visited in order.
      time: `()` int32 steps taken.
      done: `()` bool, the episode has ended.
      success: `()` bool, it ended because the task was completed.
    """

    objects: chex.Array
    walls: chex.Array
    board: chex.Array
    layout_index: chex.Array
    start_cell: chex.Array
    cell: chex.Array
    task: chex.Array
    progress: chex.Array
    time: chex.Array
    done: chex.Array
    success: chex.Array


class GridWorld(pinpad.PinpadWorld):
    """The world as pure functions of its state; no auto-reset.

    Attributes:
      config: the settings.
      task_set: pretraining and post-training tasks.
      max_task_length: `K`, colours in the longest task of the set.
      post_training_task: `(K,)` int32.
      pretraining_tasks: `(N, K)` int32, padded with -1.
      observation_size: `d = G*G*(O + W + 1)`.
      layouts: objects `(N, O)`, walls `(N, W)`, free cells `(N, F)` of the pool, or None.
    """

    action_size = 4
    action_head = "categorical"

    def __init__(self, config: GridWorldConfig):
        """Builds the world.

        Raises:
          ValueError: if the tasks need more colours than there are, or no pool can be drawn.
        """
        super().__init__(config)
        self.num_channels = config.num_colours + config.num_walls + 1
        self.observation_size = config.grid_size**2 * self.num_channels
        self.layouts = None
        if config.num_layouts:
            self.layouts = _pool_of(config)

    def reset(self, key: chex.PRNGKey, task: chex.Array) -> tuple[GridState, Timestep]:
        """Starts an episode of `task (K,)` int32 padded with -1, in a random layout."""
        return self._start(*self.sample_start(key, task), task)

    def reset_to(
        self,
        objects: chex.Array,
        walls: chex.Array,
        start_cell: chex.Array,
        task: chex.Array,
    ) -> tuple[GridState, Timestep]:
        """Starts an episode in a given layout: objects `(O,)`, walls `(W,)`, start cell `()`."""
        return self._start(objects, walls, jnp.int32(-1), start_cell, task)

    def sample_start(
        self, key: chex.PRNGKey, task: chex.Array
    ) -> tuple[chex.Array, chex.Array, chex.Array, chex.Array]:
        """Draws what `reset` starts from.

        Returns:
          objects `(O,)`, walls `(W,)`, layout index `()` (-1 without a pool), start cell `()`.
        """
        config = self.config
        if self.layouts is None:
            objects, walls, start_cell = pinpad.sample_layout(
                key, config.grid_size, config.num_colours, config.num_walls, jnp.asarray(task)
            )
            return objects, walls, jnp.int32(-1), start_cell
        objects, walls, free = (jnp.asarray(cells) for cells in self.layouts)
        layout_key, start_key = jax.random.split(key)
        index = jax.random.randint(layout_key, (), 0, config.num_layouts, jnp.int32)
        start = jax.random.randint(start_key, (), 0, free.shape[1], jnp.int32)
        return objects[index], walls[index], index, free[index, start]

    def step(self, state: GridState, action: chex.Array) -> tuple[GridState, Timestep]:
        """Moves the agent: 0 up, 1 down, 2 left, 3 right; walls and borders stop it.

        A finished episode does not change and pays no reward.
        """
        target = pinpad.move(state.cell, action, self.config.grid_size)
        target = jnp.where(state.board[target] == pinpad.WALL, state.cell, target)
        new_cell = jnp.where(state.done, state.cell, target)
        progress, completed, wrong = pinpad.visit(
            state.board[new_cell], new_cell != state.cell, state.task, state.progress
        )
        time = state.time + jnp.where(state.done, 0, 1)
        done = state.done | completed | wrong | (time >= self.time_limit)
        state = state.replace(
            cell=new_cell,
            progress=progress,
            time=time,
            done=done,
            success=state.success | completed,
        )
        return state, Timestep(self.observe(state), completed.astype(jnp.float32), done)

    def observe(self, state: GridState) -> chex.Array:
        """Observation `(d,)` uint8 of a state."""
        return self.encode(state.objects, state.walls, state.cell)

    def encode(self, objects: chex.Array, walls: chex.Array, cell: chex.Array) -> chex.Array:
        """One-hot of what stands in each cell: objects, walls, agent.

        Args:
          objects: `(O,)` int32 cells; a cell `G*G` stands for nothing.
          walls: `(W,)` int32 cells.
          cell: `()` int32 cell of the agent.

        Returns:
          `(d,)` uint8; `reshape(G, G, O + W + 1)` gives rows, columns and channels.
        """
        things = jnp.concatenate([objects, walls, cell[None]])
        # A scatter: on a CPU 8 times as fast as comparing every cell with every thing.
        place = things * self.num_channels + jnp.arange(self.num_channels, dtype=things.dtype)
        empty = jnp.zeros(self.observation_size, jnp.uint8)
        return empty.at[place].set(1, mode="drop", unique_indices=True)

    def scene(self, observation: chex.Array) -> pinpad.Scene:
        """Reads observations `(..., d)`, see `encode`."""
        size, colours = self.config.grid_size, self.config.num_colours
        board = observation.reshape(*observation.shape[:-1], size**2, self.num_channels)
        centres = pinpad.centre_of(jnp.argmax(board, axis=-2), size)
        return pinpad.Scene(
            centres[..., -1, :], centres[..., :colours, :], centres[..., colours:-1, :]
        )

    def _start(self, objects, walls, layout_index, start_cell, task):
        task = jnp.asarray(task, jnp.int32)
        chex.assert_shape(task, (None,))
        start_cell = jnp.asarray(start_cell, jnp.int32)
        objects, walls = jnp.asarray(objects, jnp.int32), jnp.asarray(walls, jnp.int32)
        state = GridState(
            objects=objects,
            walls=walls,
            board=pinpad.board(objects, walls, self.config.grid_size),
            layout_index=layout_index,
            start_cell=start_cell,
            cell=start_cell,
            task=task,
            progress=jnp.int32(0),
            time=jnp.int32(0),
            done=jnp.bool_(False),
            success=jnp.bool_(False),
        )
        return state, Timestep(self.observe(state), jnp.float32(0.0), state.done)


@functools.lru_cache(maxsize=2)
def _pool_of(config: GridWorldConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pool of a config, see `draw_pool`; large ones take seconds to draw."""
    return draw_pool(
        config.num_layouts,
        config.layout_seed,
        config.grid_size,
        config.num_colours,
        config.num_walls,
        config.min_colour_distance,
        config.min_line_distance,
        config.min_departures,
        tasks.followers(tasks.task_set(config.tasks), config.num_colours),
        config.fixed_walls(),
        config.home_cells(),
        config.home_radius,
    )


PRESETS = {
    "paper": GridWorldConfig(),
    "small": GridWorldConfig(
        grid_size=7,
        num_colours=5,
        num_walls=0,
        time_limit=50,
        tasks="walks:5:4:0-1-2-3",
        num_layouts=16_384,
        min_colour_distance=3,
        min_line_distance=1,
        homes="......./.0...2./......./...4.../......./.3...1./.......",
        home_radius=1,
    ),
    "smoke": GridWorldConfig(
        grid_size=5,
        num_colours=4,
        num_walls=1,
        time_limit=24,
        tasks="ant-pinpad",
        num_layouts=4,
        min_colour_distance=2,
    ),
}
