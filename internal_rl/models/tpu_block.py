"""The transformer block over packed rows as one TPU kernel each way, see `models.tpu_rows`."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax.typing import DTypeLike

from internal_rl.backend import LANES
from internal_rl.models.tpu_attention import AttentionRow, attend, attend_backward, dot
from internal_rl.models.tpu_bias import bias_of_pairs
from internal_rl.models.tpu_rows import (
    Gradients,
    RowKernels,
    caster,
    norm,
    norm_backward,
    perceptron,
    perceptron_backward,
    run,
)

MAX_LENGTH = 512
MAX_WEIGHTS = 2**20


class Weights(NamedTuple):
    """Parameters of a block; gradients have the same form.

    Attributes:
      attention_scale: `(1, n)` of the norm before attention.
      query_key_value: `(n, 3 H dh)`.
      bias: added to the scores of the last query, by key, `(H, S)`: it depends on how far a key is
        away alone. Inside of the kernels `bias_of_pairs`, for a single step `(H, T)`.
      attention_output: `(H dh, n)`.
      mlp_scale: `(1, n)` of the norm before the perceptron.
      hidden: `(n, m)`.
      hidden_bias: `(1, m)`.
      output: `(m, n)`.
      output_bias: `(1, n)`.
    """

    attention_scale: chex.Array
    query_key_value: chex.Array
    bias: chex.Array
    attention_output: chex.Array
    mlp_scale: chex.Array
    hidden: chex.Array
    hidden_bias: chex.Array
    output: chex.Array
    output_bias: chex.Array

    def for_products(self, dtype: DTypeLike) -> "Weights":
        """With the factors of products in another type."""
        names = ("query_key_value", "attention_output", "hidden", "output")
        return self._replace(**{name: getattr(self, name).astype(dtype) for name in names})


def fits(length: int, width: int, mlp_size: int, num_heads: int, head_size: int) -> bool:
    """Whether rows of `length` tokens and a block of these sizes suit the kernels."""
    sizes = (width, mlp_size, num_heads * head_size)
    whole = all(size % LANES == 0 for size in (length, *sizes))
    held = number_of_weights(*sizes) + num_heads * LANES * length
    return whole and length <= MAX_LENGTH and held <= MAX_WEIGHTS and LANES % head_size == 0


def number_of_weights(width: int, mlp_size: int, attention_size: int) -> int:
    """Numbers in the matrices of a block."""
    return width * (4 * attention_size + 2 * mlp_size)


def block_rows(
    x: chex.Array,
    weights: Weights,
    segment: chex.Array,
    dtype: DTypeLike = jnp.bfloat16,
    interpret: bool = False,
) -> chex.Array:
    """A block on packed rows.

    Args:
      x: `(B, S, n)` float32 residual stream.
      weights: of the block, float32.
      segment: `(B, S)` int32; attention is causal and stays within a segment.
      dtype: of the factors of products.
      interpret: run the kernels without a TPU, slowly, for tests.

    Returns:
      `(B, S, n)` float32.
    """
    # Eight of each segment, as arrays are cut into tiles of eight rows.
    num_rows, length = segment.shape
    segment = jnp.broadcast_to(segment[:, None], (num_rows, 8, length))
    weights = weights._replace(bias=bias_of_pairs(weights.bias, interpret))
    return run(_KERNELS, x, weights, segment, dtype=dtype, interpret=interpret)


def _attention_of(segment_ref, x, weights: Weights):
    """The norm before attention, what attention reads, and its output `(S, H dh)`."""
    to = caster(weights)
    normed = norm(x, weights.attention_scale[...])
    qkv = to(dot(to(normed.output), weights.query_key_value[...], 1, 0))
    head_size = weights.attention_output.shape[0] // weights.bias.shape[0]
    row = AttentionRow(segment_ref, weights.bias, qkv, head_size)
    return normed, row, attend(row)


def _add_attention(x, attended, weights: Weights):
    return x + dot(attended, weights.attention_output[...], 1, 0)


def finish(x, attended, weights: Weights):
    """What follows attention, `(S, n)` and `(S, H dh)` to `(S, n)`, inside of a kernel."""
    return perceptron(_add_attention(x, attended, weights), weights)


def _forward_kernel(segment_ref, x_ref, weights: Weights, y_ref):
    x = x_ref[0]
    _, _, attended = _attention_of(segment_ref, x, weights)
    y_ref[0] = finish(x, attended, weights)


def _backward_kernel(
    segment_ref, x_ref, y_bar_ref, weights: Weights, x_bar_ref, gradients: Gradients
):
    to, x = caster(weights), x_ref[0]
    normed, row, attended = _attention_of(segment_ref, x, weights)
    x = _add_attention(x, attended, weights)
    x_bar = perceptron_backward(x, y_bar_ref[0], weights, gradients)

    gradients.add(attention_output=lambda: dot(attended, to(x_bar), 0, 0))
    out_bar = dot(to(x_bar), weights.attention_output[...], 1, 1)
    qkv_bar = attend_backward(row, out_bar, gradients.bars and gradients.bars.bias)
    gradients.add(query_key_value=lambda: dot(to(normed.output), qkv_bar, 0, 0))
    normed_bar = dot(qkv_bar, weights.query_key_value[...], 1, 1)
    from_norm, scale_bar = norm_backward(normed, weights.attention_scale[...], normed_bar)
    gradients.add(attention_scale=lambda: scale_bar)
    x_bar_ref[0] = x_bar + from_norm


_KERNELS = RowKernels("block", _forward_kernel, _backward_kernel)
