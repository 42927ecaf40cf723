"""Gradients of a large batch, computed part by part to bound memory."""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from internal_rl.backend import on_cpu
from internal_rl.training.mesh import num_shares, seeds_side_by_side, share_number, total

Gradient = Callable[[chex.ArrayTree, chex.ArrayTree, jax.Array], tuple]

# Settings are made for ten seeds in one program on one device. An accelerator that holds fewer
# needs fewer parts, and is slower with more than it needs.
SEEDS_OF_SETTINGS = 10


def accumulated_gradients(
    gradient_of: Gradient, params: chex.ArrayTree, batch: chex.ArrayTree, num_parts: int = 1
) -> tuple[tuple[jax.Array, chex.ArrayTree], chex.ArrayTree]:
    """`gradient_of(params, batch)` summed over parts of the batch.

    Only one part's activations are alive at a time. The sums equal those of the whole batch if the
    loss of a part is its *share* of the whole: a sum over its rows divided by what the whole batch
    is divided by, which the caller computes beforehand. Inside of `mesh.spread` each device takes
    its own rows, and the sums are those of all devices.

    Args:
      gradient_of: `(params, part, index) -> ((value, metrics), gradients)`, as
        `jax.value_and_grad(loss, has_aux=True)` gives it; `index` is the part's number among those
        of all devices, to draw different noise for each.
      params: what to differentiate by.
      batch: leaves `(B, ...)`.
      num_parts: parts of consecutive rows, see `suitable_parts`, which tells how many rows have to
        be filled up.

    Returns:
      `((value, metrics), gradients)`, summed over the parts.

    Raises:
      ValueError: if `B` rows do not make whole parts.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    num_parts = suitable_parts(num_parts, rows)
    if rows % num_parts:
        raise ValueError(f"{rows} rows given in {num_parts} parts, allowed are whole ones")
    first_part = share_number() * num_parts
    if num_parts == 1:
        return total(gradient_of(params, batch, jnp.int32(first_part)))
    # Traced once, for its shapes and in the loop.
    gradient_of = jax.jit(gradient_of)
    parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), batch)

    def add(sums, inputs):
        part, index = inputs
        return jax.tree.map(jnp.add, sums, gradient_of(params, part, index)), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradient_of, params, first, jnp.int32(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    numbers = first_part + jnp.arange(num_parts, dtype=jnp.int32)
    return total(jax.lax.scan(add, zeros, (parts, numbers))[0])


def suitable_parts(num_parts: int, rows: int) -> int:
    """Parts in which the `rows` of one device pass through a model.

    On a CPU those of the settings, shared out among the devices; accelerators take as few as their
    memory allows. No part has more rows than with so many parts it must; the last one is to be
    filled up with padding, see `filled_up`.
    """
    wanted = num_parts / num_shares()
    if not on_cpu():
        wanted *= seeds_side_by_side() / SEEDS_OF_SETTINGS
    most = -(-rows // max(math.ceil(wanted), 1))
    return -(-rows // most)


def filled_up(num_parts: int, rows: int) -> int:
    """Rows with the padding that makes the parts of `suitable_parts` equal; as many parts again."""
    parts = suitable_parts(num_parts, rows)
    return -(-rows // parts) * parts
