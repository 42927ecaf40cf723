"""The bias of attention by pairs of query and key, made on the core of a TPU.

It depends on how far a key is away alone, so that the rows of a block of queries are one row, each
turned by another number of places. XLA takes longer to write `(H, S, S)` numbers out, and to add
their gradients up along diagonals, than a block takes for its attention.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from internal_rl.backend import LANES


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def bias_of_pairs(by_key: chex.Array, interpret: bool = False) -> chex.Array:
    """Bias of the last 128 queries of a row.

    Args:
      by_key: `(H, S)` float32, of the last query; `S` a multiple of 128.
      interpret: run the kernels without a TPU, slowly, for tests.

    Returns:
      `(H, 128, S)` float32; arbitrary for keys behind the query, whose gradients have to be zero.
    """
    num_heads, length = by_key.shape
    return _call(_spread, "spread_bias", by_key[:, None], (num_heads, LANES, length), interpret)


def _forward(by_key, interpret):
    return bias_of_pairs(by_key, interpret), None


def _backward(interpret, kept, pairs_bar):
    num_heads, _, length = pairs_bar.shape
    bar = _call(_gather, "gather_bias", pairs_bar, (num_heads, 1, length), interpret)
    return (bar[:, 0],)


bias_of_pairs.defvjp(_forward, _backward)


def _call(kernel, name, array, shape, interpret):
    """Runs a kernel on the part of every head."""

    def part(shape):
        return pl.BlockSpec((1, *shape[1:]), lambda head: (head, 0, 0))

    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(shape, jnp.float32),
        grid=(shape[0],),
        in_specs=[part(array.shape)],
        out_specs=part(shape),
        interpret=interpret,
        name=name,
    )(array)


def _spread(by_key_ref, pairs_ref):
    row = by_key_ref[0]
    pairs_ref[0] = _turned(jnp.broadcast_to(row, (LANES, row.shape[1])), -1)


def _gather(pairs_bar_ref, by_key_bar_ref):
    by_key_bar_ref[0] = jnp.sum(_turned(pairs_bar_ref[0], 1), axis=0, keepdims=True)


def _turned(x, direction: int):
    """Turns row `i` of `(128, S)` by `127 - i` places to the left (-1) or to the right (1)."""
    length = x.shape[1]
    places = LANES - 1 - jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    step = 1
    while step < LANES:
        turned = pltpu.roll(x, direction * step % length, axis=1)
        x = jnp.where(places & step > 0, turned, x)
        step *= 2
    return x
