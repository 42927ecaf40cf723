"""Attention of one step to the steps before it, which a cache holds."""

from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from internal_rl.backend import on_cpu
from internal_rl.batching import largest
from internal_rl.models import tpu_step
from internal_rl.models.tpu_attention import MASKED

# Steps in a chunk of the cache on a CPU. Accelerators read the cache whole: there it is a smaller
# share of a step, and a conditional costs more.
CPU_CACHE_CHUNK = 20
# Each is traced and compiled for itself: of longer episodes they are larger.
_MAX_CHUNKS = 64


@struct.dataclass
class KeyValueCache:
    """State of the one-step form.

    Heads come before time, so that each head's keys lie together: XLA's CPU matrix-vector products
    run at memory bandwidth on this layout and 4 to 15 times slower on `(B, T, H, dh)`. Reading the
    cache is most of a step, therefore it is cut in chunks of time, and those that lie further back
    than any row looks are not read. For the kernel of TPUs heads lie side by side, see
    `models.tpu_step`.

    Attributes:
      key: `C` chunks `(B, H, T/C, dh)` of keys; step number `i` lies in slot `i % T` of all chunks
        together. For the kernel one array `(B, T, H dh)`.
      value: the same for values.
      index: `()` int32 number of steps taken; all rows of a batch write to the same slot.
      length: `(B,)` int32 number of steps since the row's episode began, which is how far back it
        may look. Rows can restart at different times.
    """

    key: tuple[chex.Array, ...]
    value: tuple[chex.Array, ...]
    index: chex.Array
    length: chex.Array

    @property
    def num_slots(self) -> int:
        """`T`, steps that the cache holds."""
        return len(self.key) * self.key[0].shape[-2]

    @property
    def for_kernel(self) -> bool:
        """Whether it is laid out for the kernel of TPUs."""
        return self.key[0].ndim == 3

    @property
    def slot(self) -> chex.Array:
        """`()` int32, where the present step belongs."""
        return self.index % self.num_slots

    @property
    def distance(self) -> chex.Array:
        """`(T,)` int32, how many steps back each slot lies; 0 for that of the present step."""
        return (self.slot - jnp.arange(self.num_slots, dtype=jnp.int32)) % self.num_slots

    @property
    def visible(self) -> chex.Array:
        """`(B, T)` bool, which slots belong to a row's episode, the present step included."""
        return self.distance <= self.length[:, None]

    def with_step(self, key: chex.Array, value: chex.Array) -> "KeyValueCache":
        """With key and value of the present step, `(B, H, dh)` or for the kernel `(B, H dh)`."""
        keys, values = _write(self.key, key, self.slot), _write(self.value, value, self.slot)
        return KeyValueCache(keys, values, self.index + 1, self.length + 1)

    def chunks_within(self, distance: chex.Array, reach: chex.Array) -> list[chex.Array | bool]:
        """Which chunks hold a slot, `distance (T,)` steps back, within `reach ()` steps."""
        if len(self.key) == 1:
            return [True]
        nearest = jnp.min(distance.reshape(len(self.key), -1), axis=1)
        return [largest(near <= reach) for near in nearest]


def empty_cache(
    batch_size: int, max_length: int, num_heads: int, head_size: int, dtype: DTypeLike
) -> KeyValueCache:
    """A cache for episodes of up to `max_length` steps, laid out for the present backend."""
    num_chunks = min(-(-max_length // CPU_CACHE_CHUNK), _MAX_CHUNKS) if on_cpu() else 1
    shape = (batch_size, num_heads, -(-max_length // num_chunks), head_size)
    return _empty(shape, dtype, num_chunks)


def empty_kernel_cache(
    batch_size: int, max_length: int, size: int, dtype: DTypeLike
) -> KeyValueCache:
    """The same for `tpu_step.block_step`, with heads side by side, `size = H dh`."""
    return _empty((batch_size, tpu_step.slots_of(max_length), size), dtype, 1)


def _empty(shape: tuple[int, ...], dtype: DTypeLike, num_chunks: int) -> KeyValueCache:
    def empty():
        return tuple(jnp.zeros(shape, dtype) for _ in range(num_chunks))

    return KeyValueCache(empty(), empty(), jnp.int32(0), jnp.zeros(shape[0], jnp.int32))


def attend_step(
    query: chex.Array, key: chex.Array, value: chex.Array, bias: chex.Array, cache: KeyValueCache
) -> tuple[chex.Array, KeyValueCache]:
    """Attends to this step and to those that the cache holds of its episode.

    Args:
      query: `(B, H dh)` of this step, already scaled.
      key: the same for its key.
      value: the same for its value.
      bias: `(H, T)` added to the scores, by distance in steps.
      cache: of the earlier steps, not laid out for the kernel.

    Returns:
      `(B, H dh)`, and the cache with this step added.
    """
    query, key, value = (x.reshape(len(x), len(bias), -1) for x in (query, key, value))
    after, distance = cache.with_step(key, value), cache.distance
    wanted = cache.chunks_within(distance, jnp.max(cache.length))
    attended = _attend_chunks(
        query, after.key, after.value, bias[:, distance], cache.visible, wanted
    )
    return attended.reshape(len(attended), -1), after


def _attend_chunks(query, keys, values, bias, visible, wanted) -> chex.Array:
    scores = [
        _if_wanted(wanted[i], partial(full_sums, "bhd,bhkd->bhk"), query, chunk)
        for i, chunk in enumerate(keys)
    ]
    scores = jnp.concatenate(scores, axis=-1) + bias
    scores = jnp.where(visible[:, None], scores, MASKED)
    weight = jax.nn.softmax(scores).astype(values[0].dtype)
    weights = jnp.split(weight, len(values), axis=-1)
    return sum(
        _if_wanted(wanted[i], partial(jnp.einsum, "bhk,bhkd->bhd"), weights[i], chunk)
        for i, chunk in enumerate(values)
    )


def full_sums(equation: str, left: chex.Array, right: chex.Array) -> chex.Array:
    """`jnp.einsum` whose sums are float32 at least, and so is the result."""
    dtype = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.einsum(equation, left, right, preferred_element_type=dtype)


def _write(chunks: tuple[chex.Array, ...], new: chex.Array, slot: chex.Array) -> tuple:
    """Puts `new` into slot `slot ()` of a cache, the axis before the last; in place."""
    size, axis, new = chunks[0].shape[-2], chunks[0].ndim - 2, new[..., None, :]
    if len(chunks) == 1:
        return (jax.lax.dynamic_update_slice_in_dim(chunks[0], new, slot, axis),)
    written = []
    for i, chunk in enumerate(chunks):
        place = slot - i * size
        start = jnp.clip(place, 0, size - 1)
        old = jax.lax.dynamic_slice_in_dim(chunk, start, 1, axis)
        inside = (place >= 0) & (place < size)
        chosen = jnp.where(inside, new, old)
        written.append(jax.lax.dynamic_update_slice_in_dim(chunk, chosen, start, axis))
    return tuple(written)


def _if_wanted(wanted: chex.Array | bool, function: Callable, *operands: chex.Array) -> chex.Array:
    """`function(*operands)`, or zeros where `wanted ()` does not hold."""
    if wanted is True:
        return function(*operands)
    result = jax.eval_shape(function, *operands)
    return jax.lax.cond(
        wanted, function, lambda *_: jnp.zeros(result.shape, result.dtype), *operands
    )
