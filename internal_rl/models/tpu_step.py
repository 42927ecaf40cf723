"""A step of the transformer block as a TPU kernel: the cache is read once, and little else counts.

A step reads all keys and values of all episodes, which takes longer than whatever is computed with
them. Heads stand side by side in the lanes of the cache, so that the registers are full: in arrays
with an axis for heads of 64 numbers, half of what is read would be padding. What comes before and
behind attention is some twenty operations on little arrays, each of which would take longer to
begin than to do: here they are done where the episodes lie. Products take bfloat16 numbers and sum
in float32; all else is float32.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from internal_rl.backend import LANES
from internal_rl.models.tpu_attention import MASKED, dot
from internal_rl.models.tpu_block import MAX_WEIGHTS, Weights, finish, number_of_weights
from internal_rl.models.tpu_rows import norm

# Slots of the cache are held in registers of so many bfloat16 numbers one below the other.
SLOTS = 16
# Episodes in one run of the kernel, as many as the rows of a register of bfloat16.
_EPISODES = 16
# Bytes that their cache may take; a program of XLA leaves its kernels 16 MiB.
_CACHE_MEMORY = 8 * 2**20


def fits(max_length: int, width: int, mlp_size: int, num_heads: int, head_size: int) -> bool:
    """Whether a block of these sizes fills the lanes of registers, and fits into a core.

    So must the cache of episodes of up to `max_length` steps.
    """
    sizes = (width, mlp_size, num_heads * head_size)
    # Keys and values of two bytes; the next episodes arrive while these are worked on.
    cache = 2 * 2 * 2 * _EPISODES * slots_of(max_length) * num_heads * head_size
    whole = all(size % LANES == 0 for size in sizes)
    return whole and number_of_weights(*sizes) <= MAX_WEIGHTS and cache <= _CACHE_MEMORY


def slots_of(max_length: int) -> int:
    """Steps that the cache of an episode holds."""
    return -(-max_length // SLOTS) * SLOTS


def block_step(
    x: chex.Array,
    weights: Weights,
    cache: tuple[chex.Array, chex.Array],
    visible: chex.Array,
    present: chex.Array,
    *,
    interpret: bool = False,
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """A block at the present step of `B` episodes.

    Args:
      x: `(B, n)` float32 residual stream.
      weights: of the block, float32; `bias` is `(H, T)`, by slot of the cache.
      cache: keys and values of earlier steps, each `(B, T, H dh)` bfloat16.
      visible: `(B, T)` bool; the present slot is, for every episode.
      present: `(T,)` bool, which slot is that of the present step. What the cache holds there is
        not read.
      interpret: run it without a TPU, slowly.

    Returns:
      `(B, n)` float32, and key and value of this step, `(B, H dh)` bfloat16, to be kept.
    """
    keys, values = cache
    episodes, slots, size = keys.shape
    head_size = size // weights.bias.shape[0]
    mask = jnp.where(visible, 0.0, MASKED).astype(jnp.float32)
    weights = weights.for_products(keys.dtype)

    def of_step(width):
        return pl.BlockSpec((_EPISODES, width), lambda block: (block, 0))

    of_cache = pl.BlockSpec((_EPISODES, slots, size), lambda block: (block, 0, 0))
    whole = [pl.BlockSpec(array.shape, lambda block: (0, 0)) for array in weights]
    kept = jax.ShapeDtypeStruct((episodes, size), keys.dtype)
    return pl.pallas_call(
        functools.partial(_kernel, head_size=head_size),
        out_shape=(jax.ShapeDtypeStruct(x.shape, x.dtype), kept, kept),
        grid=(pl.cdiv(episodes, _EPISODES),),
        in_specs=[
            of_step(x.shape[1]),
            of_cache,
            of_cache,
            of_step(slots),
            pl.BlockSpec((1, slots), lambda block: (0, 0)),
            *whole,
        ],
        out_specs=(of_step(x.shape[1]), of_step(size), of_step(size)),
        interpret=interpret,
        name="block_step",
    )(x, keys, values, mask, present[None].astype(jnp.float32), *weights)


def _kernel(x_ref, key_ref, value_ref, mask_ref, present_ref, *refs, head_size):
    *weight_refs, y_ref, new_key_ref, new_value_ref = refs
    weights, x = Weights(*weight_refs), x_ref[:]
    size, dtype = key_ref.shape[2], key_ref.dtype
    normed = norm(x, weights.attention_scale[...]).output.astype(dtype)
    qkv = dot(normed, weights.query_key_value[...], 1, 0).astype(dtype)
    query, key, value = (qkv[:, part * size : (part + 1) * size] for part in range(3))
    new_key_ref[:], new_value_ref[:] = key, value
    query, key, value = (part.astype(jnp.float32) for part in (query, key, value))
    query = query * head_size**-0.5

    heads = weights.bias.shape[0]
    first = jax.lax.broadcasted_iota(jnp.int32, (heads, size), 0) * head_size
    lane = jax.lax.broadcasted_iota(jnp.int32, (heads, size), 1)
    # Row `h` keeps the numbers of head `h`.
    own = (lane >= first) & (lane < first + head_size)
    bias, present = weights.bias[...], present_ref[:] > 0
    attended = []
    for episode in range(x.shape[0]):
        this = slice(episode, episode + 1)
        of_heads = jnp.where(own, query[this], 0.0)
        scores = dot(of_heads.astype(dtype), key_ref[episode], 1, 1)
        # The cache does not hold the present step yet.
        with_itself = jnp.sum(of_heads * key[this], axis=1, keepdims=True)
        scores = jnp.where(present, with_itself, scores) + bias + mask_ref[this]
        weight = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
        inverse = 1.0 / jnp.sum(weight, axis=1, keepdims=True)
        of_itself = jnp.sum(jnp.where(present, weight, 0.0), axis=1, keepdims=True)
        weight = jnp.where(present, 0.0, weight).astype(dtype)
        read = (dot(weight, value_ref[episode], 1, 0) + of_itself * value[this]) * inverse
        attended.append(jnp.sum(jnp.where(own, read, 0.0), axis=0, keepdims=True))
    y_ref[:] = finish(x, jnp.concatenate(attended, axis=0).astype(dtype), weights)
