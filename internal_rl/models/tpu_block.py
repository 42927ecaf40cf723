"""The transformer block over packed rows as one TPU kernel each way (Pallas).

A row of a few hundred tokens and the weights of a block fit into a core's own memory: everything
between a block's input and its output is made, used and forgotten there, where XLA writes scores,
projections and hidden layers out, several times. What goes backward is computed from the input
again, so that nothing else is kept between the two passes. Products take bfloat16 numbers, or
others that are asked for, and sum in float32; all else is float32.

The kernels have derivatives of their own and cannot be differentiated forwards (`jax.jvp`), see
`backend.without_kernels`.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from internal_rl.backend import LANES
from internal_rl.models.tpu_attention import (
    AttentionRow,
    attend,
    attend_backward,
    bias_of_pairs,
    bias_of_pairs_backward,
    dot,
)

MAX_LENGTH = 512
MAX_WEIGHTS = 2**20
EPSILON = 1e-6


class Weights(NamedTuple):
    """Parameters of a block; gradients have the same form.

    Attributes:
      attention_scale: `(1, n)` of the norm before attention.
      query_key_value: `(n, 3 H dh)`.
      bias: `(H, S)` added to the scores of the last query, by key; it depends on how far a key is
        away alone. For a single step `(H, T)`.
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
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
    return _forward(x, weights, segment, dtype, interpret)


def _block_rows_forward(x, weights, segment, dtype, interpret):
    # Parameters that nobody asks the gradient of are those of a frozen model.
    frozen = not any(leaf.perturbed for leaf in weights)
    x, weights, segment = jax.tree.map(
        lambda leaf: leaf.value,
        (x, weights, segment),
        is_leaf=lambda leaf: hasattr(leaf, "perturbed"),
    )
    kept = (x, weights, segment, None if frozen else ())
    return _forward(x, weights, segment, dtype, interpret), kept


def _block_rows_backward(dtype, interpret, kept, y_bar):
    x, weights, segment, trained = kept
    if isinstance(y_bar, jax.custom_derivatives.SymbolicZero):
        y_bar = jnp.zeros(y_bar.shape, y_bar.dtype)
    x_bar, weights_bar = _backward(
        x, weights, segment, y_bar, dtype, interpret, trained is not None
    )
    return x_bar, weights_bar, None


block_rows.defvjp(_block_rows_forward, _block_rows_backward, symbolic_zeros=True)


# One row, inside of the kernels.


class Normed(NamedTuple):
    """Of a layer norm: output, the same before scaling, and inverse deviations `(S, 1)`."""

    output: chex.Array
    unscaled: chex.Array
    inverse: chex.Array


def norm(x, scale) -> Normed:
    """Layer norm of `(S, n)` without a bias, inside of a kernel."""
    mean = jnp.mean(x, axis=1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=1, keepdims=True) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON)
    unscaled = (x - mean) * inverse
    return Normed(unscaled * scale, unscaled, inverse)


def _norm_backward(normed: Normed, scale, output_bar):
    """Gradient of the input, and that of the scale."""
    unscaled_bar = output_bar * scale
    along = jnp.mean(unscaled_bar * normed.unscaled, axis=1, keepdims=True)
    centre = jnp.mean(unscaled_bar, axis=1, keepdims=True)
    x_bar = (unscaled_bar - centre - normed.unscaled * along) * normed.inverse
    return x_bar, _over_tokens(output_bar * normed.unscaled)


def _over_tokens(x):
    return jnp.sum(x, axis=0, keepdims=True)


# The kernels.


def _attention_of(segment_ref, x, weights: Weights, bias_ref, head_size: int):
    """The norm before attention, what attention reads, and its output `(S, H dh)`."""
    to = _caster(weights)
    normed = norm(x, weights.attention_scale[...])
    qkv = to(dot(to(normed.output), weights.query_key_value[...], 1, 0))
    row = AttentionRow(segment_ref, bias_ref, qkv, head_size)
    return normed, row, attend(row)


def _caster(weights: Weights):
    """Takes arrays to the type that products are computed in."""
    return lambda x: x.astype(weights.hidden.dtype)


def _hidden_of(normed: Normed, weights: Weights):
    to = _caster(weights)
    hidden = dot(to(normed.output), weights.hidden[...], 1, 0) + weights.hidden_bias[...]
    return to(jnp.maximum(hidden, 0.0))


def finish(x, attended, weights: Weights):
    """What follows attention, `(S, n)` and `(S, H dh)` to `(S, n)`, inside of a kernel."""
    x = x + dot(attended, weights.attention_output[...], 1, 0)
    hidden = _hidden_of(norm(x, weights.mlp_scale[...]), weights)
    return x + dot(hidden, weights.output[...], 1, 0) + weights.output_bias[...]


def _spread_bias(weights: Weights, bias_ref):
    """Lays the bias out by pairs before the first row."""

    @pl.when(pl.program_id(0) == 0)
    def _():
        for head in range(bias_ref.shape[0]):
            bias_ref[head] = bias_of_pairs(weights.bias[head : head + 1])


def _forward_kernel(segment_ref, x_ref, *refs, head_size):
    *weight_refs, y_ref, bias_ref = refs
    weights, x = Weights(*weight_refs), x_ref[0]
    _spread_bias(weights, bias_ref)
    _, _, attended = _attention_of(segment_ref, x, weights, bias_ref, head_size)
    y_ref[0] = finish(x, attended, weights)


def _backward_kernel(segment_ref, x_ref, y_bar_ref, *refs, head_size, trained):
    num = len(Weights._fields)
    weights, x_bar_ref, refs = Weights(*refs[:num]), refs[num], refs[num + 1 :]
    *bars, bias_ref, bias_bar_ref = refs if trained else (*refs, None)
    bars = Weights(*bars) if trained else None
    to = _caster(weights)

    def add(name, value):
        if trained:
            getattr(bars, name)[...] += value()

    _spread_bias(weights, bias_ref)
    if trained:

        @pl.when(pl.program_id(0) == 0)
        def _():
            for bar in (*bars, bias_bar_ref):
                bar[...] = jnp.zeros_like(bar)

    x, y_bar = x_ref[0], y_bar_ref[0]
    first, row, attended = _attention_of(segment_ref, x, weights, bias_ref, head_size)
    x = x + dot(attended, weights.attention_output[...], 1, 0)
    second = norm(x, weights.mlp_scale[...])
    hidden = _hidden_of(second, weights)

    hidden_bar = dot(to(y_bar), weights.output[...], 1, 1)
    hidden_bar = jnp.where(hidden > 0, hidden_bar, 0.0)
    add("output", lambda: dot(hidden, to(y_bar), 0, 0))
    add("output_bias", lambda: _over_tokens(y_bar))
    add("hidden", lambda: dot(to(second.output), to(hidden_bar), 0, 0))
    add("hidden_bias", lambda: _over_tokens(hidden_bar))
    normed_bar = dot(to(hidden_bar), weights.hidden[...], 1, 1)
    x_bar, scale_bar = _norm_backward(second, weights.mlp_scale[...], normed_bar)
    add("mlp_scale", lambda: scale_bar)
    x_bar = x_bar + y_bar

    add("attention_output", lambda: dot(attended, to(x_bar), 0, 0))
    out_bar = dot(to(x_bar), weights.attention_output[...], 1, 1)
    qkv_bar = attend_backward(row, out_bar, bias_bar_ref)
    add("query_key_value", lambda: dot(to(first.output), qkv_bar, 0, 0))
    normed_bar = dot(qkv_bar, weights.query_key_value[...], 1, 1)
    from_norm, scale_bar = _norm_backward(first, weights.attention_scale[...], normed_bar)
    add("attention_scale", lambda: scale_bar)
    x_bar_ref[0] = x_bar + from_norm

    if trained:

        @pl.when(pl.program_id(0) == pl.num_programs(0) - 1)
        def _():
            for head in range(bias_bar_ref.shape[0]):
                bars.bias[head : head + 1] = bias_of_pairs_backward(bias_bar_ref[head])


def _row(*shape):
    return pl.BlockSpec((1, *shape), lambda row: (row, 0, 0))


def _whole(shape):
    return pl.BlockSpec(shape, lambda row: (0,) * len(shape))


def _call(kernel, name, outputs, out_specs, rows, weights, segment, interpret, num_biases):
    num_rows, length = segment.shape
    of_pairs = pltpu.VMEM((weights.bias.shape[0], LANES, length), jnp.float32)
    # Eight of each, as arrays are cut into tiles of eight rows.
    segment = jnp.broadcast_to(segment[:, None], (num_rows, 8, length))
    return pl.pallas_call(
        kernel,
        out_shape=outputs,
        grid=(num_rows,),
        in_specs=[
            _row(8, length),
            *(_row(*array.shape[1:]) for array in rows),
            *(_whole(array.shape) for array in weights),
        ],
        out_specs=out_specs,
        scratch_shapes=[of_pairs] * num_biases,
        interpret=interpret,
        name=name,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
    )(segment, *rows, *weights)


def _head_size(weights: Weights) -> int:
    return weights.attention_output.shape[0] // weights.bias.shape[0]


def _forward(x, weights, segment, dtype, interpret):
    kernel = functools.partial(_forward_kernel, head_size=_head_size(weights))
    output, spec = jax.ShapeDtypeStruct(x.shape, x.dtype), _row(*x.shape[1:])
    weights = weights.for_products(dtype)
    return _call(kernel, "block_forward", output, spec, [x], weights, segment, interpret, 1)


def _backward(x, weights, segment, y_bar, dtype, interpret, trained):
    kernel = functools.partial(_backward_kernel, head_size=_head_size(weights), trained=trained)
    outputs, specs = [jax.ShapeDtypeStruct(x.shape, x.dtype)], [_row(*x.shape[1:])]
    if trained:
        outputs += [jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in weights]
        specs += [_whole(array.shape) for array in weights]
    x_bar, *bars = _call(
        kernel,
        "block_backward",
        outputs,
        specs,
        [x, y_bar],
        weights.for_products(dtype),
        segment,
        interpret,
        num_biases=1 + trained,
    )
    return x_bar, Weights(*bars) if trained else jax.tree.map(jnp.zeros_like, weights)
