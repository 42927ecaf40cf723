"""What all pinpad worlds share: their config, tasks and layouts, and the visit rule.

What cells, `objects` and `walls` are is told in `envs.layouts`.
"""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.envs import layouts, tasks
from internal_rl.envs.layout_config import LayoutPoolConfig
from internal_rl.envs.layout_pool import pool_of
from internal_rl.types import Scene, Timestep

_LOWEST = {
    "grid_size": 2,
    "num_colours": 1,
    "num_walls": 0,
    "time_limit": 1,
    "num_layouts": 0,
    "layout_seed": 0,
}
_MOST = {"num_colours": 127, "time_limit": 30_000, "layout_seed": 2**32 - 1}
FREE, WALL = -1, -2


def check_fields(config: LayoutPoolConfig, **lowest: int) -> None:
    """Checks what the configs of all pinpad worlds have in common.

    Args:
      config: dataclass with at least `grid_size`, `num_colours`, `num_walls` and `time_limit`.
      **lowest: smallest allowed value of further fields.

    Raises:
      ValueError: names the first field that has another type or is too small or too large.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not isinstance(value, field.type) or isinstance(value, bool) != (field.type is bool):
            raise ValueError(f"{field.name} is {value!r}, allowed is {field.type.__name__}")
        if field.type is float and not math.isfinite(value):
            raise ValueError(f"{field.name} is {value!r}, allowed is a finite number")
    for name, least in (_LOWEST | lowest).items():
        if getattr(config, name) < least:
            raise ValueError(f"{name} is {getattr(config, name)}, allowed is {least} or more")
    for name, most in ({"grid_size": layouts.MAX_GRID_SIZE} | _MOST).items():
        if getattr(config, name) > most:
            raise ValueError(f"{name} is {getattr(config, name)}, allowed is up to {most}")
    if config.num_colours + config.num_walls >= config.grid_size**2:
        raise ValueError(
            f"num_colours + num_walls is {config.num_colours + config.num_walls}, allowed is up to "
            f"{config.grid_size**2 - 1} on a grid of grid_size={config.grid_size}"
        )
    config.check_pool()


def centre_of(cell: chex.Array, grid_size: int) -> chex.Array:
    """Centres `(..., 2)` of cells `(...)` in the units of `Scene`."""
    column, row = cell % grid_size, cell // grid_size
    half = (grid_size - 1) / 2
    return jnp.stack([column - half, half - row], axis=-1).astype(jnp.float32)


def with_own_buffers(start: chex.ArrayTree, cell: chex.Array, task: chex.Array) -> chex.ArrayTree:
    """The same arrays, none of which shares memory with another or with an argument of `reset`.

    So a state can be donated. Each array is chosen by a condition that always holds and depends on
    all that an episode starts from; therefore `jax.vmap` spreads all of them over devices alike.
    Inside a compiled program this costs nothing.

    Args:
      start: state and timestep of a reset.
      cell: `()` where the agent starts.
      task: `(K,)`.
    """
    always = (cell >= 0) | (task[0] >= 0)
    return jax.tree.map(lambda x: jax.lax.select(always, x, x), start)


class PinpadWorld:
    """What all worlds share; a world adds `reset`, `step`, `observe` and `scene`.

    A place that can be visited is a colour; see `envs.world.CAPABILITIES`.

    Attributes:
      config: the settings.
      task_set: pretraining and post-training tasks.
      time_limit: `T`, steps of the longest episode.
      max_task_length: `K`, colours in the longest task of the set.
      post_training_task: `(K,)` int32.
      pretraining_tasks: `(N, K)` int32, padded with -1.
      layouts: the pool of layouts, or None.
      grid_size: side `G` of the grid, in cells.
      num_places: `O`, colours.
      num_subgoals: subgoals of the task set.
      subgoal_places: `(G,)` colour that each subgoal visits first.
      solvable: `solvable(state) -> () bool`, whether the task of an episode can be completed from
        its start; where layouts are drawn in which it cannot (`solvable_only=False`) alone.
      unseen_transitions: pairs of colours that only the post-training task needs.
      num_pretraining_visits: visits of the longest pretraining task.
      switch_tolerance: steps by which a switch may miss the change of subgoal and still count as
        close, see `analysis.switching`.
    """

    switch_tolerance = 1

    def __init__(self, config: LayoutPoolConfig):
        """Reads the tasks and draws the pool of layouts.

        Raises:
          ValueError: if the tasks need more colours than there are, or no pool can be drawn.
        """
        self.config = config
        self.task_set = tasks.task_set(config.tasks)
        if self.task_set.num_colours > config.num_colours:
            raise ValueError(
                f"tasks '{config.tasks}' has {self.task_set.num_colours} colours, allowed are up "
                f"to num_colours={config.num_colours}"
            )
        self.time_limit = config.time_limit
        self.max_task_length = self.task_set.max_length
        self.pretraining_tasks = tasks.task_array(self.task_set.pretraining, self.max_task_length)
        self.post_training_task = tasks.task_array(
            (self.task_set.post_training,), self.max_task_length
        )[0]
        self.layouts = pool_of(config) if config.num_layouts else None
        self.grid_size = config.grid_size
        self.num_places = config.num_colours
        self.num_subgoals = self.task_set.num_subgoals
        self.subgoal_places = np.array([first for first, *_ in self.task_set.subgoals], np.int32)
        self.unseen_transitions = tasks.unseen_transitions(self.task_set)
        self.num_pretraining_visits = max(map(len, self.task_set.pretraining))
        self._subgoal_table = tasks.subgoal_table(self.task_set, config.num_colours)
        if not config.solvable_only and not config.num_layouts:
            self.solvable = self._solvable

    def __reduce__(self):
        return type(self), (self.config,)

    def checked_task(self, task: chex.Array) -> chex.Array:
        """The task as int32, its shape and, outside of `jax.jit`, its colours checked.

        Raises:
          ValueError: it is no row of colours padded with -1.
        """
        shape = np.shape(task)
        if len(shape) != 1 or shape[0] == 0:
            raise ValueError(f"task has shape {shape}, allowed is (K,), one or more colours")
        if not isinstance(task, jax.core.Tracer):
            colours = np.asarray(task)
            num_visits = int(np.sum(colours >= 0))
            known = np.isin(colours[:num_visits], np.arange(self.num_places))
            if num_visits == 0 or not known.all() or not np.all(colours[num_visits:] == -1):
                raise ValueError(
                    f"task is {colours.tolist()}, allowed are one or more colours, 0 to "
                    f"{self.num_places - 1}, and behind the last one only -1"
                )
        return jnp.asarray(task, jnp.int32)

    def sample_start(
        self, key: chex.PRNGKey, task: chex.Array, solvable_only: bool | None = None
    ) -> tuple[chex.Array, chex.Array, chex.Array, chex.Array]:
        """Draws what `reset` starts from.

        Args:
          key: randomness.
          task: `(K,)`.
          solvable_only: whether layouts that cannot be solved are drawn again; None for what the
            config says.

        Returns:
          objects `(O,)`, walls `(W,)`, layout index `()` (-1 without a pool), start cell `()`.
        """
        config = self.config
        if self.layouts is None:
            solvable_only = config.solvable_only if solvable_only is None else solvable_only
            sizes = config.grid_size, config.num_colours, config.num_walls
            wanted = jnp.asarray(task) if solvable_only else None
            objects, walls, start_cell = layouts.sample_layout(key, *sizes, wanted)
            return objects, walls, jnp.int32(-1), start_cell
        objects, walls, starts, num_starts = (jnp.asarray(cells) for cells in self.layouts)
        layout_key, start_key = jax.random.split(key)
        index = jax.random.randint(layout_key, (), 0, config.num_layouts, jnp.int32)
        start = jax.random.randint(start_key, (), 0, num_starts[index], jnp.int32)
        return objects[index], walls[index], index, starts[index, start]

    def _solvable(self, state) -> chex.Array:
        """Whether the task of an episode can be completed from its start, `()` bool."""
        layout = state.objects, state.walls, state.start_cell
        return layouts.solvable(*layout, state.task, self.grid_size)

    def with_solvable_layouts(self) -> "PinpadWorld":
        """The world with `solvable_only`; itself, if it has that."""
        if self.config.solvable_only:
            return self
        make, (config, *rest) = self.__reduce__()
        return make(dataclasses.replace(config, solvable_only=True), *rest)

    def scene(self, observation: chex.Array) -> Scene:
        """Reads observations `(..., d)`."""
        raise NotImplementedError

    def parse_task(self, text: str) -> np.ndarray:
        """Reads a task such as `"0-1-2"`, `(K,)` int32.

        Raises:
          ValueError: it names no colours of this world, or no subgoals of its task set.
        """
        task = tasks.parse_task(text)
        tasks.check_task(task, self.num_places)
        self.task_set.subgoal_ids(task)
        return tasks.task_array((task,), len(task))[0]

    def _timestep(self, state, reward: chex.Array, visit: chex.Array) -> Timestep:
        """What a state shows, with the colour that the last step entered."""
        return Timestep(
            observation=self.observe(state),
            reward=reward,
            done=state.done,
            visit=visit,
            progress=state.progress,
            subgoal=self.next_subgoal(state.task, state.progress),
        )

    def next_subgoal(self, task: chex.Array, progress: chex.Array) -> chex.Array:
        """Subgoal `()` int32 that a task `(K,)` asks for after `progress ()` visits.

        That of the last colour where nothing is left to visit; -1 for none of the task set.
        """
        last = jnp.sum(task >= 0) - 1
        place = jnp.minimum(progress, last)
        size = self.task_set.subgoal_length
        first = place // size * size
        parts = [task[jnp.minimum(first + i, task.shape[0] - 1)] for i in range(size)]
        known = jnp.all(jnp.stack([(part >= 0) & (part < self.num_places) for part in parts]))
        found = jnp.asarray(self._subgoal_table)[tuple(parts)]
        return jnp.where(known, found, jnp.int32(-1))

    def layout_fingerprint(self, observation: chex.Array) -> chex.Array:
        """A number that tells layouts apart: `(..., d)` observations to `(...)` uint32.

        Where the agent is does not matter, so all steps of an episode have the same one.
        """
        scene = self.scene(observation)
        centres = jnp.concatenate([scene.colours, scene.walls], axis=-2)
        # Centres lie at multiples of one half.
        numbers = jnp.round(2 * centres).astype(jnp.int32).astype(jnp.uint32)
        weights = jax.random.bits(jax.random.key(0), numbers.shape[-2:], jnp.uint32)
        return jnp.sum(numbers * weights, axis=(-2, -1), dtype=jnp.uint32)


def board(objects: chex.Array, walls: chex.Array, grid_size: int) -> chex.Array:
    """What stands in every cell, `(G*G,)` int8: a colour, `WALL` or `FREE`."""
    grid = jnp.full(grid_size**2, FREE, jnp.int8)
    grid = grid.at[objects].set(jnp.arange(objects.shape[0], dtype=jnp.int8), unique_indices=True)
    return grid.at[walls].set(WALL, unique_indices=True)


def visited_colour(content: chex.Array, moved: chex.Array) -> chex.Array:
    """Colour `()` int32 that a step entered, -1 for none; arguments as in `visit`."""
    return jnp.where(moved & (content >= 0), content, FREE).astype(jnp.int32)


def visit(
    content: chex.Array, moved: chex.Array, task: chex.Array, progress: chex.Array
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """The pinpad rule: a colour is visited when its cell is entered from a different cell.

    Args:
      content: `()` what stands in the agent's cell, see `board`.
      moved: `()` bool, the agent was in another cell before.
      task: `(K,)` colours padded with -1.
      progress: `()` number of colours visited in order so far, below the length of the task.

    Returns:
      progress `()` int32, completed `()` bool, wrong `()` bool (a colour that was not next).
    """
    visited = moved & (content >= 0)
    right = visited & (content == task[progress])
    progress = progress + right.astype(progress.dtype)
    following = task[jnp.minimum(progress, task.shape[0] - 1)]
    completed = right & ((progress == task.shape[0]) | (following < 0))
    return progress, completed, visited & ~right
