"""The linear recurrence as a TPU kernel: every number is read once and written once.

Loops of XLA over time pay for their iterations, and trees of partial products for moving numbers
along the axis of time: both several times what it takes to read and write the arrays.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from internal_rl.backend import LANES
from internal_rl.models.kernels import STEPS, suits_kernels

# Rows and channels that one run of the kernel takes, the more the better: their chains hide each
# other's delay.
_BLOCKS = ((4, 2 * LANES), (2, 2 * LANES), (1, 2 * LANES), (4, LANES), (2, LANES), (1, LANES))
# Bytes that these may take; a program of XLA leaves its kernels 16 MiB.
_MEMORY = 12 * 2**20


def suits(x: chex.Array) -> bool:
    """Whether a program is traced for TPUs and the kernel takes rows `(B, S, n)`."""
    return suits_kernels(x) and _block_of(*x.shape) is not None


def _block_of(rows: int, length: int, width: int) -> tuple[int, int] | None:
    """How many rows and channels one run of the kernel takes; None if whole rows are too long."""
    # Decays, inputs and states in float32; the next ones arrive while these are worked on.
    most = _MEMORY // (3 * 2 * 4 * length)
    blocks = ((min(count, rows), channels) for count, channels in _BLOCKS if width % channels == 0)
    return next((block for block in blocks if block[0] * block[1] <= most), None)


def solve(
    decay: chex.Array,
    inputs: chex.Array,
    *,
    reverse: bool,
    late: bool,
    interpret: bool = False,
) -> chex.Array:
    """Solves the recurrence along axis 1.

    Args:
      decay: `(B, S, n)` float32, of a shape that `suits`.
      inputs: `(B, S, n)` float32.
      reverse: run from the last step to the first.
      late: decays belong to the way out of their step instead of the way into it:
        `h_t = inputs_t + decay_{t-1} h_{t-1}`.
      interpret: run it without a TPU, slowly.

    Returns:
      `(B, S, n)`.
    """
    rows, length, width = decay.shape
    count, channels = _block_of(rows, length, width)
    block = pl.BlockSpec((count, length, channels), lambda row, channel: (row, 0, channel))
    return pl.pallas_call(
        functools.partial(_kernel, reverse=reverse, late=late),
        out_shape=jax.ShapeDtypeStruct(inputs.shape, inputs.dtype),
        grid=(pl.cdiv(rows, count), width // channels),
        in_specs=[block, block],
        out_specs=block,
        interpret=interpret,
        name="linear_recurrence" + "_reverse" * reverse + "_late" * late,
    )(decay, inputs)


def solve_group(own, inputs, carry, *, reverse: bool, late: bool):
    """The recurrence over `STEPS` steps, inside of a kernel.

    Args:
      own: `(B, STEPS, n)` decays.
      inputs: `(B, STEPS, n)`.
      carry: `(B, 1, n)`, what the steps before have left: a state, or if `late` the product of a
        state and its decay.
      reverse: as in `solve`.
      late: as in `solve`.

    Returns:
      States `(B, STEPS, n)` and the carry for the next steps.
    """
    place = jax.lax.broadcasted_iota(jnp.int32, own.shape, 1)
    place = STEPS - 1 - place if reverse else place

    def earlier(x, steps, default):
        """The values `steps` before within the group."""
        turned = jnp.roll(x, -steps if reverse else steps, axis=1)
        return jnp.where(place >= steps, turned, default)

    decay, states = earlier(own, 1, 1.0) if late else own, inputs
    # Products and sums over the last 2, 4, 8 steps.
    gap = 1
    while gap < STEPS:
        states = states + decay * earlier(states, gap, 0.0)
        decay = decay * earlier(decay, gap, 1.0)
        gap *= 2
    states = states + decay * carry
    last = slice(0, 1) if reverse else slice(STEPS - 1, STEPS)
    carry = states[:, last]
    return states, carry * own[:, last] if late else carry


def _kernel(decay_ref, inputs_ref, states_ref, *, reverse, late):
    rows, length, width = inputs_ref.shape
    groups = length // STEPS

    def group(index, carry):
        start = (groups - 1 - index if reverse else index) * STEPS
        steps = pl.ds(pl.multiple_of(start, STEPS), STEPS)
        own, inputs = decay_ref[:, steps, :], inputs_ref[:, steps, :]
        states_ref[:, steps, :], carry = solve_group(own, inputs, carry, reverse=reverse, late=late)
        return carry

    jax.lax.fori_loop(0, groups, group, jnp.zeros((rows, 1, width), inputs_ref.dtype))
