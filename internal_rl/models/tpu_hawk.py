"""The Hawk block over packed rows as one TPU kernel each way, see `models.tpu_rows`.

A row passes through in chunks of time, in the backward kernel twice: forwards, which keeps what is
dear to compute again, then backwards. From chunk to chunk go the state of the recurrence and the
last inputs of the convolution. Block-diagonal gates are multiplied 128 channels at a time, as wide
as the matrix unit is.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from internal_rl.models.kernels import LANES, STEPS
from internal_rl.models.recurrence_kernel import solve_group
from internal_rl.models.tpu_attention import dot
from internal_rl.models.tpu_rows import (
    Gradients,
    RowKernels,
    caster,
    norm,
    norm_backward,
    over_tokens,
    perceptron,
    perceptron_backward,
    run,
)

# Numbers in the residual stream of a row, and in the matrices.
MAX_ROW = 2**17
MAX_WEIGHTS = 2**19
# Tokens of a row that are computed at once, at most.
MAX_CHUNK = 256
# `1 - decay²` at least, so that the derivative of its square root is finite.
FLOOR = 1e-8


class HawkWeights(NamedTuple):
    """Parameters of a block; gradients have the same form.

    Attributes:
      temporal_scale: `(1, n)` of the norm before the branches.
      branches: `(n, 2 n)`: gate branch, recurrent branch.
      branches_bias: `(1, 2 n)`.
      convolution: `(lags + 1, n)`: the kernel, the present step first, and the bias.
      gates: `(n / 128, 128, 256)`: of 128 channels each, recurrence gate and input gate.
      gates_bias: `(1, 2 n)`: recurrence gate, input gate.
      rate: `(1, n)` logarithm of the decay with an open gate.
      temporal_output: `(n, n)`.
      temporal_output_bias: `(1, n)`.
      mlp_scale: `(1, n)` of the norm before the perceptron.
      hidden: `(n, m)`.
      hidden_bias: `(1, m)`.
      output: `(m, n)`.
      output_bias: `(1, n)`.
    """

    temporal_scale: chex.Array
    branches: chex.Array
    branches_bias: chex.Array
    convolution: chex.Array
    gates: chex.Array
    gates_bias: chex.Array
    rate: chex.Array
    temporal_output: chex.Array
    temporal_output_bias: chex.Array
    mlp_scale: chex.Array
    hidden: chex.Array
    hidden_bias: chex.Array
    output: chex.Array
    output_bias: chex.Array

    def for_products(self, dtype: DTypeLike) -> "HawkWeights":
        """With the factors of products in another type."""
        names = ("branches", "gates", "temporal_output", "hidden", "output")
        return self._replace(**{name: getattr(self, name).astype(dtype) for name in names})


def fits(length: int, width: int, mlp_size: int, num_heads: int) -> bool:
    """Whether rows of `length` tokens and a block of these sizes suit the kernels."""
    filled = width % LANES == 0 and mlp_size % LANES == 0 and LANES % (width // num_heads) == 0
    held = width * (3 * width + 2 * LANES + 2 * mlp_size)
    small = length * width <= MAX_ROW and held <= MAX_WEIGHTS
    return filled and small and length % LANES == 0


def gates_of(kernels: tuple[chex.Array, chex.Array]) -> chex.Array:
    """Block-diagonal matrices `(H, s, s)` of both gates as `HawkWeights.gates`."""
    size = kernels[0].shape[1]
    number = LANES // size
    same = jnp.eye(number)

    def widened(kernel):
        kernel = kernel.reshape(-1, number, size, size)
        return jnp.einsum("gpij,pq->gpiqj", kernel, same).reshape(-1, LANES, LANES)

    return jnp.concatenate([widened(kernel) for kernel in kernels], axis=2)


def hawk_rows(
    x: chex.Array,
    weights: HawkWeights,
    age: chex.Array,
    dtype: DTypeLike = jnp.bfloat16,
    interpret: bool = False,
) -> chex.Array:
    """A block on packed rows.

    Args:
      x: `(B, S, n)` float32 residual stream.
      weights: of the block, float32.
      age: `(B, S)` int32, steps since the segment's first one.
      dtype: of the factors of products.
      interpret: run the kernels without a TPU, slowly, for tests.

    Returns:
      `(B, S, n)` float32.
    """
    # In every lane, where the kernels compare it.
    age = jnp.broadcast_to(age[..., None], (*age.shape, LANES))
    return run(_KERNELS, x, weights, age, dtype, interpret)


# On the tokens of a chunk, inside of the kernels.


class Recurrent(NamedTuple):
    """What the recurrent branch computes, each `(T, n)`."""

    convolved: chex.Array
    recurrence_gate: chex.Array
    input_gate: chex.Array
    states: chex.Array


class Decay(NamedTuple):
    """Of a recurrence gate, each `(T, n)`: `a`, `1 - a²`, `1 / sqrt(1 - a²)`."""

    decay: chex.Array
    rest: chex.Array
    inverse_scale: chex.Array

    @property
    def scale(self):
        """`sqrt(1 - a²)`."""
        return jnp.maximum(self.rest, FLOOR) * self.inverse_scale


def _decay_of(recurrence_gate, weights: HawkWeights) -> Decay:
    log_decay = weights.rate[...] * recurrence_gate
    decay, z = jnp.exp(log_decay), 2 * log_decay
    # `-expm1(z)`, which kernels lack: of a decay near one the difference has few digits.
    near = -z * (1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5))))
    rest = jnp.where(z > -0.125, near, 1 - decay * decay)
    return Decay(decay, rest, jax.lax.rsqrt(jnp.maximum(rest, FLOOR)))


def _moved(x, steps: int):
    """Rows of `(T + 8, n)`, of which the first eight are earlier ones, `steps` before: `(T, n)`."""
    return jnp.roll(x, steps, axis=0)[STEPS:] if steps else x[STEPS:]


def _back(x, steps: int):
    """Rows of `(T + 8, n)`, of which the last eight are later ones, `steps` ahead: `(T, n)`."""
    return jnp.roll(x, -steps, axis=0)[:-STEPS] if steps else x[:-STEPS]


def _branches(normed, weights: HawkWeights):
    """Inputs of the gate branch and of the recurrent branch, each `(T, n)`."""
    to, width = caster(weights), normed.shape[1]
    both = dot(to(normed), weights.branches[...], 1, 0) + weights.branches_bias[...]
    return both[:, :width], both[:, width:]


def _gate_products(x, weights: HawkWeights):
    """Both gates before the sigmoid, each `(T, n)`."""
    to, parts = caster(weights), []
    for group in range(x.shape[1] // LANES):
        channels = slice(group * LANES, (group + 1) * LANES)
        parts.append(dot(to(x[:, channels]), weights.gates[group], 1, 0))
    gates = [jnp.concatenate([part[:, at] for part in parts], axis=1) for at in _HALVES]
    bias, width = weights.gates_bias[...], x.shape[1]
    return gates[0] + bias[:, :width], gates[1] + bias[:, width:]


_HALVES = (slice(0, LANES), slice(LANES, 2 * LANES))


def _solve(decay, inputs, carry, reverse: bool, late: bool):
    """The recurrence over a chunk: states `(T, n)` and what goes on, `(1, n)`."""
    length, found, carry = len(decay), [], carry[None]
    for start in range(0, length, STEPS)[:: -1 if reverse else 1]:
        steps = slice(start, start + STEPS)
        group = decay[steps][None], inputs[steps][None], carry
        states, carry = solve_group(*group, reverse=reverse, late=late)
        found.append(states[0])
    return jnp.concatenate(found[:: -1 if reverse else 1], axis=0), carry[0]


def _convolve(x, age, weights: HawkWeights):
    """`(T + 8, n)`, of which the first eight are earlier ones, to `(T, n)`."""
    lags = weights.convolution.shape[0] - 1
    kernel = [weights.convolution[lag : lag + 1, :] for lag in range(lags + 1)]
    y = kernel[-1] + kernel[0] * x[STEPS:]
    for lag in range(1, lags):
        y += kernel[lag] * jnp.where(age >= lag, _moved(x, lag), 0.0)
    return y


def _recur(entering, age, carry, weights: HawkWeights):
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


def _gelu(x):
    """`jax.nn.gelu` and its derivative."""
    factor = (2 / jnp.pi) ** 0.5
    square = x * x
    bent = jnp.tanh(factor * x * (1 + 0.044715 * square))
    half = 0.5 * (1 + bent)
    slope = 0.5 * factor * (1 - bent * bent) * (1 + 3 * 0.044715 * square)
    return x * half, half + x * slope


def _add_temporal(x, gated, weights: HawkWeights):
    product = dot(gated, weights.temporal_output[...], 1, 0)
    return x + product + weights.temporal_output_bias[...]


class _Chunks:
    """Pieces of time that a row is computed in."""

    def __init__(self, length: int):
        self.size = MAX_CHUNK if length % MAX_CHUNK == 0 else LANES
        self.number = length // self.size

    def steps(self, index, more: int = 0):
        """Place of a chunk in a row, `more` steps longer."""
        return pl.ds(pl.multiple_of(index * self.size, self.size), self.size + more)


def _age_of(age_ref, steps, width: int):
    return jnp.tile(age_ref[0, steps, :], (1, width // LANES))


def _forward_kernel(age_ref, x_ref, weights: HawkWeights, y_ref):
    _, length, width = x_ref.shape
    chunks, to = _Chunks(length), caster(weights)

    def chunk(index, carry):
        before, state = carry
        steps = chunks.steps(index)
        x, age = x_ref[0, steps, :], _age_of(age_ref, steps, width)
        normed = norm(x, weights.temporal_scale[...], centred=False).output
        gate, entering = _branches(normed, weights)
        entering = jnp.concatenate([before, entering], axis=0)
        found, state = _recur(entering, age, state, weights)
        gated = to(_gelu(gate)[0] * found.states)
        y_ref[0, steps, :] = perceptron(_add_temporal(x, gated, weights), weights, centred=False)
        return entering[-STEPS:], state

    start = jnp.zeros((STEPS, width), jnp.float32), jnp.zeros((1, width), jnp.float32)
    jax.lax.fori_loop(0, chunks.number, chunk, start)


def _scratch(length: int, width: int, dtype: DTypeLike) -> list:
    rows = (length, width)
    return [
        (rows, dtype),
        (rows, dtype),
        (rows, jnp.float32),
        (rows, jnp.float32),
        (rows, jnp.float32),
        ((STEPS + length, width), jnp.float32),
    ]


class Kept(NamedTuple):
    """What the backward kernel keeps of its way forwards, `(S, n)`, states eight steps longer."""

    gate: chex.Array
    entering: chex.Array
    convolved: chex.Array
    recurrence_gate: chex.Array
    input_gate: chex.Array
    states: chex.Array


def _run_again(age_ref, x_ref, weights: HawkWeights, kept: Kept):
    """The way forwards up to the states of the recurrence."""
    _, length, width = x_ref.shape
    chunks = _Chunks(length)

    def chunk(index, carry):
        before, state = carry
        steps = chunks.steps(index)
        normed = norm(x_ref[0, steps, :], weights.temporal_scale[...], centred=False).output
        gate, entering = _branches(normed, weights)
        longer = jnp.concatenate([before, entering], axis=0)
        found, state = _recur(longer, _age_of(age_ref, steps, width), state, weights)
        kept.gate[steps, :] = gate.astype(kept.gate.dtype)
        kept.entering[steps, :] = entering.astype(kept.entering.dtype)
        kept.convolved[steps, :] = found.convolved
        kept.recurrence_gate[steps, :] = found.recurrence_gate
        kept.input_gate[steps, :] = found.input_gate
        behind = pl.ds(pl.multiple_of(index * chunks.size + STEPS, STEPS), chunks.size)
        kept.states[behind, :] = found.states
        return entering[-STEPS:], state

    kept.states[:STEPS, :] = jnp.zeros((STEPS, width), jnp.float32)
    start = jnp.zeros((STEPS, width), jnp.float32), jnp.zeros((1, width), jnp.float32)
    jax.lax.fori_loop(0, chunks.number, chunk, start)


def _convolve_backward(y_bar, age, x, weights: HawkWeights, gradients: Gradients):
    """Gradient of the input: `y_bar` and `age` go on for eight steps, `x` and the result do not."""
    lags = weights.convolution.shape[0] - 1
    ahead = [_back(jnp.where(age >= lag, y_bar, 0.0), lag) for lag in range(lags)]
    rows = [over_tokens(x * part) for part in ahead] + [over_tokens(ahead[0])]
    gradients.add(convolution=lambda: jnp.concatenate(rows, axis=0))
    return sum(weights.convolution[lag : lag + 1, :] * ahead[lag] for lag in range(lags))


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


def _recur_backward(found, earlier, inputs_bar, starts, weights, gradients):
    """Gradient of what convolution gave.

    Args:
      found: as computed by `_recur`.
      earlier: `(T, n)` states one step before.
      inputs_bar: `(T, n)` gradient of the recurrence's inputs.
      starts: `(T, n)` bool, first steps of segments.
      weights: of the block.
      gradients: of these.
    """
    convolved, recurrence_gate, input_gate, _ = found
    decay, rest, inverse = of_gate = _decay_of(recurrence_gate, weights)
    with_input = inputs_bar * convolved
    input_gate_bar = with_input * of_gate.scale
    decay_bar = jnp.where(starts, 0.0, inputs_bar * earlier)
    from_scale = jnp.where(rest > FLOOR, with_input * input_gate * decay * inverse, 0.0)
    log_decay_bar = decay * (decay_bar - from_scale)
    gradients.add(rate=lambda: over_tokens(log_decay_bar * recurrence_gate))
    recurrence_gate_bar = log_decay_bar * weights.rate[...]
    bars = (
        recurrence_gate_bar * recurrence_gate * (1 - recurrence_gate),
        input_gate_bar * input_gate * (1 - input_gate),
    )
    direct = inputs_bar * of_gate.scale * input_gate
    return direct + _gates_backward(convolved, bars, weights, gradients)


def _backward_kernel(
    age_ref, x_ref, y_bar_ref, weights: HawkWeights, x_bar_ref, gradients: Gradients, *scratch
):
    _, length, width = x_ref.shape
    chunks, to, kept = _Chunks(length), caster(weights), Kept(*scratch)
    _run_again(age_ref, x_ref, weights, kept)

    def chunk(index, carry):
        later_bar, later_age, state_bar = carry
        index = chunks.number - 1 - index
        steps = chunks.steps(index)
        x, age = x_ref[0, steps, :], _age_of(age_ref, steps, width)
        states = kept.states[chunks.steps(index, STEPS), :]
        earlier, states = _moved(states, 1), states[STEPS:]
        gate, gate_slope = _gelu(kept.gate[steps, :].astype(jnp.float32))
        gated = to(gate * states)
        x_bar = _add_temporal(x, gated, weights)
        x_bar = perceptron_backward(x_bar, y_bar_ref[0, steps, :], weights, gradients, False)
        gradients.add(
            temporal_output=lambda: dot(gated, to(x_bar), 0, 0),
            temporal_output_bias=lambda: over_tokens(x_bar),
        )
        gated_bar = dot(to(x_bar), weights.temporal_output[...], 1, 1)
        gate_bar = gated_bar * states * gate_slope

        gates = kept.recurrence_gate[steps, :], kept.input_gate[steps, :]
        found = Recurrent(kept.convolved[steps, :], *gates, states)
        starts = age == 0
        decay = jnp.where(starts, 0.0, jnp.exp(weights.rate[...] * gates[0]))
        inputs_bar, state_bar = _solve(decay, gated_bar * gate, state_bar, reverse=True, late=True)
        convolved_bar = _recur_backward(found, earlier, inputs_bar, starts, weights, gradients)
        entering_bar = _convolve_backward(
            jnp.concatenate([convolved_bar, later_bar], axis=0),
            jnp.concatenate([age, later_age], axis=0),
            kept.entering[steps, :].astype(jnp.float32),
            weights,
            gradients,
        )
        x_bar += _branches_backward(x, (gate_bar, entering_bar), weights, gradients)
        x_bar_ref[0, steps, :] = x_bar
        return convolved_bar[:STEPS], age[:STEPS], state_bar

    start = (
        jnp.zeros((STEPS, width), jnp.float32),
        jnp.zeros((STEPS, width), jnp.int32),
        jnp.zeros((1, width), jnp.float32),
    )
    jax.lax.fori_loop(0, chunks.number, chunk, start)


def _branches_backward(x, bars, weights: HawkWeights, gradients: Gradients):
    """Gradient of the residual stream, from those of the inputs of both branches."""
    to = caster(weights)
    normed = norm(x, weights.temporal_scale[...], centred=False)
    bar = jnp.concatenate(bars, axis=1)
    normed_bar = dot(to(bar), weights.branches[...], 1, 1)
    x_bar, scale_bar = norm_backward(normed, weights.temporal_scale[...], normed_bar, False)
    gradients.add(
        branches=lambda: dot(to(normed.output), to(bar), 0, 0),
        branches_bias=lambda: over_tokens(bar),
        temporal_scale=lambda: scale_bar,
    )
    return x_bar


_KERNELS = RowKernels("hawk", _forward_kernel, _backward_kernel, _scratch)
