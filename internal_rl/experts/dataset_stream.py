"""Endless stream of rows from a dataset that lies on the device."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

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


def as_trajectory(rows: dict[str, chex.Array]) -> Trajectory:
    """Packed rows of `shards.load_rows` as a `Trajectory`, `(N, S, ...)`.

    `next_observation` is None: it repeats the observations, see `with_next_observation`.
    """
    padding = rows["segment_ids"] == 0
    return Trajectory(
        observation=rows["observation"],
        next_observation=None,
        action=rows["action"],
        mask=rows["mask"] & ~padding,
        subgoal=np.where(padding, -1, rows["subgoal"]).astype(np.int32),
        segment=rows["segment_ids"] - 1,
    )


def with_next_observation(rows: Trajectory) -> Trajectory:
    """Adds the observation behind each one, `(B, S, d)`.

    The last token of a trajectory has neither a next one nor a target.
    """
    observation = rows.observation
    following = jnp.concatenate([observation[:, 1:], observation[:, :1]], axis=1)
    return rows.replace(next_observation=following)


class DatasetStream:
    """Rows of a dataset in random order, epoch after epoch; the rest of an epoch is left out.

    The rows are an argument of `next` and not part of the compiled program. They never belong to
    `held_out`.

    Attributes:
      source: `{"train": Trajectory (N, S, ...), "held_out": Trajectory (M, S, ...)}`, as
        `as_trajectory` makes them.
      sequence_length: `S`, tokens per row.
    """

    def __init__(self, train: Trajectory, held_out: Trajectory):
        """Builds the stream.

        Raises:
          ValueError: if one of the two has no rows.
        """
        for name, rows in (("train", train), ("held_out", held_out)):
            if not len(rows.segment):
                raise ValueError(f"{name} has no rows, allowed are 1 or more")
        self.source = {"train": train, "held_out": held_out}
        self.sequence_length = train.segment.shape[1]

    def init(self, key: chex.PRNGKey, num_rows: int) -> DatasetPosition:
        """Position of a stream of `num_rows` rows a batch at its beginning."""
        return DatasetPosition(
            jax.random.key_data(key), jnp.zeros(num_rows, jnp.int32), jnp.int32(0)
        )

    def next(
        self, state: DatasetPosition, source: dict[str, Trajectory]
    ) -> tuple[DatasetPosition, Trajectory]:
        """Next rows: the advanced position and a `Trajectory` with leading axis `B`.

        A batch larger than the dataset holds rows several times.
        """
        num_rows, batch_size = len(source["train"].segment), len(state.rows)
        per_epoch = max(num_rows // batch_size, 1)
        epoch, place = state.batch // per_epoch, state.batch % per_epoch
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), epoch)
        order = jax.random.permutation(key, num_rows)
        index = order[(place * batch_size + jnp.arange(batch_size)) % num_rows]
        batch = jax.tree.map(lambda x: jnp.asarray(x)[index], source["train"])
        return state.replace(batch=state.batch + 1), with_next_observation(batch)

    def evaluation_set(
        self, key: chex.PRNGKey, num_rows: int, source: dict[str, Trajectory]
    ) -> Trajectory:
        """The first `num_rows` rows held out, from the beginning again where there are fewer."""
        del key
        rows = source["held_out"]
        index = jnp.arange(num_rows) % len(rows.segment)
        return with_next_observation(jax.tree.map(lambda x: jnp.asarray(x)[index], rows))
