"""The rows of an update, shared out among the devices that work at it together."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from internal_rl.training.accumulation import filled_up
from internal_rl.training.mesh import my_share, num_shares, total
from internal_rl.types import DataSource, Trajectory


def next_rows(
    source: DataSource, position: Any, arrays: chex.ArrayTree, num_parts: int = 1
) -> tuple[Any, Trajectory]:
    """`source.next(position, arrays)`; inside of `mesh.spread` the rows of this device alone.

    Every device and every part has as many rows; where that makes some too many, these are padding.

    Args:
      source: of the rows.
      position: in its stream.
      arrays: of the source.
      num_parts: parts in which they pass through a model, see `accumulation.suitable_parts`.
    """
    position, batch = _own_rows(source, position, arrays)
    rows = len(batch.segment)
    missing = filled_up(num_parts, rows) - rows
    if not missing:
        return position, batch

    def fill(leaf):
        return jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))

    own = (jnp.arange(rows + missing) < rows)[:, None]
    batch = jax.tree.map(fill, batch)
    return position, batch.replace(segment=jnp.where(own, batch.segment, -1))


def _own_rows(source, position, arrays) -> tuple[Any, Trajectory]:
    if num_shares() == 1:
        return source.next(position, arrays)
    shape = jax.eval_shape(source.next, position, arrays)[1].segment.shape
    share = my_share(shape[0])
    if hasattr(source, "next_share"):
        position, batch = source.next_share(position, arrays, share)
    else:
        position, batch = source.next(position, arrays)
        batch = jax.tree.map(lambda leaf: leaf[share.rows], batch)
    own = share.own[:, None]
    segment = jnp.where(own, batch.segment, -1)
    return position, batch.replace(segment=segment, mask=batch.mask & own)


def num_targets(batch: Trajectory) -> chex.Array:
    """Number of tokens with a target on all devices, at least 1, `()` float32."""
    return jnp.maximum(total(jnp.sum(batch.mask, dtype=jnp.float32)), 1.0)
