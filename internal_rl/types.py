"""Types that cross the borders between folders."""

import dataclasses
from typing import Any, Protocol

import chex
import jax.numpy as jnp
import numpy as np
from flax import struct

ACTION_HEADS = ("categorical", "gaussian")
OBSERVATION_HEADS = ("bernoulli", "gaussian")


def _require_size(field: str, size: int) -> None:
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if not whole or size < 1:
        raise ValueError(
            f"{field} is {size!r}, allowed is a whole number, 1 or more; several axes are flattened"
        )


def _require_head(field: str, head: str, allowed: tuple[str, ...]) -> None:
    if head not in allowed:
        raise ValueError(f"{field} is {head!r}, allowed are {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True)
class ActionSpec:
    """What an action is.

    Attributes:
      head: distribution that models it: `"categorical"` for a whole number from 0 to `size - 1`,
        `"gaussian"` for `size` real numbers.
      size: number of actions, or the dimension `d_a` of a continuous one.
      low: smallest value that a continuous action should have; worlds clip what lies below.
      high: the largest one.
    """

    head: str
    size: int
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self):
        _require_head("action head", self.head, ACTION_HEADS)
        _require_size("action size", self.size)
        bounds = (self.low, self.high)
        single = all(np.ndim(bound) == 0 for bound in bounds)
        if not single or not np.isfinite(bounds).all() or not self.low < self.high:
            raise ValueError(
                f"action bounds low, high are {self.low}, {self.high}, allowed are finite numbers,"
                " low below high, one of each for all dimensions"
            )

    @property
    def discrete(self) -> bool:
        """Whether an action is a whole number."""
        return self.head == "categorical"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action."""
        return () if self.discrete else (self.size,)

    @property
    def dtype(self) -> np.dtype:
        """int32 or float32."""
        return np.dtype(np.int32 if self.discrete else np.float32)


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """What an observation is.

    Attributes:
      head: distribution that models the next one: `"bernoulli"` for numbers that are 0 or 1,
        `"gaussian"` (of unit variance) for real ones.
      size: how many numbers, `d`.
      dtype: of the array that the world gives.
    """

    head: str
    size: int
    dtype: np.dtype = np.dtype(np.float32)

    def __post_init__(self):
        _require_head("observation head", self.head, OBSERVATION_HEADS)
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        _require_size("observation size", self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation, `(d,)`."""
        return (self.size,)


@struct.dataclass
class Timestep:
    """What a world shows after `reset` or `step`.

    The last three fields are what only some worlds can tell; a world leaves out what it does not
    know, always the same ones, and studies that need them are skipped.

    Attributes:
      observation: `(d,)`, never contains the task.
      reward: `()` float32; an episode whose rewards sum to more than 0 counts as a success.
      done: `()` bool, the episode has ended.
      visit: `()` int32 place that this step entered, -1 for none; places are numbered from 0.
      progress: `()` int32 how much of the task is done, in the units of the world.
      subgoal: `()` int32 subgoal that the task asks for next, -1 for none.
    """

    observation: chex.Array
    reward: chex.Array
    done: chex.Array
    visit: chex.Array | None = None
    progress: chex.Array | None = None
    subgoal: chex.Array | None = None


@struct.dataclass
class Trajectory:
    """A row of `S` tokens that holds one or several whole trajectories one behind the other.

    Packing several trajectories into a row keeps the share of padding low; everything that reads a
    row must respect `segment` so that nothing leaks from one trajectory to its neighbour. All
    fields may carry leading batch axes.

    Attributes:
      observation: `(S, d)` observation `o_t` before the action.
      next_observation: `(S, d)` observation `o_{t+1}` after the action.
      action: `(S,)` int32, or `(S, d_a)` float32 for continuous actions.
      mask: `(S,)` bool, the token carries a next-action target.
      subgoal: `(S,)` int32 ground-truth subgoal `g_t`, annotation only; -1 at padding. None in data
        without labels.
      segment: `(S,)` int32 index of the trajectory inside its row; -1 at padding. A terminal
        observation kept as a token has `segment >= 0` and `mask == False`.
    """

    observation: chex.Array
    next_observation: chex.Array
    action: chex.Array
    mask: chex.Array
    subgoal: chex.Array | None
    segment: chex.Array

    def num_targets(self) -> chex.Array:
        """Number of tokens with a target over all axes, at least 1, `()` float32."""
        return jnp.maximum(jnp.sum(self.mask, dtype=jnp.float32), 1.0)


@struct.dataclass
class Scene:
    """What an observation shows of the plane, in cells: x to the right, y up, the centre at 0, 0.

    Attributes:
      place: `(..., 2)` where the agent is.
      colours: `(..., O, 2)` centres of the places that can be visited.
      walls: `(..., W, 2)` centres of the walls.
    """

    place: chex.Array
    colours: chex.Array
    walls: chex.Array


class World(Protocol):
    """An environment as pure functions of its state; no auto-reset.

    Both functions can be jitted and vmapped. Stepping an episode that has ended changes nothing and
    pays no reward. Beyond this a world may have any of `envs.world.CAPABILITIES`.

    Attributes:
      observation_spec: what an observation is.
      action_spec: what an action is.
      time_limit: `T`, steps of the longest episode.
      post_training_task: task of reinforcement learning, an array or a pytree of arrays.
    """

    observation_spec: ObservationSpec
    action_spec: ActionSpec
    time_limit: int
    post_training_task: Any

    def reset(self, key: chex.PRNGKey, task: Any) -> tuple[Any, Timestep]:
        """Starts an episode of `task`: its state and what it shows."""

    def step(self, state: Any, action: chex.Array) -> tuple[Any, Timestep]:
        """Takes one action."""


class DataSource(Protocol):
    """An endless stream of expert trajectories, packed into rows.

    The arrays that it reads are an argument of `next` and `held_out` and not part of the compiled
    program: `source.next(position, source.arrays)`.

    A source may have `next_share(position, arrays, share)` too, for devices that share a batch: it
    returns the advanced position of the whole stream and only the rows `share.rows`; what differs
    between the devices is brought together by `share.together`, see `training.mesh.Share`. Without
    it every device makes all rows and keeps its own.

    Attributes:
      arrays: pytree of what the rows come from; None where they are made on the device.
      labelled: whether trajectories carry ground-truth subgoals.
      trajectories_per_row: mean number of trajectories in a row.
      sequence_length: `S`, tokens of a row.
    """

    arrays: Any
    labelled: bool
    trajectories_per_row: float
    sequence_length: int

    def init(self, key: chex.PRNGKey, num_rows: int) -> Any:
        """Position of a stream of `num_rows` rows a batch, at its beginning."""

    def next(self, position: Any, arrays: Any) -> tuple[Any, Trajectory]:
        """The advanced position and the next rows, `(num_rows, S, ...)`."""

    def held_out(self, key: chex.PRNGKey, num_rows: int, arrays: Any) -> Trajectory:
        """Rows that no stream of training contains."""

    def references(self, key: chex.PRNGKey, num_trajectories: int) -> dict[str, float]:
        """Exact cross-entropies of the expert's actions, in nats; empty where none is known."""


def num_rows(source: DataSource, batch_size: int) -> int:
    """Rows that hold `batch_size` trajectories in the mean."""
    return max(1, round(batch_size / source.trajectories_per_row))
