"""Transformer block with relative-position bias, in a parallel and a KV-cached one-step form."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from internal_rl.backend import kernels_for_tpu, on_cpu
from internal_rl.models import tpu_block, tpu_step
from internal_rl.models.blocks import MLP, BlockShape, register_block, scaled_initializer
from internal_rl.models.cached_attention import (
    MASKED,
    KeyValueCache,
    attend_step,
    empty_cache,
    empty_kernel_cache,
    full_sums,
)

# Queries of the parallel form that share one slice of keys on a CPU. Accelerators take whole rows.
QUERY_BLOCK = 64
# Each is traced and compiled for itself: of longer rows they are larger.
MAX_BLOCKS = 64
# Slices of keys begin at multiples of this.
KEY_ALIGNMENT = 16
# Steps back that are enough for most packed trajectories, see `models.reach`.
SHORT_REACH = 64


def relative_position_bucket(
    distance: np.ndarray, num_buckets: int = 32, max_distance: int = 128
) -> np.ndarray:
    """Causal bucketing of T5 (Raffel et al. 2020): exact up to half the buckets, then logarithmic.

    Args:
      distance: how far the key lies in the past of the query, >= 0.
      num_buckets: number of buckets.
      max_distance: distances from here on share the last bucket.
    """
    exact = num_buckets // 2
    ratio = np.log(np.maximum(distance, 1) / exact) / np.log(max_distance / exact)
    coarse = exact + (ratio * (num_buckets - exact)).astype(np.int32)
    return np.where(distance < exact, distance, np.minimum(coarse, num_buckets - 1))


def query_block_size(length: int) -> int:
    """Queries of a block for rows of so many tokens."""
    return QUERY_BLOCK * max(-(-length // (QUERY_BLOCK * MAX_BLOCKS)), 1)


def query_blocks(length: int, reach: int) -> list[tuple[slice, slice]]:
    """Blocks of queries, as CPUs take them, and the keys that each of them is compared with.

    Args:
      length: tokens of a row.
      reach: how many steps back a token looks at most.

    Returns:
      Slices of queries and of keys.
    """
    blocks, size = [], query_block_size(length)
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = max(start - reach, 0) // KEY_ALIGNMENT * KEY_ALIGNMENT
        blocks.append((slice(start, stop), slice(first, stop)))
    return blocks


@jax.custom_jvp
def attend(
    query: chex.Array, key: chex.Array, value: chex.Array, bias: chex.Array, visible: chex.Array
) -> chex.Array:
    """Softmax attention, `softmax(query key^T + bias) value` over the visible keys.

    The derivative is written out: it keeps the exponentials as they are and divides the short side,
    the output, by their sums, so that the long scores are passed over as seldom as possible (on
    CPUs 1.7 times as fast as what automatic differentiation makes of the formula).

    Args:
      query: `(B, H, Q, dh)`, already scaled.
      key: `(B, H, K, dh)`.
      value: `(B, H, K, dh)`.
      bias: `(H, Q, K)` added to the scores.
      visible: `(B, Q, K)` bool; every query sees at least one key.

    Returns:
      `(B, H, Q, dh)`, of the type of `query`; scores and their softmax are float32 at least.
    """
    return _attention(query, key, value, bias, visible)[0]


def _attention(query, key, value, bias, visible):
    """The output, the exponentials of the scores (zero where masked), and their inverse sums."""
    scores = full_sums("bhqd,bhkd->bhqk", query, key) + bias
    scores = jnp.where(visible[:, None], scores, MASKED)
    weight = jnp.exp(scores - _over_keys(jnp.maximum, scores))
    inverse_sum = 1.0 / _over_keys(jnp.add, weight)
    weight = weight.astype(value.dtype)
    output = full_sums("bhqk,bhkd->bhqd", weight, value) * inverse_sum
    return output.astype(query.dtype), weight, inverse_sum


def _over_keys(operation: jnp.ufunc, x: chex.Array) -> chex.Array:
    """Reduces the last axis, `(..., K)` to `(..., 1)`; on a CPU by halves.

    XLA's CPU backend takes the numbers of a row one by one where halves of it take a fourth of the
    time.
    """
    while on_cpu() and x.shape[-1] > 16 and x.shape[-1] % 2 == 0:
        first, second = jnp.split(x, 2, axis=-1)
        x = operation(first, second)
    return operation.reduce(x, axis=-1, keepdims=True)


@attend.defjvp
def _attend_derivative(primals, tangents):
    query, key, value, bias, visible = primals
    query_dot, key_dot, value_dot, bias_dot, _ = tangents
    output, weight, inverse_sum = _attention(query, key, value, bias, visible)
    # Products stay in the type of the query, so that those of the transposed derivative are too.
    scores_dot = jnp.einsum("bhqd,bhkd->bhqk", query_dot, key)
    scores_dot += jnp.einsum("bhqd,bhkd->bhqk", query, key_dot)
    weight_dot = weight * (scores_dot + bias_dot)
    output_dot = jnp.einsum("bhqk,bhkd->bhqd", weight_dot.astype(value.dtype), value)
    output_dot += jnp.einsum("bhqk,bhkd->bhqd", weight, value_dot)
    output_dot -= output * jnp.sum(weight_dot, axis=-1, keepdims=True)
    return output, (output_dot * inverse_sum).astype(output.dtype)


class TransformerBlock(nn.Module):
    """Pre-norm block: attention with a learned relative-position bias, then an MLP (method §3).

    Attributes:
      width: size `n_e` of the residual stream.
      num_heads: attention heads `H`.
      head_size: size `dh` of a head.
      mlp_size: hidden size of the MLP.
      init_scale: variance-scaling factor of all kernels.
      reach: how many steps back a token looks at most: a packed row is longer than any trajectory
        in it, and pairs that never belong together are not computed.
      max_length: longest episode the one-step form can run.
      num_buckets: buckets of the relative-position bias.
      dtype: of the products; None for that of the inputs. Norms, softmax and residual stream keep
        theirs.
    """

    width: int
    num_heads: int
    head_size: int
    mlp_size: int
    init_scale: float = 0.1
    reach: int = 100
    max_length: int = 100
    num_buckets: int = 32
    dtype: DTypeLike | None = None

    def setup(self):
        init = scaled_initializer(self.init_scale)
        attention_size = self.num_heads * self.head_size
        dense = partial(nn.Dense, use_bias=False, kernel_init=init, dtype=self.dtype)
        self.attention_norm = nn.LayerNorm(use_bias=False)
        self.query_key_value = dense(3 * attention_size)
        self.attention_output = dense(self.width)
        self.position_bias = self.param(
            "position_bias", nn.initializers.zeros, (self.num_heads, self.num_buckets), jnp.float32
        )
        self.mlp_norm = nn.LayerNorm(use_bias=False)
        self.mlp = MLP(self.mlp_size, self.width, self.init_scale, dtype=self.dtype)

    def _project(self, x: chex.Array) -> tuple[chex.Array, chex.Array, chex.Array]:
        """Scaled queries, keys and values, each `(..., H dh)`."""
        projected = self.query_key_value(self.attention_norm(x))
        query, key, value = jnp.split(projected, 3, axis=-1)
        return query * self.head_size**-0.5, key, value

    def _takes_kernel(self, length: int) -> bool:
        """Whether rows of this length pass through the kernels for TPUs."""
        sizes = (self.width, self.mlp_size, self.num_heads, self.head_size)
        wanted = self._wants_kernels() and not self.is_initializing()
        return wanted and tpu_block.fits(length, *sizes)

    @nn.nowrap
    def _wants_kernels(self) -> bool:
        return kernels_for_tpu() and self.dtype == jnp.bfloat16

    def kernel_weights(self, length: int) -> tpu_block.Weights:
        """All parameters, as the kernels for rows of this length take them."""
        return self._kernel_weights(self._bias_by_distance(length)[:, ::-1])

    def _kernel_weights(self, bias: chex.Array) -> tpu_block.Weights:
        parameters = self.variables["params"]
        mlp = parameters["mlp"]
        return tpu_block.Weights(
            attention_scale=parameters["attention_norm"]["scale"][None],
            query_key_value=parameters["query_key_value"]["kernel"],
            bias=bias,
            attention_output=parameters["attention_output"]["kernel"],
            mlp_scale=parameters["mlp_norm"]["scale"][None],
            hidden=mlp["hidden"]["kernel"],
            hidden_bias=mlp["hidden"]["bias"][None],
            output=mlp["output"]["kernel"],
            output_bias=mlp["output"]["bias"][None],
        )

    def _finish(self, x: chex.Array, attended: chex.Array) -> chex.Array:
        x = x + self.attention_output(attended.reshape(x.shape[0], -1))
        return x + self.mlp(self.mlp_norm(x))

    def __call__(self, x: chex.Array, segment: chex.Array) -> chex.Array:
        """Parallel form.

        Args:
          x: `(B, S, n_e)` residual stream.
          segment: `(B, S)` index of the packed trajectory; attention never crosses it.

        Returns:
          `(B, S, n_e)`.
        """
        batch_size, length, width = x.shape
        if self._takes_kernel(length):
            return tpu_block.block_rows(x, self.kernel_weights(length), segment)
        # Tokens along one axis: XLA's CPU backend is slow at weight gradients over two of them.
        tokens = x.reshape(-1, width)
        # Heads before time, for plain batched products: `(B, H, S, dh)`.
        query, key, value = (
            part.reshape(batch_size, length, self.num_heads, self.head_size).swapaxes(1, 2)
            for part in self._project(tokens)
        )
        attend_all = self._attend_blocks if on_cpu() else self._attend_rows
        attended = attend_all(query, key, value, segment).swapaxes(1, 2)
        return self._finish(tokens, attended).reshape(x.shape)

    def _attend_rows(self, query, key, value, segment) -> chex.Array:
        """Attention of whole rows at once, `(B, H, S, dh)`."""
        length = segment.shape[1]
        together = segment[:, :, None] == segment[:, None]
        near = np.tri(length, dtype=bool) & ~np.tri(length, k=-self.reach - 1, dtype=bool)
        visible = together & near
        return attend(query, key, value, self._bias_of_rows(length), visible)

    def _attend_blocks(self, query, key, value, segment) -> chex.Array:
        """The same in blocks of queries, without keys that lie out of reach."""
        blocks = query_blocks(segment.shape[1], self.reach)
        offset = max(rows.start - seen.start for rows, seen in blocks)
        bias, near = self._bias_and_reach(offset, query_block_size(segment.shape[1]))
        attended = []
        for rows, seen in blocks:
            shift = offset - (rows.start - seen.start)
            place = slice(rows.stop - rows.start), slice(shift, shift + seen.stop - seen.start)
            together = segment[:, rows, None] == segment[:, None, seen]
            attended.append(
                attend(
                    query[:, :, rows],
                    key[:, :, seen],
                    value[:, :, seen],
                    bias[:, *place],
                    together & near[place],
                )
            )
        return jnp.concatenate(attended, axis=2)

    def _bias_and_reach(self, offset: int, size: int) -> tuple[chex.Array, np.ndarray]:
        """What depends on distance alone, for `size` queries from key `offset` on.

        Returns:
          `(H, Q, K)` bias, and `(Q, K)` bool, which keys lie behind a query and within its reach.
        """
        distance = np.arange(size)[:, None] + offset - np.arange(offset + size)
        bucket = relative_position_bucket(np.maximum(distance, 0), self.num_buckets)
        # A product instead of a look-up, whose gradient would be a slow scatter.
        chosen = jax.nn.one_hot(bucket, self.num_buckets, dtype=self.position_bias.dtype)
        bias = jnp.einsum("qkn,hn->hqk", chosen, self.position_bias)
        return bias, (distance >= 0) & (distance <= self.reach)

    def _bias_of_rows(self, length: int) -> chex.Array:
        """`(H, S, S)` bias of whole rows; arbitrary where the key lies behind the query."""
        by_distance = self._bias_by_distance(length)
        # Every row is that before it, one place further to the right: laid out end to end, rows
        # of one number more repeat.
        backwards = jnp.pad(by_distance[:, ::-1], ((0, 0), (0, length)))
        repeated = jnp.tile(backwards, (1, length))[:, : length * (2 * length - 1)]
        rows = repeated.reshape(-1, length, 2 * length - 1)
        return rows[:, :, length - 1 :]

    def _bias_by_distance(self, length: int) -> chex.Array:
        """`(H, S)` bias of keys that are 0, 1, ... steps behind the query."""
        bucket = relative_position_bucket(np.arange(length), self.num_buckets)
        chosen = jax.nn.one_hot(bucket, self.num_buckets, dtype=self.position_bias.dtype)
        # Exact, as what the one-step form looks up.
        exact = jax.lax.Precision.HIGHEST
        return jnp.einsum("kn,hn->hk", chosen, self.position_bias, precision=exact)

    @nn.nowrap
    def initial_state(self, batch_size: int) -> KeyValueCache:
        """Empty cache for episodes of up to `max_length` steps."""
        sizes = (self.num_heads, self.head_size)
        fits = tpu_step.fits(self.max_length, self.width, self.mlp_size, *sizes)
        if self._wants_kernels() and fits:
            size = self.num_heads * self.head_size
            return empty_kernel_cache(batch_size, self.max_length, size, self.dtype)
        return empty_cache(batch_size, self.max_length, *sizes, self.dtype or jnp.float32)

    @nn.nowrap
    def restart(self, state: KeyValueCache, rows: chex.Array) -> KeyValueCache:
        """Begins a new episode in the rows where `rows (B,)` bool is set."""
        return state.replace(length=jnp.where(rows, 0, state.length))

    def step(self, x: chex.Array, state: KeyValueCache) -> tuple[chex.Array, KeyValueCache]:
        """One-step form.

        Args:
          x: `(B, n_e)` residual stream at this step.
          state: cache of the earlier steps.

        Returns:
          `(B, n_e)` and the cache with this step added.
        """
        bucket = relative_position_bucket(np.arange(state.num_slots), self.num_buckets)
        bias = self.position_bias[:, jnp.asarray(bucket)]
        if state.for_kernel:
            distance = state.distance
            weights, cache = self._kernel_weights(bias[:, distance]), (state.key[0], state.value[0])
            x, *new = tpu_step.block_step(x, weights, cache, state.visible, distance == 0)
            return x, state.with_step(*new)
        query, key, value = self._project(x)
        attended, state = attend_step(query, key, value, bias, state)
        return self._finish(x, attended), state


def make_block(shape: BlockShape, **keywords) -> TransformerBlock:
    """A block of the base model."""
    return TransformerBlock(
        width=shape.width,
        num_heads=shape.num_heads,
        head_size=shape.head_size,
        mlp_size=shape.mlp_size,
        init_scale=shape.init_scale,
        reach=shape.reach,
        max_length=shape.max_length,
        dtype=shape.dtype,
        **keywords,
    )


def short_reach(max_length: int) -> int | None:
    """See `BlockEntry`; None where trajectories are hardly longer."""
    return SHORT_REACH if max_length >= SHORT_REACH + KEY_ALIGNMENT else None


register_block("transformer", make_block, short_reach=short_reach)
