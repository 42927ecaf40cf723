"""Datasets: rows of packed trajectories that lie on the device, from shards or from arrays."""

from functools import cache, partial
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import struct

from internal_rl.arguments import checked_integer
from internal_rl.experts.trajectories import checked, number_held_out
from internal_rl.types import Trajectory


@struct.dataclass
class DatasetPosition:
    """Position of a stream; plain integers, so that it can be stored in any checkpoint.

    Attributes:
      key: `(2,)` uint32 key data of the order.
      rows: `(B,)` int32, nothing but the batch size, which is static this way.
      batch: `()` int32 number of the next batch.
    """

    key: chex.Array
    rows: chex.Array
    batch: chex.Array


def with_next_observation(rows: Trajectory) -> Trajectory:
    """Adds the observation behind each one, `(B, S, d)`.

    The last token of a trajectory has no next one; it gets whatever follows in the row.
    """
    observation = rows.observation
    following = jnp.concatenate([observation[:, 1:], observation[:, :1]], axis=1)
    return rows.replace(next_observation=following)


class Dataset:
    """Rows of a dataset in random order, epoch after epoch; the rest of an epoch is left out.

    A `DataSource`. The rows are an argument of `next` and not part of the compiled program. Those
    of `held_out` are never among them. With ten trajectories of three to five actions among four,
    and observations of six numbers:

        rng = np.random.default_rng(0)
        observation = rng.normal(size=(10, 6, 6))   # (N, T + 1, d), what follows an end is ignored
        action = rng.integers(0, 4, size=(10, 5))   # (N, T)
        length = rng.integers(3, 6, size=10)        # (N,)
        data = Dataset.from_arrays(observation, action, length, sequence_length=16)
        position = data.init(jax.random.key(0), num_rows=2)
        position, batch = data.next(position, data.arrays)
        batch.observation.shape                     # (2, 16, 6)

    Attributes:
      arrays: `{"train": Trajectory (N, S, ...), "held_out": Trajectory (M, S, ...)}`, without
        `next_observation`, which repeats the observations.
      labelled: whether the rows carry subgoals.
      trajectories_per_row: mean number of trajectories in a row of `train`.
      sequence_length: `S`, tokens of a row.
    """

    def __init__(self, arrays: dict[str, Trajectory], trajectories_per_row: float):
        """Takes rows as they are; `from_arrays` and `from_rows` check them."""
        self.arrays = arrays
        self.labelled = arrays["train"].subgoal is not None
        self.trajectories_per_row = trajectories_per_row
        self.sequence_length = arrays["train"].segment.shape[1]

    @classmethod
    def from_rows(
        cls, train: Trajectory, held_out: Trajectory, trajectories_per_row: float
    ) -> Self:
        """A dataset of rows that are packed already, `(N, S, ...)`; see `from_arrays` for others.

        Args:
          train: rows of `next`; `next_observation` is ignored, it is what follows in the row, so
            that the last token of a trajectory, which holds its last observation, has no target.
          held_out: rows of the method `held_out`.
          trajectories_per_row: mean number of trajectories in a row of `train`.

        Raises:
          ValueError: one of the two has no rows, or a trajectory whose last token has a target, or
            they do not fit each other.
        """
        if not trajectories_per_row > 0:
            raise ValueError(f"trajectories_per_row is {trajectories_per_row}, allowed is above 0")
        arrays = {"train": train, "held_out": held_out}
        for name, rows in arrays.items():
            if not len(rows.segment):
                raise ValueError(f"{name} has no rows, allowed are 1 or more")
            lacking = np.asarray(rows.mask) & _last_of_trajectory(np.asarray(rows.segment))
            if lacking.any():
                row = np.argwhere(lacking)[0][0]
                raise ValueError(
                    f"{name}: the last token of a trajectory in row {row} has a target, allowed is"
                    " a token behind it for the observation that follows"
                )
            arrays[name] = rows.replace(next_observation=None)
        for field in ("observation", "action", "subgoal", "segment"):
            kinds = [_kind_of(getattr(rows, field)) for rows in arrays.values()]
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"{field} of held_out is {kinds[1]} in each row, allowed is {kinds[0]} as in"
                    " train"
                )
        return cls(arrays, float(trajectories_per_row))

    @classmethod
    def from_arrays(
        cls,
        observation: np.ndarray,
        action: np.ndarray,
        length: np.ndarray,
        subgoal: np.ndarray | None = None,
        *,
        sequence_length: int | None = None,
        held_out: float | int = 0.1,
        seed: int = 0,
    ) -> Self:
        """A dataset of trajectories, packed into rows: whole ones behind each other, shuffled.

        Every trajectory ends with a token for its last observation, which has no target.
        Booleans and whole numbers that are all 0 or 1 become uint8 observations, all other numbers
        float32. A function of its arguments alone; a hundred thousand trajectories take a few
        seconds.

        Args:
          observation: `(N, T + 1, d)` observation before each action and behind the last one; or
            `(N, T, d)`, and then the last action of each trajectory is left out, as what it led to
            is not known.
          action: `(N, T)` whole numbers from 0 on, or `(N, T, d_a)` real ones.
          length: `(N,)` actions of each trajectory, 1 to `T`, or 2 to `T` without what the last one
            led to; what lies behind them is ignored.
          subgoal: `(N, T)` whole numbers from 0 on, the subgoal that each action serves; annotation
            for the studies alone, which are left out without it.
          sequence_length: `S`, tokens of a row; by default four times the longest trajectory.
          held_out: share of the trajectories, or their number, that no training sees; at least one.
          seed: of the order.

        Raises:
          ValueError: names the argument that does not fit, its value or shape, and what is allowed.
        """
        trajectories = checked(observation, action, length, subgoal)
        num_trajectories, longest = len(trajectories.length), int(trajectories.tokens.max())
        num_held_out = number_held_out(held_out, num_trajectories)
        seed = checked_integer("seed", seed, 0)
        if sequence_length is None:
            sequence_length = 4 * longest
        sequence_length = checked_integer(
            "sequence_length",
            sequence_length,
            longest,
            what=", the tokens of the longest trajectory",
        )
        order = np.random.default_rng(int(seed)).permutation(num_trajectories)
        train = trajectories.pack(order[num_held_out:], int(sequence_length))
        return cls.from_rows(
            train,
            trajectories.pack(order[:num_held_out], int(sequence_length)),
            (num_trajectories - num_held_out) / len(train.segment),
        )

    def init(self, key: chex.PRNGKey, num_rows: int) -> DatasetPosition:
        """Position of a stream of `num_rows` rows a batch at its beginning."""
        return DatasetPosition(
            jax.random.key_data(key), jnp.zeros(num_rows, jnp.int32), jnp.int32(0)
        )

    def next(
        self, position: DatasetPosition, arrays: dict[str, Trajectory]
    ) -> tuple[DatasetPosition, Trajectory]:
        """Next rows: the advanced position and a `Trajectory` with leading axis `B`.

        A batch larger than the dataset holds rows several times.
        """
        return self._next(position, arrays, lambda index: index)

    def next_share(
        self, position: DatasetPosition, arrays: dict[str, Trajectory], share: Any
    ) -> tuple[DatasetPosition, Trajectory]:
        """As `next`, but with some of the rows, see `DataSource`."""
        return self._next(position, arrays, lambda index: index[share.rows])

    def _next(self, position, arrays, some):
        num_rows, batch_size = len(arrays["train"].segment), len(position.rows)
        per_epoch = max(num_rows // batch_size, 1)
        epoch, place = position.batch // per_epoch, position.batch % per_epoch
        key = jax.random.fold_in(jax.random.wrap_key_data(position.key), epoch)
        order = jax.random.permutation(key, num_rows)
        numbers = jnp.arange(batch_size, dtype=jnp.int32)
        index = some(order[(place * batch_size + numbers) % num_rows])
        batch = jax.tree.map(lambda x: jnp.asarray(x)[index], arrays["train"])
        return position.replace(batch=position.batch + 1), with_next_observation(batch)

    def held_out(
        self, key: chex.PRNGKey, num_rows: int, arrays: dict[str, Trajectory]
    ) -> Trajectory:
        """The first `num_rows` rows held out, or all where there are fewer, each of them once.

        Copies would count as more than there is: one half of the rows would test what the other
        half has shown.
        """
        del key
        there = len(arrays["held_out"].segment)
        if there < num_rows:
            _tell_fewer(num_rows, there)
        return _first_rows(arrays["held_out"], min(num_rows, there))

    def references(self, key: chex.PRNGKey, num_trajectories: int) -> dict[str, float]:
        """None: the policy behind a dataset is not known."""
        del key, num_trajectories
        return {}


@cache
def _tell_fewer(num_rows: int, there: int) -> None:
    """One line, however often a program that evaluates is traced."""
    logging.info("%d held-out rows are asked for, all %d that there are are taken", num_rows, there)


@partial(jax.jit, static_argnums=1)
def _first_rows(rows: Trajectory, num_rows: int) -> Trajectory:
    return with_next_observation(jax.tree.map(lambda x: x[:num_rows], rows))


def _last_of_trajectory(segment: np.ndarray) -> np.ndarray:
    """`(N, S)` bool: the token is the last one of its trajectory."""
    last = np.ones_like(segment, dtype=bool)
    last[:, :-1] = segment[:, 1:] != segment[:, :-1]
    return last


def _kind_of(rows: np.ndarray | None) -> str:
    """What all rows of an array have in common, for readers."""
    return "absent" if rows is None else f"{rows.dtype} {tuple(rows.shape[1:])}"
