"""The causal depthwise convolution over packed rows as a TPU kernel, with its derivative.

In XLA every tap is a copy of the row that is moved along time, across the registers.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental import pallas as pl

from internal_rl.models.kernels import STEPS, channels_of, with_transpose

UNROLL = 8


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def convolve(
    weights: chex.Array, x: chex.Array, age: chex.Array, interpret: bool = False
) -> chex.Array:
    """`y_t = bias + sum of kernel_lag x_{t-lag}` over the lags within a segment.

    Args:
      weights: `(lags + 1, n)` float32: the kernel, the present step first, and the bias.
      x: `(B, S, n)` float32.
      age: `(B, S, 1)` float32, steps since the segment's first one.
      interpret: run it without a TPU, slowly.

    Returns:
      `(B, S, n)`.
    """
    return _forward(weights, x, age, interpret)


def _convolve_jvp(interpret, primals, tangents):
    weights, x, age = primals
    of_weights, of_x = tangents[:2]
    y = convolve(weights, x, age, interpret)
    without_bias = weights.at[-1].set(0.0)

    def apply_x(of_x):
        return _forward(without_bias, of_x, age, interpret)

    if isinstance(of_weights, SymbolicZero):
        if isinstance(of_x, SymbolicZero):
            return y, jnp.zeros_like(y)
        return y, with_transpose(
            apply_x, lambda of_y: _backward(weights, x, age, of_y, interpret)[1], of_x
        )
    if isinstance(of_x, SymbolicZero):
        # Transposed is all or nothing.
        of_x = jnp.broadcast_to(0.0 * of_weights[0], x.shape)

    def apply(changes):
        of_weights, of_x = changes
        return of_weights, _forward(of_weights, x, age, interpret) + apply_x(of_x)

    def transpose(changes):
        of_weights, of_y = changes
        found, of_x = _backward(weights, x, age, of_y, interpret)
        return of_weights + found, of_x

    return y, with_transpose(apply, transpose, (of_weights, of_x))[1]


convolve.defjvp(_convolve_jvp, symbolic_zeros=True)


def _specs(length, width, lags):
    """Grid and blocks: of rows, ages and weights."""
    channels = channels_of(width)
    row = pl.BlockSpec((1, length, channels), lambda row, channel: (row, 0, channel))
    age = pl.BlockSpec((1, length, 1), lambda row, channel: (row, 0, 0))
    weights = pl.BlockSpec((lags + 1, channels), lambda row, channel: (0, channel))
    return channels, row, age, weights


def _forward(weights, x, age, interpret):
    lags = weights.shape[0] - 1
    channels, row, age_block, whole = _specs(*x.shape[1:], lags)
    return pl.pallas_call(
        functools.partial(_forward_kernel, lags=lags),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=(x.shape[0], x.shape[2] // channels),
        in_specs=[whole, row, age_block],
        out_specs=row,
        interpret=interpret,
        name="convolution",
    )(weights, x, age)


def _backward(weights, x, age, of_y, interpret):
    lags = weights.shape[0] - 1
    channels, row, age_block, whole = _specs(*x.shape[1:], lags)
    of_weights = pl.BlockSpec((1, STEPS, channels), lambda row, channel: (row, 0, channel))
    of_weights, of_x = pl.pallas_call(
        functools.partial(_backward_kernel, lags=lags),
        out_shape=(
            jax.ShapeDtypeStruct((x.shape[0], STEPS, x.shape[2]), x.dtype),
            jax.ShapeDtypeStruct(x.shape, x.dtype),
        ),
        grid=(x.shape[0], x.shape[2] // channels),
        in_specs=[whole, row, age_block, row],
        out_specs=(of_weights, row),
        interpret=interpret,
        name="convolution_backward",
    )(weights, x, age, of_y)
    return of_weights[:, : lags + 1].sum(axis=0), of_x


def _steps(group):
    return pl.ds(pl.multiple_of(group * STEPS, STEPS), STEPS)


def _forward_kernel(weights_ref, x_ref, age_ref, y_ref, *, lags):
    _, length, width = x_ref.shape
    place = jax.lax.broadcasted_iota(jnp.int32, (STEPS, width), 0)
    weights = [weights_ref[i : i + 1, :] for i in range(lags + 1)]

    def group(index, before):
        x, age = x_ref[0, _steps(index), :], age_ref[0, _steps(index), :]
        y = weights[-1] + weights[0] * x
        for lag in range(1, lags):
            past = jnp.roll(jnp.where(place < STEPS - lag, x, before), lag, axis=0)
            y += weights[lag] * jnp.where(age >= lag, past, 0.0)
        y_ref[0, _steps(index), :] = y
        return x

    jax.lax.fori_loop(
        0, length // STEPS, group, jnp.zeros((STEPS, width), x_ref.dtype), unroll=UNROLL
    )


def _backward_kernel(weights_ref, x_ref, age_ref, of_y_ref, of_weights_ref, of_x_ref, *, lags):
    _, length, width = x_ref.shape
    place = jax.lax.broadcasted_iota(jnp.int32, (STEPS, width), 0)
    weights = [weights_ref[i : i + 1, :] for i in range(lags)]
    groups = length // STEPS
    zeros = jnp.zeros((STEPS, width), x_ref.dtype)

    def group(index, carry):
        later, sums = carry
        steps = _steps(groups - 1 - index)
        x, age, of_y = x_ref[0, steps, :], age_ref[0, steps, :], of_y_ref[0, steps, :]
        of_x = weights[0] * of_y
        now, new_sums = [], [sums[0] + x * of_y]
        for lag in range(1, lags):
            reached = jnp.where(age >= lag, of_y, 0.0)
            ahead = jnp.roll(jnp.where(place >= lag, reached, later[lag - 1]), -lag, axis=0)
            of_x += weights[lag] * ahead
            new_sums.append(sums[lag] + x * ahead)
            now.append(reached)
        of_x_ref[0, steps, :] = of_x
        return tuple(now), (*new_sums, sums[-1] + of_y)

    initial = (zeros,) * (lags - 1), (zeros,) * (lags + 1)
    _, sums = jax.lax.fori_loop(0, groups, group, initial, unroll=UNROLL)
    rows = [jnp.sum(total, axis=0, keepdims=True) for total in sums]
    rows += [zeros[: STEPS - len(rows)]] * (len(rows) < STEPS)
    of_weights_ref[0] = jnp.concatenate(rows, axis=0)
