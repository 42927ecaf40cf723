"""Loops over the time of packed rows, and the linear recurrence under every SSM of this package."""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from internal_rl.backend import on_cpu
from internal_rl.models import loop_kernel, recurrence_kernel
from internal_rl.models.kernels import with_transpose


def steps_at_once() -> int:
    """Steps in one iteration of a loop over time: iterations are dear on accelerators."""
    return 1 if on_cpu() else 16


def over_time(
    step: Callable,
    size: int,
    inputs: tuple[chex.Array, ...],
    constants: tuple[chex.Array, ...] = (),
) -> chex.Array:
    """What `step` gives for every step of packed rows, from a state of zeros on.

    Args:
      step: `step(state, inputs_t, *constants) -> state, output_t`, with `(B, size)` states and
        outputs and `(B, n)` inputs; simple enough for a kernel of TPUs.
      size: of the state and of the outputs.
      inputs: arrays `(B, S, n)`.
      constants: matrices.

    Returns:
      `(B, S, size)` outputs.
    """
    if loop_kernel.suits(inputs):
        return loop_kernel.run(step, size, inputs, constants)
    initial = jnp.zeros((inputs[0].shape[0], size), jnp.result_type(*inputs))
    inputs = jax.tree.map(lambda x: x.swapaxes(0, 1), inputs)
    _, outputs = jax.lax.scan(
        lambda state, inputs_t: step(state, inputs_t, *constants),
        initial,
        inputs,
        unroll=steps_at_once(),
    )
    return outputs.swapaxes(0, 1)


@dataclasses.dataclass(frozen=True)
class LinearLoop:
    """A loop over time whose outputs are linear in its last input.

    Attributes:
      step: as in `over_time`.
      constants: of the step.
      transposed: the step of the transposed loop, which runs from the last step to the first:
        given gradients of the outputs as its last input, it gives those of the last input.
      their_constants: of the transposed step.
    """

    step: Callable
    constants: tuple[chex.Array, ...]
    transposed: Callable
    their_constants: tuple[chex.Array, ...]

    def over_time(self, inputs: tuple[chex.Array, ...], last: chex.Array) -> chex.Array:
        """Outputs for `inputs` and the last one, all `(B, S, n)`; the last is as wide as they."""
        size = last.shape[2]
        if not loop_kernel.suits((*inputs, last)):
            return over_time(self.step, size, (*inputs, last), self.constants)
        run = functools.partial(loop_kernel.run, size=size)
        return with_transpose(
            lambda x: run(self.step, inputs=(*inputs, x), constants=self.constants),
            lambda y: run(
                self.transposed,
                inputs=(*inputs, y),
                constants=self.their_constants,
                reverse=True,
            ),
            last,
        )


def linear_recurrence(decay: chex.Array, inputs: chex.Array, reverse: bool = False) -> chex.Array:
    """Solves `h_t = decay_t * h_{t-1} + inputs_t` along axis 1 with `h_{-1} = 0`.

    A decay of zero at step `t` makes `h_t` independent of everything before it, which is how a
    recurrence is reset at the border between two packed trajectories.

    Differentiated as what it is, the solution of a linear system: a gradient is a second
    recurrence, in the other direction, and nothing but the states is kept for it.

    Args:
      decay: `(B, S, n)` multipliers.
      inputs: `(B, S, n)` additive inputs.
      reverse: run from the last step to the first.

    Returns:
      `(B, S, n)` states, in float32 at least.
    """
    chex.assert_equal_shape((decay, inputs))
    dtype = jnp.promote_types(jnp.result_type(decay, inputs), jnp.float32)
    decay, inputs = decay.astype(dtype), inputs.astype(dtype)
    return jax.lax.custom_linear_solve(
        lambda states: states - decay * _earlier(states, reverse),
        inputs,
        solve=lambda _, inputs: _solve(decay, inputs, reverse),
        transpose_solve=lambda _, inputs: _solve(decay, inputs, not reverse, late=True),
    )


def _earlier(x: chex.Array, reverse: bool) -> chex.Array:
    """What the recurrence met one step before, zero at its first step."""
    if reverse:
        return jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))


def _solve(decay: chex.Array, inputs: chex.Array, reverse: bool, late: bool = False) -> chex.Array:
    """The recurrence, on a TPU by its kernel; see `recurrence_kernel.solve`."""
    if recurrence_kernel.suits(decay):
        return recurrence_kernel.solve(decay, inputs, reverse=reverse, late=late)
    if late:
        decay = _earlier(decay, reverse)

    def compose(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    _, states = jax.lax.associative_scan(compose, (decay, inputs), axis=1, reverse=reverse)
    return states


def starts_segment(segment: chex.Array) -> chex.Array:
    """`(B, S)` bool: the token is the first of its packed trajectory."""
    first = jnp.ones_like(segment[:, :1], dtype=bool)
    return jnp.concatenate([first, segment[:, 1:] != segment[:, :-1]], axis=1)


def ends_segment(segment: chex.Array) -> chex.Array:
    """`(B, S)` bool: the token is the last of its packed trajectory."""
    last = jnp.ones_like(segment[:, :1], dtype=bool)
    return jnp.concatenate([segment[:, 1:] != segment[:, :-1], last], axis=1)


def age_in_segment(segment: chex.Array) -> chex.Array:
    """`(B, S)` int32: steps since the first one of the packed trajectory."""
    index = jnp.arange(segment.shape[1], dtype=jnp.int32)
    first = jnp.where(starts_segment(segment), index, 0)
    return index - jax.lax.cummax(first, axis=1)
