"""Attention of the one-step form as a TPU kernel: the cache is read once, and nothing else counts.

A step reads all keys and values of all episodes, which takes longer than whatever is computed with
them. Heads stand side by side in the lanes of the cache, so that the registers are full: in arrays
with an axis for heads of 64 numbers, half of what is read would be padding.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from internal_rl.models.kernels import LANES
from internal_rl.models.tpu_attention import MASKED, dot

# Slots of the cache are held in registers of so many bfloat16 numbers one below the other.
SLOTS = 16
# Episodes in one run of the kernel, as many as the rows of a register of bfloat16.
_EPISODES = 16


def fits(num_heads: int, head_size: int) -> bool:
    """Whether heads side by side fill the lanes of registers."""
    return (num_heads * head_size) % LANES == 0


def slots_of(max_length: int) -> int:
    """Steps that the cache of an episode holds."""
    return -(-max_length // SLOTS) * SLOTS


def attend_step(
    query: chex.Array,
    key: chex.Array,
    value: chex.Array,
    bias: chex.Array,
    visible: chex.Array,
    *,
    interpret: bool = False,
) -> chex.Array:
    """`softmax(query key^T + bias) value` of the present step of `B` episodes.

    Args:
      query: `(B, H dh)` bfloat16, already scaled.
      key: `(B, T, H dh)` bfloat16 cache.
      value: the same for values.
      bias: `(H, T)` float32 added to the scores.
      visible: `(B, T)` bool; at least one slot of every episode is.
      interpret: run it without a TPU, slowly.

    Returns:
      `(B, H dh)` bfloat16.
    """
    episodes, slots, size = key.shape
    num_heads = bias.shape[0]
    mask = jnp.where(visible, 0.0, MASKED).astype(jnp.float32)
    of_step = pl.BlockSpec((_EPISODES, size), lambda block: (block, 0))
    of_cache = pl.BlockSpec((_EPISODES, slots, size), lambda block: (block, 0, 0))
    return pl.pallas_call(
        functools.partial(_kernel, head_size=size // num_heads),
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        grid=(pl.cdiv(episodes, _EPISODES),),
        in_specs=[
            of_step,
            of_cache,
            of_cache,
            pl.BlockSpec(bias.shape, lambda block: (0, 0)),
            pl.BlockSpec((_EPISODES, slots), lambda block: (block, 0)),
        ],
        out_specs=of_step,
        interpret=interpret,
        name="attention_step",
    )(query, key, value, bias, mask)


def _kernel(query_ref, key_ref, value_ref, bias_ref, mask_ref, out_ref, *, head_size):
    heads, size = bias_ref.shape[0], query_ref.shape[1]
    first = jax.lax.broadcasted_iota(jnp.int32, (heads, size), 0) * head_size
    lane = jax.lax.broadcasted_iota(jnp.int32, (heads, size), 1)
    # Row `h` keeps the numbers of head `h`.
    own = (lane >= first) & (lane < first + head_size)
    query = query_ref[:].astype(jnp.float32)
    attended = []
    for episode in range(query.shape[0]):
        of_heads = jnp.where(own, query[episode : episode + 1], 0.0).astype(query_ref.dtype)
        scores = dot(of_heads, key_ref[episode], 1, 1) + bias_ref[:]
        scores = scores + mask_ref[episode : episode + 1]
        weight = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
        inverse = 1.0 / jnp.sum(weight, axis=1, keepdims=True)
        read = dot(weight.astype(value_ref.dtype), value_ref[episode], 1, 0) * inverse
        attended.append(jnp.sum(jnp.where(own, read, 0.0), axis=0, keepdims=True))
    out_ref[:] = jnp.concatenate(attended, axis=0).astype(out_ref.dtype)
