"""A loop over the time of packed rows as a TPU kernel: the state never leaves the core.

An iteration of a loop of XLA costs more than the little that such loops do in a step.
"""

import functools
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from internal_rl.backend import kernels_for_tpu

# Steps that are on the core at a time, and steps in one iteration.
_CHUNK, _UNROLLED = 64, 8
# Rows in one run: steps of a loop wait for each other, and more rows fill the time.
_ROWS = 72


def suits(inputs: Sequence[chex.Array]) -> bool:
    """Whether a program is traced for TPUs and the kernel takes these rows."""
    taken = all(x.shape[1] % _CHUNK == 0 and x.dtype == jnp.float32 for x in inputs)
    return kernels_for_tpu() and taken


def run(
    step: Callable,
    size: int,
    inputs: tuple[chex.Array, ...],
    constants: tuple[chex.Array, ...] = (),
    *,
    reverse: bool = False,
    interpret: bool = False,
) -> chex.Array:
    """What `step` gives for every step of packed rows, from a state of zeros on.

    Args:
      step: `step(state, inputs_t, *constants) -> state, output_t`, with `(B, size)` states and
        outputs and `(B, n)` inputs; made of what Pallas can compile.
      size: of the state and of the outputs.
      inputs: `(B, S, n)` float32, with `S` a multiple of 64.
      constants: matrices.
      reverse: from the last step to the first.
      interpret: run it without a TPU, slowly.

    Returns:
      `(B, S, size)` float32.
    """
    num_rows, length = inputs[0].shape[:2]
    rows = min(_ROWS, -(-num_rows // 8) * 8)
    # Steps first: those of all rows lie together then.
    inputs = tuple(x.swapaxes(0, 1) for x in inputs)
    chunks = length // _CHUNK

    def of_steps(width):
        place = (lambda row, chunk: (chunks - 1 - chunk, row, 0)) if reverse else None
        return pl.BlockSpec((_CHUNK, rows, width), place or (lambda row, chunk: (chunk, row, 0)))

    outputs = pl.pallas_call(
        functools.partial(_kernel, step=step, num_inputs=len(inputs), reverse=reverse),
        out_shape=jax.ShapeDtypeStruct((length, num_rows, size), jnp.float32),
        grid=(pl.cdiv(num_rows, rows), chunks),
        in_specs=[
            *(of_steps(x.shape[2]) for x in inputs),
            *(pl.BlockSpec(x.shape, lambda row, chunk: (0, 0)) for x in constants),
        ],
        out_specs=of_steps(size),
        scratch_shapes=[pltpu.VMEM((rows, size), jnp.float32)],
        interpret=interpret,
        name="loop_over_time" + "_reverse" * reverse,
    )(*inputs, *constants)
    return outputs.swapaxes(0, 1)


def _kernel(*refs, step, num_inputs, reverse):
    inputs, constants = refs[:num_inputs], [ref[:] for ref in refs[num_inputs:-2]]
    output, state = refs[-2:]

    @pl.when(pl.program_id(1) == 0)
    def _():
        state[:] = jnp.zeros_like(state)

    def steps(index, carry):
        for number in range(_UNROLLED):
            time = index * _UNROLLED + number
            time = _CHUNK - 1 - time if reverse else time
            carry, output[time] = step(carry, [ref[time] for ref in inputs], *constants)
        return carry

    state[:] = jax.lax.fori_loop(0, _CHUNK // _UNROLLED, steps, state[:])
