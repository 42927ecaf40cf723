"""The recurrent branch of Hawk on a chunk of a row, inside of a TPU kernel; see `models.tpu_hawk`.

Block-diagonal gates are multiplied 128 channels at a time, as wide as the matrix unit is.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from internal_rl.backend import LANES
from internal_rl.models.hawk_weights import HawkWeights
from internal_rl.models.kernels import STEPS
from internal_rl.models.recurrence_kernel import solve_group
from internal_rl.models.tpu_attention import dot
from internal_rl.models.tpu_rows import Gradients, caster, over_tokens

# `1 - decay²` at least, so that the derivative of its square root is finite.
FLOOR = 1e-8
# Where a product of 128 channels holds the recurrence gate and the input gate.
_GATES = (slice(0, LANES), slice(LANES, 2 * LANES))


class Recurrent(NamedTuple):
    """What the recurrent branch computes, each `(T, n)`."""

    convolved: chex.Array
    recurrence_gate: chex.Array
    input_gate: chex.Array
    states: chex.Array


class _Decay(NamedTuple):
    """Of a recurrence gate, each `(T, n)`: `a`, `1 - a²`, `1 / sqrt(1 - a²)`."""

    decay: chex.Array
    rest: chex.Array
    inverse_scale: chex.Array

    @property
    def scale(self):
        """`sqrt(1 - a²)`."""
        return jnp.maximum(self.rest, FLOOR) * self.inverse_scale


def _decay_of(recurrence_gate, weights: HawkWeights) -> _Decay:
    log_decay = weights.rate[...] * recurrence_gate
    decay, z = jnp.exp(log_decay), 2 * log_decay
    # `-expm1(z)`, which kernels lack: of a decay near one the difference has few digits.
    near = -z * (1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5))))
    rest = jnp.where(z > -0.125, near, 1 - decay * decay)
    return _Decay(decay, rest, jax.lax.rsqrt(jnp.maximum(rest, FLOOR)))


def moved(x, steps: int):
    """Rows of `(T + 8, n)`, of which the first eight are earlier ones, `steps` before: `(T, n)`."""
    return jnp.roll(x, steps, axis=0)[STEPS:] if steps else x[STEPS:]


def _back(x, steps: int):
    """Rows of `(T + 8, n)`, of which the last eight are later ones, `steps` ahead: `(T, n)`."""
    return jnp.roll(x, -steps, axis=0)[:-STEPS] if steps else x[:-STEPS]


def _convolve(x, age, weights: HawkWeights):
    """`(T + 8, n)`, of which the first eight are earlier ones, to `(T, n)`."""
    lags = weights.convolution.shape[0] - 1
    kernel = [weights.convolution[lag : lag + 1, :] for lag in range(lags + 1)]
    y = kernel[-1] + kernel[0] * x[STEPS:]
    for lag in range(1, lags):
        y += kernel[lag] * jnp.where(age >= lag, moved(x, lag), 0.0)
    return y


def convolve_backward(y_bar, age, x, weights: HawkWeights, gradients: Gradients):
    """Gradient of the input: `y_bar` and `age` go on for eight steps, `x` and the result do not."""
    lags = weights.convolution.shape[0] - 1
    ahead = [_back(jnp.where(age >= lag, y_bar, 0.0), lag) for lag in range(lags)]
    rows = [over_tokens(x * part) for part in ahead] + [over_tokens(ahead[0])]
    gradients.add(convolution=lambda: jnp.concatenate(rows, axis=0))
    return sum(weights.convolution[lag : lag + 1, :] * ahead[lag] for lag in range(lags))


def _gate_products(x, weights: HawkWeights):
    """Both gates before the sigmoid, each `(T, n)`."""
    to, parts = caster(weights), []
    for group in range(x.shape[1] // LANES):
        channels = slice(group * LANES, (group + 1) * LANES)
        parts.append(dot(to(x[:, channels]), weights.gates[group], 1, 0))
    gates = [jnp.concatenate([part[:, at] for part in parts], axis=1) for at in _GATES]
    bias, width = weights.gates_bias[...], x.shape[1]
    return gates[0] + bias[:, :width], gates[1] + bias[:, width:]


def _gates_backward(convolved, bars, weights: HawkWeights, gradients: Gradients):
    """Gradient of what both gates read, from those before their sigmoids."""
    to, x_bar, gates_bar = caster(weights), [], []
    for group in range(convolved.shape[1] // LANES):
        channels = slice(group * LANES, (group + 1) * LANES)
        both = to(jnp.concatenate([bar[:, channels] for bar in bars], axis=1))
        x_bar.append(dot(both, weights.gates[group], 1, 1))
        gates_bar.append((to(convolved[:, channels]), both))
    gradients.add(
        gates=lambda: jnp.stack([dot(*factors, 0, 0) for factors in gates_bar]),
        gates_bias=lambda: jnp.concatenate([over_tokens(bar) for bar in bars], axis=1),
    )
    return jnp.concatenate(x_bar, axis=1)


def _solve(decay, inputs, carry, reverse: bool, late: bool):
    """The recurrence over a chunk: states `(T, n)` and what goes on, `(1, n)`."""
    length, found, carry = len(decay), [], carry[None]
    for start in range(0, length, STEPS)[:: -1 if reverse else 1]:
        steps = slice(start, start + STEPS)
        group = decay[steps][None], inputs[steps][None], carry
        states, carry = solve_group(*group, reverse=reverse, late=late)
        found.append(states[0])
    return jnp.concatenate(found[:: -1 if reverse else 1], axis=0), carry[0]


def recur(entering, age, carry, weights: HawkWeights):
    """Convolution, gates and recurrence.

    Args:
      entering: `(T + 8, n)`, of which the first eight are earlier ones.
      age: `(T, n)`.
      carry: `(1, n)` state before.
      weights: of the block.

    Returns:
      What was computed, and the state at the end.
    """
    convolved = _convolve(entering, age, weights)
    recurrence_gate, input_gate = map(jax.nn.sigmoid, _gate_products(convolved, weights))
    of_gate = _decay_of(recurrence_gate, weights)
    decay = jnp.where(age == 0, 0.0, of_gate.decay)
    inputs = of_gate.scale * input_gate * convolved
    states, carry = _solve(decay, inputs, carry, reverse=False, late=False)
    return Recurrent(convolved, recurrence_gate, input_gate, states), carry


def recur_backward(found, earlier, bars, starts, *, weights: HawkWeights, gradients: Gradients):
    """The way back through recurrence and gates.

    Args:
      found: as computed by `recur`.
      earlier: `(T, n)` states one step before.
      bars: gradient of the states `(T, n)`, and what comes from later chunks, `(1, n)`.
      starts: `(T, n)` bool, first steps of segments.
      weights: of the block.
      gradients: of these.

    Returns:
      Gradient of what convolution gave, and what goes on to earlier chunks.
    """
    convolved, recurrence_gate, input_gate, _ = found
    of_gate = _decay_of(recurrence_gate, weights)
    decay = jnp.where(starts, 0.0, of_gate.decay)
    inputs_bar, carry = _solve(decay, *bars, reverse=True, late=True)
    with_input = inputs_bar * convolved
    input_gate_bar = with_input * of_gate.scale
    of_scale = with_input * input_gate * of_gate.decay * of_gate.inverse_scale
    from_scale = jnp.where(of_gate.rest > FLOOR, of_scale, 0.0)
    log_decay_bar = decay * inputs_bar * earlier - of_gate.decay * from_scale
    gradients.add(rate=lambda: over_tokens(log_decay_bar * recurrence_gate))
    recurrence_gate_bar = log_decay_bar * weights.rate[...]
    gate_bars = (
        recurrence_gate_bar * recurrence_gate * (1 - recurrence_gate),
        input_gate_bar * input_gate * (1 - input_gate),
    )
    convolved_bar = inputs_bar * of_gate.scale * input_gate
    return convolved_bar + _gates_backward(convolved, gate_bars, weights, gradients), carry
