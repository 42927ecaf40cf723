"""Gradients of a large batch, computed part by part to bound memory."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from internal_rl.training.mesh import shard_rows

Gradient = Callable[[chex.ArrayTree, chex.ArrayTree, jax.Array], tuple]


def accumulated_gradients(
    gradient_of: Gradient, params: chex.ArrayTree, batch: chex.ArrayTree, num_parts: int = 1
) -> tuple[tuple[jax.Array, chex.ArrayTree], chex.ArrayTree]:
    """`gradient_of(params, batch)` summed over parts of the batch.

    Only one part's activations are alive at a time. The sums equal those of the whole batch if the
    loss of a part is its *share* of the whole: a sum over its rows divided by what the whole batch
    is divided by, which the caller computes beforehand.

    Args:
      gradient_of: `(params, part, index) -> ((value, metrics), gradients)`, as
        `jax.value_and_grad(loss, has_aux=True)` gives it; `index` is the part's number, to draw
        different noise for each.
      params: what to differentiate by.
      batch: leaves `(B, ...)`; rows are spread over the devices of the `data` axis.
      num_parts: parts of `B / num_parts` consecutive rows each.

    Returns:
      `((value, metrics), gradients)`, summed over the parts.

    Raises:
      ValueError: if `num_parts` does not divide `B`.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    if num_parts < 1 or rows % num_parts:
        raise ValueError(f"num_parts is {num_parts}, allowed are divisors of the {rows} rows")
    if num_parts == 1:
        return gradient_of(params, shard_rows(batch), jnp.int32(0))
    parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), batch)

    def add(sums, inputs):
        part, index = inputs
        return jax.tree.map(jnp.add, sums, gradient_of(params, shard_rows(part), index)), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradient_of, params, first, jnp.int32(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, (parts, jnp.arange(num_parts, dtype=jnp.int32)))[0]
