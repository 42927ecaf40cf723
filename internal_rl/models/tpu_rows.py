"""Blocks over packed rows as one TPU kernel each way (Pallas): what such blocks have in common.

A row of a few hundred tokens and the weights of a block fit into a core's own memory: everything
between a block's input and its output is made, used and forgotten there, where XLA writes
projections and hidden layers out, several times. What goes backward is computed from the input
again, so that nothing else is kept between the two passes. Products take bfloat16 numbers, or
others that are asked for, and sum in float32; all else is float32.

The kernels have derivatives of their own and cannot be differentiated forwards (`jax.jvp`), see
`backend.without_kernels`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from internal_rl.models.tpu_attention import dot

EPSILON = 1e-6


class Gradients(NamedTuple):
    """Where a kernel adds up the gradients of weights, or nothing of a frozen block.

    Attributes:
      bars: references in the form of the weights; None if nobody asks for them.
    """

    bars: Any

    def add(self, **values: Callable) -> None:
        """Adds what functions give to the gradients of their names."""
        if self.bars is not None:
            for name, value in values.items():
                getattr(self.bars, name)[...] += value()


@dataclasses.dataclass(frozen=True)
class RowKernels:
    """A block as kernels that take one row at a time.

    Attributes:
      name: begins the names of the kernels.
      forward: `forward(context_ref, x_ref, weights, y_ref)`.
      backward: `backward(context_ref, x_ref, y_bar_ref, weights, x_bar_ref, gradients, *scratch)`.
      scratch: `scratch(length, width, dtype)`: shapes and types of what `backward` keeps meanwhile.
    """

    name: str
    forward: Callable
    backward: Callable
    scratch: Callable[[int, int, DTypeLike], list] = lambda length, width, dtype: []


def run(
    kernels: RowKernels,
    x: chex.Array,
    weights: NamedTuple,
    context: chex.Array,
    *,
    dtype: DTypeLike,
    interpret: bool,
) -> chex.Array:
    """A block on packed rows.

    Args:
      kernels: of the block.
      x: `(B, S, n)` float32 residual stream.
      weights: of the block, float32, with a method `for_products(dtype)`.
      context: `(B, ...)` integers that the kernels read beside a row.
      dtype: of the factors of products.
      interpret: run the kernels without a TPU, slowly, for tests.

    Returns:
      `(B, S, n)` float32.
    """
    return _run(kernels, x, weights, context, dtype, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 4, 5))
def _run(kernels, x, weights, context, dtype, interpret):
    return _forward(kernels, x, weights, context, dtype, interpret)


def _run_forward(kernels, x, weights, context, dtype, interpret):
    # Parameters that nobody asks the gradient of are those of a frozen model.
    frozen = not any(leaf.perturbed for leaf in weights)
    x, weights, context = jax.tree.map(
        lambda leaf: leaf.value,
        (x, weights, context),
        is_leaf=lambda leaf: hasattr(leaf, "perturbed"),
    )
    kept = (x, weights, context, None if frozen else ())
    return _forward(kernels, x, weights, context, dtype, interpret), kept


def _run_backward(kernels, dtype, interpret, kept, y_bar):
    x, weights, context, trained = kept
    if isinstance(y_bar, jax.custom_derivatives.SymbolicZero):
        y_bar = jnp.zeros(y_bar.shape, y_bar.dtype)
    rows = (context, x, y_bar)
    x_bar, weights_bar = _backward(kernels, rows, weights, dtype, interpret, trained is not None)
    return x_bar, weights_bar, None


_run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


def _row(*shape):
    return pl.BlockSpec((1, *shape), lambda row: (row,) + (0,) * len(shape))


def _whole(shape):
    return pl.BlockSpec(shape, lambda row: (0,) * len(shape))


def _call(kernel, name, outputs, out_specs, rows, weights, interpret, scratch=()):
    return pl.pallas_call(
        kernel,
        out_shape=outputs,
        grid=(rows[0].shape[0],),
        in_specs=[
            *(_row(*array.shape[1:]) for array in rows),
            *(_whole(array.shape) for array in weights),
        ],
        out_specs=out_specs,
        scratch_shapes=[pltpu.VMEM(*shape_and_type) for shape_and_type in scratch],
        interpret=interpret,
        name=name,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
    )(*rows, *weights)


def _forward(kernels, x, weights, context, dtype, interpret):
    def kernel(context_ref, x_ref, *refs):
        *weight_refs, y_ref = refs
        kernels.forward(context_ref, x_ref, type(weights)(*weight_refs), y_ref)

    output, spec = jax.ShapeDtypeStruct(x.shape, x.dtype), _row(*x.shape[1:])
    factors = weights.for_products(dtype)
    name = f"{kernels.name}_forward"
    return _call(kernel, name, output, spec, [context, x], factors, interpret)


def _backward(kernels, rows, weights, dtype, interpret, trained):
    form, num = type(weights), len(weights)

    def kernel(*refs):
        (row_refs, refs), num_bars = (refs[:3], refs[3:]), num * trained
        weight_refs, x_bar_ref, refs = form(*refs[:num]), refs[num], refs[num + 1 :]
        bars, scratch = refs[:num_bars], refs[num_bars:]

        @pl.when(pl.program_id(0) == 0)
        def _():
            for bar in bars:
                bar[...] = jnp.zeros_like(bar)

        gradients = Gradients(form(*bars) if trained else None)
        kernels.backward(*row_refs, weight_refs, x_bar_ref, gradients, *scratch)

    x = rows[1]
    outputs, specs = [jax.ShapeDtypeStruct(x.shape, x.dtype)], [_row(*x.shape[1:])]
    if trained:
        outputs += [jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in weights]
        specs += [_whole(array.shape) for array in weights]
    x_bar, *bars = _call(
        kernel,
        f"{kernels.name}_backward",
        outputs,
        specs,
        rows,
        weights.for_products(dtype),
        interpret,
        kernels.scratch(*x.shape[1:], dtype),
    )
    return x_bar, form(*bars) if trained else jax.tree.map(jnp.zeros_like, weights)


# Pieces of blocks, on some tokens of one row, inside of the kernels.


class Normed(NamedTuple):
    """Of a norm: output, the same before scaling, and inverse deviations `(S, 1)`."""

    output: chex.Array
    unscaled: chex.Array
    inverse: chex.Array


def norm(x, scale, centred: bool = True) -> Normed:
    """Layer norm of `(S, n)` without a bias; RMS norm unless `centred`."""
    mean = jnp.mean(x, axis=1, keepdims=True) if centred else 0.0
    variance = jnp.mean(jnp.square(x), axis=1, keepdims=True) - mean**2
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON)
    unscaled = (x - mean if centred else x) * inverse
    return Normed(unscaled * scale, unscaled, inverse)


def norm_backward(normed: Normed, scale, output_bar, centred: bool = True):
    """Gradient of the input, and that of the scale."""
    unscaled_bar = output_bar * scale
    along = jnp.mean(unscaled_bar * normed.unscaled, axis=1, keepdims=True)
    x_bar = unscaled_bar - normed.unscaled * along
    if centred:
        x_bar = x_bar - jnp.mean(unscaled_bar, axis=1, keepdims=True)
    return x_bar * normed.inverse, over_tokens(output_bar * normed.unscaled)


def over_tokens(x):
    """`(S, n)` added up to `(1, n)`."""
    return jnp.sum(x, axis=0, keepdims=True)


def caster(weights):
    """Takes arrays to the type that products are computed in."""
    return lambda x: x.astype(weights.hidden.dtype)


def _hidden_of(normed: Normed, weights):
    to = caster(weights)
    hidden = dot(to(normed.output), weights.hidden[...], 1, 0) + weights.hidden_bias[...]
    return to(jnp.maximum(hidden, 0.0))


def perceptron(x, weights, centred: bool = True):
    """Norm and perceptron on a residual stream `(S, n)`, both added."""
    hidden = _hidden_of(norm(x, weights.mlp_scale[...], centred), weights)
    return x + dot(hidden, weights.output[...], 1, 0) + weights.output_bias[...]


def perceptron_backward(x, y_bar, weights, gradients: Gradients, centred: bool = True):
    """Gradient of `x`."""
    to = caster(weights)
    normed = norm(x, weights.mlp_scale[...], centred)
    hidden = _hidden_of(normed, weights)
    hidden_bar = dot(to(y_bar), weights.output[...], 1, 1)
    hidden_bar = jnp.where(hidden > 0, hidden_bar, 0.0)
    normed_bar = dot(to(hidden_bar), weights.hidden[...], 1, 1)
    x_bar, scale_bar = norm_backward(normed, weights.mlp_scale[...], normed_bar, centred)
    gradients.add(
        output=lambda: dot(hidden, to(y_bar), 0, 0),
        output_bias=lambda: over_tokens(y_bar),
        hidden=lambda: dot(to(normed.output), to(hidden_bar), 0, 0),
        hidden_bias=lambda: over_tokens(hidden_bar),
        mlp_scale=lambda: scale_bar,
    )
    return x_bar + y_bar
