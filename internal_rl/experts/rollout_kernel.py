"""The loop that plays expert episodes as a TPU kernel: tables and state never leave the core.

Every operation of a loop of XLA takes 1,800 cycles to begin, however few lanes there are. Here 128
lanes lie side by side in registers with their tables below them, and a number is looked up by
comparing all rows of its table with the index.
"""

import functools
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from internal_rl.backend import LANES, kernels_for_tpu

# Rows of a register.
_ROWS = 8
# Bytes that the tables of 128 lanes may take; a program of XLA leaves its kernels 16 MiB.
_MEMORY = 4 * 2**20


def suits(tables: Sequence[chex.Array]) -> bool:
    """Whether a program is traced for TPUs and the kernel takes these tables, `(B, N)` each."""
    size = 4 * LANES * sum(table.shape[1] for table in tables)
    return kernels_for_tpu() and size <= _MEMORY


def run(
    step: Callable,
    by_leg: tuple[chex.Array, ...],
    by_word: tuple[chex.Array, ...],
    place: chex.Array,
    num_tokens: int,
    *,
    interpret: bool = False,
) -> tuple[chex.Array, chex.Array]:
    """Plays all lanes.

    Args:
      step: `rollout.step` of the episodes, of arrays `(1, B)`.
      by_leg: tables `(B, L)` uint32 with a number for each leg of a lane.
      by_word: tables `(B, L * V)` uint32 with `V` words for each leg.
      place: `(B,)` int32 where each lane starts.
      num_tokens: `S`.
      interpret: run it without a TPU, slowly.

    Returns:
      tokens of `rollout.step` and the numbers of their legs in their lane, `(S, B)` int32 each.
    """
    num_lanes = place.shape[0]
    num_words = by_word[0].shape[1] // by_leg[0].shape[1]
    tables = [_in_columns(table) for table in (*by_leg, *by_word)]
    lanes = min(num_lanes, LANES)

    def columns(num_rows):
        return pl.BlockSpec((num_rows, lanes), lambda block: (0, block))

    played = jax.ShapeDtypeStruct((num_tokens, num_lanes), jnp.int32)
    return pl.pallas_call(
        functools.partial(_kernel, step=step, num_by_leg=len(by_leg), num_words=num_words),
        out_shape=(played, played),
        grid=(pl.cdiv(num_lanes, lanes),),
        in_specs=[columns(1), *(columns(table.shape[0]) for table in tables)],
        out_specs=(columns(num_tokens), columns(num_tokens)),
        interpret=interpret,
        name="expert_rollout",
    )(place[None], *tables)


def _in_columns(table: chex.Array) -> chex.Array:
    """A table `(B, N)` as int32, rows of whole registers, a lane in each column."""
    missing = -table.shape[1] % _ROWS
    return jnp.pad(table.astype(jnp.int32).T, ((0, missing), (0, 0)))


def _kernel(place_ref, *refs, step, num_by_leg, num_words):
    *table_refs, token_ref, leg_ref = refs
    by_leg, by_word = table_refs[:num_by_leg], table_refs[num_by_leg:]

    def read(leg, place):
        return _look_up(by_leg, leg), _look_up(by_word, leg * num_words + (place >> 3))

    def play(time, carry):
        carry, (token, leg) = step(read, carry)
        token_ref[pl.ds(time, 1), :] = token
        leg_ref[pl.ds(time, 1), :] = leg
        return carry

    place = place_ref[:]
    leg = jnp.zeros_like(place)
    jax.lax.fori_loop(0, token_ref.shape[0], play, (leg, place, *read(leg, place)))


def _look_up(table_refs, index: chex.Array) -> tuple[chex.Array, ...]:
    """The row `index (1, B)` of every column of tables, `(1, B)` uint32 each."""
    num_rows, lanes = table_refs[0].shape
    row = jax.lax.broadcasted_iota(jnp.int32, (_ROWS, lanes), 0)
    beyond = index - row
    found = [jnp.zeros((_ROWS, lanes), jnp.int32) for _ in table_refs]
    for first in range(0, num_rows, _ROWS):
        here = beyond == first
        found = [
            jnp.where(here, ref[first : first + _ROWS], value)
            for ref, value in zip(table_refs, found, strict=True)
        ]
    # Of a column one row holds what was found and all others zero.
    return tuple(jnp.sum(value, axis=0, keepdims=True).astype(jnp.uint32) for value in found)
