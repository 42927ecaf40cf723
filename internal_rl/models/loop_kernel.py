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

from internal_rl.backend import LANES, kernels_for_tpu

# Steps that are on the core at a time, the more the better, and steps in one iteration.
_CHUNKS, _UNROLLED = (64, 32, 16, 8), 8
# Bytes that these may take; a program of XLA leaves its kernels 16 MiB.
_MEMORY = 8 * 2**20
# Rows in one run: steps of a loop wait for each other, and more rows fill the time.
_ROWS = 72


def suits(inputs: Sequence[chex.Array]) -> bool:
    """Whether a program is traced for TPUs and the kernel takes these rows."""
    taken = all(x.shape[1] % _CHUNKS[0] == 0 and x.dtype == jnp.float32 for x in inputs)
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
    size_of_chunk = _chunk(rows, [*(x.shape[2] for x in inputs), size])
    chunks = length // size_of_chunk

    def of_steps(width):
        place = (lambda row, chunk: (chunks - 1 - chunk, row, 0)) if reverse else None
        shape = (size_of_chunk, rows, width)
        return pl.BlockSpec(shape, place or (lambda row, chunk: (chunk, row, 0)))

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


def _chunk(rows: int, widths: Sequence[int]) -> int:
    """How many steps of arrays of some widths are on the core at a time."""
    # Float32 in registers of 128 lanes; the next chunk arrives while this one is worked on.
    of_step = 2 * 4 * rows * sum(-(-width // LANES) * LANES for width in widths)
    return next((size for size in _CHUNKS if size * of_step <= _MEMORY), _CHUNKS[-1])


def _kernel(*refs, step, num_inputs, reverse):
    inputs, constants = refs[:num_inputs], [ref[:] for ref in refs[num_inputs:-2]]
    output, state = refs[-2:]
    num_steps = output.shape[0]

    @pl.when(pl.program_id(1) == 0)
    def _():
        state[:] = jnp.zeros_like(state)

    def steps(index, carry):
        for number in range(_UNROLLED):
            time = index * _UNROLLED + number
            time = num_steps - 1 - time if reverse else time
            carry, output[time] = step(carry, [ref[time] for ref in inputs], *constants)
        return carry

    state[:] = jax.lax.fori_loop(0, num_steps // _UNROLLED, steps, state[:])
