"""The Hawk block over packed rows as one TPU kernel each way, see `models.tpu_rows`.

A row passes through in chunks of time, in the backward kernel twice: forwards, which keeps what is
dear to compute again, then backwards. From chunk to chunk go the state of the recurrence and the
last inputs of the convolution, backwards their gradients.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from internal_rl.backend import LANES
from internal_rl.models.hawk_weights import HawkWeights
from internal_rl.models.kernels import STEPS
from internal_rl.models.tpu_attention import dot
from internal_rl.models.tpu_recurrent import (
    Recurrent,
    convolve_backward,
    moved,
    recur,
    recur_backward,
)
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


def fits(length: int, width: int, mlp_size: int, num_heads: int) -> bool:
    """Whether rows of `length` tokens and a block of these sizes suit the kernels."""
    filled = width % LANES == 0 and mlp_size % LANES == 0 and LANES % (width // num_heads) == 0
    held = width * (3 * width + 2 * LANES + 2 * mlp_size)
    small = length * width <= MAX_ROW and held <= MAX_WEIGHTS
    return filled and small and length % LANES == 0


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
    return run(_KERNELS, x, weights, age, dtype=dtype, interpret=interpret)


# On the tokens of a chunk, inside of the kernels.


def _branches(normed, weights: HawkWeights):
    """Inputs of the gate branch and of the recurrent branch, each `(T, n)`."""
    to, width = caster(weights), normed.shape[1]
    both = dot(to(normed), weights.branches[...], 1, 0) + weights.branches_bias[...]
    return both[:, :width], both[:, width:]


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


def _finish_backward(x, gated, y_bar, weights: HawkWeights, gradients: Gradients):
    """Gradients of the residual stream and of the product of both branches."""
    to = caster(weights)
    gated = to(gated)
    x = _add_temporal(x, gated, weights)
    x_bar = perceptron_backward(x, y_bar, weights, gradients, centred=False)
    gradients.add(
        temporal_output=lambda: dot(gated, to(x_bar), 0, 0),
        temporal_output_bias=lambda: over_tokens(x_bar),
    )
    return x_bar, dot(to(x_bar), weights.temporal_output[...], 1, 1)


class _Chunks:
    """Pieces of time that a row is computed in."""

    def __init__(self, length: int):
        self.size = MAX_CHUNK if length % MAX_CHUNK == 0 else LANES
        self.number = length // self.size

    def steps(self, index, after: int = 0, more: int = 0):
        """Place of a chunk in a row, `after` steps behind it and `more` steps longer."""
        return pl.ds(pl.multiple_of(index * self.size + after, STEPS), self.size + more)


def _age_of(age_ref, steps, width: int):
    return jnp.tile(age_ref[0, steps, :], (1, width // LANES))


def _forwards(age_ref, x_ref, weights: HawkWeights, use) -> None:
    """The way of a row to the states of its recurrence.

    Args:
      age_ref: `(1, S, 128)`.
      x_ref: `(1, S, n)`.
      weights: of the block.
      use: `use(index, x, gate, entering, found)` does something with each chunk, the first one
        first; all but the index and `Recurrent` are `(T, n)`.
    """
    _, length, width = x_ref.shape
    chunks = _Chunks(length)

    def chunk(index, carry):
        before, state = carry
        steps = chunks.steps(index)
        x, age = x_ref[0, steps, :], _age_of(age_ref, steps, width)
        normed = norm(x, weights.temporal_scale[...], centred=False).output
        gate, entering = _branches(normed, weights)
        found, state = recur(jnp.concatenate([before, entering], axis=0), age, state, weights)
        use(index, x, gate, entering, found)
        return entering[-STEPS:], state

    start = jnp.zeros((STEPS, width), jnp.float32), jnp.zeros((1, width), jnp.float32)
    jax.lax.fori_loop(0, chunks.number, chunk, start)


# The kernels.


def _forward_kernel(age_ref, x_ref, weights: HawkWeights, y_ref):
    chunks, to = _Chunks(x_ref.shape[1]), caster(weights)

    def use(index, x, gate, _, found):
        x = _add_temporal(x, to(_gelu(gate)[0] * found.states), weights)
        y_ref[0, chunks.steps(index), :] = perceptron(x, weights, centred=False)

    _forwards(age_ref, x_ref, weights, use)


class Kept(NamedTuple):
    """What the backward kernel keeps of its way forwards, `(S, n)`, states eight steps longer."""

    gate: chex.Array
    entering: chex.Array
    convolved: chex.Array
    recurrence_gate: chex.Array
    input_gate: chex.Array
    states: chex.Array


def _scratch(length: int, width: int, dtype: DTypeLike) -> list:
    """Shapes and types of `Kept`."""
    rows, exact = (length, width), jnp.float32
    longer = (STEPS + length, width)
    return [
        (rows, dtype),
        (rows, dtype),
        (rows, exact),
        (rows, exact),
        (rows, exact),
        (longer, exact),
    ]


def _keep(age_ref, x_ref, weights: HawkWeights, kept: Kept) -> None:
    """Computes again what the way backwards needs."""
    chunks = _Chunks(x_ref.shape[1])

    def use(index, _, gate, entering, found):
        steps = chunks.steps(index)
        kept.gate[steps, :] = gate.astype(kept.gate.dtype)
        kept.entering[steps, :] = entering.astype(kept.entering.dtype)
        kept.convolved[steps, :] = found.convolved
        kept.recurrence_gate[steps, :] = found.recurrence_gate
        kept.input_gate[steps, :] = found.input_gate
        kept.states[chunks.steps(index, after=STEPS), :] = found.states

    kept.states[:STEPS, :] = jnp.zeros((STEPS, kept.states.shape[1]), jnp.float32)
    _forwards(age_ref, x_ref, weights, use)


def _backward_kernel(
    age_ref, x_ref, y_bar_ref, weights: HawkWeights, x_bar_ref, gradients: Gradients, *scratch
):
    _, length, width = x_ref.shape
    chunks, kept = _Chunks(length), Kept(*scratch)
    _keep(age_ref, x_ref, weights, kept)

    def chunk(index, carry):
        later_bar, later_age, state_bar = carry
        index = chunks.number - 1 - index
        steps = chunks.steps(index)
        x, age = x_ref[0, steps, :], _age_of(age_ref, steps, width)
        states = kept.states[chunks.steps(index, more=STEPS), :]
        earlier, states = moved(states, 1), states[STEPS:]
        gate, gate_slope = _gelu(kept.gate[steps, :].astype(jnp.float32))
        x_bar, gated_bar = _finish_backward(
            x, gate * states, y_bar_ref[0, steps, :], weights, gradients
        )
        gates = kept.recurrence_gate[steps, :], kept.input_gate[steps, :]
        found = Recurrent(kept.convolved[steps, :], *gates, states)
        convolved_bar, state_bar = recur_backward(
            found,
            earlier,
            (gated_bar * gate, state_bar),
            age == 0,
            weights=weights,
            gradients=gradients,
        )
        entering_bar = convolve_backward(
            jnp.concatenate([convolved_bar, later_bar], axis=0),
            jnp.concatenate([age, later_age], axis=0),
            kept.entering[steps, :].astype(jnp.float32),
            weights,
            gradients,
        )
        bars = gated_bar * states * gate_slope, entering_bar
        x_bar_ref[0, steps, :] = x_bar + _branches_backward(x, bars, weights, gradients)
        return convolved_bar[:STEPS], age[:STEPS], state_bar

    start = (
        jnp.zeros((STEPS, width), jnp.float32),
        jnp.zeros((STEPS, width), jnp.int32),
        jnp.zeros((1, width), jnp.float32),
    )
    jax.lax.fori_loop(0, chunks.number, chunk, start)


_KERNELS = RowKernels("hawk", _forward_kernel, _backward_kernel, _scratch)
