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


def _attention_of(segment_ref, x, weights: Weights, head_size: int):
    """The norm before attention, what attention reads, and its output `(S, H dh)`."""
    to = _caster(weights)
    normed = norm(x, weights.attention_scale[...])
    qkv = to(dot(to(normed.output), weights.query_key_value[...], 1, 0))
    row = AttentionRow(segment_ref, weights.bias, qkv, head_size)
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


def _spread_kernel(by_key_ref, pairs_ref):
    pairs_ref[0] = bias_of_pairs(by_key_ref[0])


def _gather_kernel(pairs_bar_ref, by_key_bar_ref):
    by_key_bar_ref[0] = bias_of_pairs_backward(pairs_bar_ref[0])


def _forward_kernel(segment_ref, x_ref, *refs, head_size):
    *weight_refs, y_ref = refs
    weights, x = Weights(*weight_refs), x_ref[0]
    _, _, attended = _attention_of(segment_ref, x, weights, head_size)
    y_ref[0] = finish(x, attended, weights)


def _backward_kernel(segment_ref, x_ref, y_bar_ref, *refs, head_size, trained):
    num = len(Weights._fields)
    weights, x_bar_ref, bars = Weights(*refs[:num]), refs[num], refs[num + 1 :]
    bars = Weights(*bars) if trained else None
    to = _caster(weights)

    def add(name, value):
        if trained:
            getattr(bars, name)[...] += value()

    if trained:

        @pl.when(pl.program_id(0) == 0)
        def _():
            for bar in bars:
                bar[...] = jnp.zeros_like(bar)

    x, y_bar = x_ref[0], y_bar_ref[0]
    first, row, attended = _attention_of(segment_ref, x, weights, head_size)
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
    qkv_bar = attend_backward(row, out_bar, bars and bars.bias)
    add("query_key_value", lambda: dot(to(first.output), qkv_bar, 0, 0))
    normed_bar = dot(qkv_bar, weights.query_key_value[...], 1, 1)
    from_norm, scale_bar = _norm_backward(first, weights.attention_scale[...], normed_bar)
    add("attention_scale", lambda: scale_bar)
    x_bar_ref[0] = x_bar + from_norm


def _row(*shape):
    return pl.BlockSpec((1, *shape), lambda row: (row, 0, 0))


def _whole(shape):
    return pl.BlockSpec(shape, lambda row: (0,) * len(shape))


def _call(kernel, name, outputs, out_specs, rows, weights, segment, interpret):
    num_rows, length = segment.shape
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
        interpret=interpret,
        name=name,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
    )(segment, *rows, *weights)


def _for_kernels(weights: Weights, dtype, interpret) -> Weights:
    """Factors of products in their type, and the bias by pairs."""
    length = weights.bias.shape[1]
    spread = _call_by_head(
        _spread_kernel, "spread_bias", weights.bias[:, None], (LANES, length), interpret
    )
    return weights.for_products(dtype)._replace(bias=spread)


def _call_by_head(kernel, name, array, shape, interpret):
    """Runs a kernel on the parts of all heads; gives one of `shape` for each."""
    num_heads = array.shape[0]
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((num_heads, *shape), jnp.float32),
        grid=(num_heads,),
        in_specs=[_row(*array.shape[1:])],
        out_specs=_row(*shape),
        interpret=interpret,
        name=name,
    )(array)


def _head_size(weights: Weights) -> int:
    return weights.attention_output.shape[0] // weights.bias.shape[0]


def _forward(x, weights, segment, dtype, interpret):
    kernel = functools.partial(_forward_kernel, head_size=_head_size(weights))
    output, spec = jax.ShapeDtypeStruct(x.shape, x.dtype), _row(*x.shape[1:])
    weights = _for_kernels(weights, dtype, interpret)
    return _call(kernel, "block_forward", output, spec, [x], weights, segment, interpret)


def _backward(x, weights, segment, y_bar, dtype, interpret, trained):
    kernel = functools.partial(_backward_kernel, head_size=_head_size(weights), trained=trained)
    outputs, specs = [jax.ShapeDtypeStruct(x.shape, x.dtype)], [_row(*x.shape[1:])]
    taken = _for_kernels(weights, dtype, interpret)
    if trained:
        outputs += [jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in taken]
        specs += [_whole(array.shape) for array in taken]
    x_bar, *bars = _call(
        kernel, "block_backward", outputs, specs, [x, y_bar], taken, segment, interpret
    )
    if not trained:
        return x_bar, jax.tree.map(jnp.zeros_like, weights)
    bars = Weights(*bars)
    shape = 1, weights.bias.shape[1]
    by_key = _call_by_head(_gather_kernel, "gather_bias", bars.bias, shape, interpret)
    return x_bar, bars._replace(bias=by_key[:, 0])
