"""Pinpad on a grid: visit coloured cells in the order of a task that is never observed."""

import dataclasses
import functools

import chex
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.backend import on_cpu
from internal_rl.envs import pinpad, render
from internal_rl.envs.layout_config import LayoutPoolConfig
from internal_rl.envs.world import check_action, on_any_mesh, register_world
from internal_rl.types import ActionSpec, ObservationSpec, Scene, Timestep


@dataclasses.dataclass(frozen=True)
class GridWorldConfig(LayoutPoolConfig):
    """Settings of a grid world, beside those of its layouts.

    Attributes:
      grid_size: side `G` of the grid, in cells.
      num_colours: `O`, number of coloured cells.
      num_walls: `W`, number of wall cells.
      time_limit: `T`, an episode ends after this many steps.
      tasks: name of the task set, see `tasks.task_set`.
    """

    grid_size: int = 7
    num_colours: int = 8
    num_walls: int = 4
    time_limit: int = 100
    tasks: str = "gridworld-pinpad"

    def __post_init__(self):
        pinpad.check_fields(self)


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
      observation_spec: `d = G*G*(O + W + 1)` numbers, each 0 or 1.
      action_spec: 4 actions.
    """

    action_spec = ActionSpec("categorical", 4)
    seconds_per_frame = 0.25

    def __init__(self, config: GridWorldConfig):
        """Builds the world.

        Raises:
          ValueError: if the tasks need more colours than there are, or no pool can be drawn.
        """
        super().__init__(config)
        self.num_channels = config.num_colours + config.num_walls + 1
        size = config.grid_size**2 * self.num_channels
        self.observation_spec = ObservationSpec("bernoulli", size, np.uint8)

    @on_any_mesh
    def reset(self, key: chex.PRNGKey, task: chex.Array) -> tuple[GridState, Timestep]:
        """Starts an episode of `task (K,)` int32 padded with -1, in a random layout.

        Raises:
          ValueError: outside of `jax.jit`, for a task that this world does not know.
        """
        task = self.checked_task(task)
        objects, walls, layout_index, start_cell = self.sample_start(key, task)
        return self._start((objects, walls), layout_index, start_cell, task)

    @on_any_mesh
    def reset_to(
        self,
        objects: chex.Array,
        walls: chex.Array,
        start_cell: chex.Array,
        task: chex.Array,
    ) -> tuple[GridState, Timestep]:
        """Starts an episode in a given layout: objects `(O,)`, walls `(W,)`, start cell `()`."""
        task = self.checked_task(task)
        return self._start((objects, walls), jnp.int32(-1), start_cell, task)

    @on_any_mesh
    def step(self, state: GridState, action: chex.Array) -> tuple[GridState, Timestep]:
        """Moves the agent: 0 up, 1 down, 2 left, 3 right; walls and borders stop it.

        A finished episode does not change and pays no reward.

        Raises:
          ValueError: outside of `jax.jit`, for any other action.
        """
        return self._step(state, action, with_task=True)

    @on_any_mesh
    def step_without_task(self, state: GridState, action: chex.Array) -> tuple[GridState, Timestep]:
        """A step that no task and no time limit ends."""
        return self._step(state, action, with_task=False)

    def _step(self, state: GridState, action: chex.Array, with_task: bool):
        check_action(self.action_spec, action)
        target = _move(state.cell, action, self.config.grid_size)
        target = jnp.where(state.board[target] == pinpad.WALL, state.cell, target)
        new_cell = jnp.where(state.done, state.cell, target)
        content, moved = state.board[new_cell], new_cell != state.cell
        progress, completed, wrong = pinpad.visit(content, moved, state.task, state.progress)
        time = state.time + jnp.where(state.done, 0, 1)
        done = state.done | completed | wrong | (time >= self.time_limit)
        if not with_task:
            progress, completed, done = state.progress, completed & False, state.done
        state = state.replace(
            cell=new_cell,
            progress=progress,
            time=time,
            done=done,
            success=state.success | completed,
        )
        reward = completed.astype(jnp.float32)
        return state, self._timestep(state, reward, pinpad.visited_colour(content, moved))

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
        place = things * self.num_channels + jnp.arange(self.num_channels, dtype=things.dtype)
        # A scatter: on a CPU 8 times as fast as comparing every number with every thing. For a TPU
        # it takes minutes to compile.
        if on_cpu():
            empty = jnp.zeros(self.observation_spec.size, jnp.uint8)
            return empty.at[place].set(1, mode="drop", unique_indices=True)
        taken = (self._numbers == place[i] for i in range(self.num_channels))
        return functools.reduce(jnp.logical_or, taken).astype(jnp.uint8)

    def encode_agent(self, cell: chex.Array) -> chex.Array:
        """What the agent in cells `(...)` adds to `encode`: `(..., d)` bool."""
        return self._numbers == (cell * self.num_channels + self.num_channels - 1)[..., None]

    @property
    def _numbers(self) -> chex.Array:
        """Indices of the numbers of an observation, `(d,)` int32."""
        return jnp.arange(self.observation_spec.size, dtype=jnp.int32)

    def scene(self, observation: chex.Array) -> Scene:
        """Reads observations `(..., d)`, see `encode`."""
        size, colours = self.config.grid_size, self.config.num_colours
        board = observation.reshape(*observation.shape[:-1], size**2, self.num_channels)
        centres = pinpad.centre_of(jnp.argmax(board, axis=-2), size)
        return Scene(centres[..., -1, :], centres[..., :colours, :], centres[..., colours:-1, :])

    def frames(
        self,
        observations: np.ndarray,
        beta: np.ndarray | None = None,
        code: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Draws an episode from what was observed, an image per step.

        Args:
          observations: `(T, d)` of one episode.
          beta: `(T,)` switching gate of each step, shown in a panel with the code.
          code: `(T, n_z)` code that was active in each step.

        Returns:
          `T` images `(H, W, 3)` uint8.

        Raises:
          ValueError: if only one of beta and code is given or their lengths do not fit.
        """
        size, colours = self.config.grid_size, self.config.num_colours
        return render.frames_of_observations(observations, size, colours, beta=beta, code=code)

    def _start(self, layout, layout_index, start_cell, task):
        start_cell = jnp.asarray(start_cell, jnp.int32)
        objects, walls = (jnp.asarray(cells, jnp.int32) for cells in layout)
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
        timestep = self._timestep(state, jnp.float32(0.0), jnp.int32(pinpad.FREE))
        return pinpad.with_own_buffers((state, timestep), state.cell, task)


def _move(cell: chex.Array, action: chex.Array, grid_size: int) -> chex.Array:
    """Cell `()` int32 one step away; the same cell if the step would leave the grid.

    Written with selects alone, which fuse into one loop under vmap.
    """
    row, column = cell // grid_size, cell % grid_size
    row = row + jnp.where(action == 1, 1, 0) - jnp.where(action == 0, 1, 0)
    column = column + jnp.where(action == 3, 1, 0) - jnp.where(action == 2, 1, 0)
    row, column = (jnp.clip(place, 0, grid_size - 1) for place in (row, column))
    return row * grid_size + column


PRESETS = {
    "paper": GridWorldConfig(solvable_only=False),
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

register_world(
    "gridworld-pinpad",
    GridWorld,
    config=GridWorldConfig,
    presets=PRESETS,
    data="internal_rl.experts.grid_data:make_source",
)
