"""Packs sequences of very different lengths into rows, and sums over the rows.

The update of a policy costs as much as there are decisions in the batch, not as much as the longest
episode would ask for: whole episodes stand one behind the other in rows of fixed length, and only
rows that hold something are computed.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.batching import largest


@struct.dataclass
class Packing:
    """Which sequences stand in which row.

    Attributes:
      start: `(B + 1,)` int32 elements before each sequence when all stand one behind the other.
      first: `(B + 1,)` int32 first sequence of each row; `B` for rows beyond the last.
      num_rows: `()` int32 rows that hold something.
    """

    start: chex.Array
    first: chex.Array
    num_rows: chex.Array


def pack(lengths: chex.Array, row_length: int) -> Packing:
    """Fills one row after the other with sequences in their given order.

    Args:
      lengths: `(B,)` int32 elements of each sequence, 0 to `row_length`.
      row_length: elements of a row.
    """
    num_sequences = lengths.shape[0]
    start = jnp.append(0, jnp.cumsum(lengths)).astype(jnp.int32)
    # `following[i]`: first sequence of the next row if a row begins with sequence i. The first
    # sequence of row r is its r-th iterate from 0, found by repeated squaring.
    following = jnp.searchsorted(start, start + row_length, side="right").astype(jnp.int32) - 1
    row = jnp.arange(num_sequences + 1)
    first = jnp.zeros(num_sequences + 1, jnp.int32)
    for bit in range(num_sequences.bit_length()):
        first = jnp.where((row >> bit) & 1, following[first], first)
        following = following[following]
    return Packing(start, first, jnp.sum(start[first] < start[-1]))


def row_contents(
    packing: Packing, rows: chex.Array, row_length: int
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """What stands in some rows.

    Args:
      packing: result of `pack`.
      rows: `(R,)` int32 indices of rows; those from `packing.num_rows` on are empty.
      row_length: as in `pack`.

    Returns:
      Three `(R, row_length)` int32 arrays: index of the sequence, index of the element in the
      sequence, and segment, which is the index of the sequence again but -1 at padding.
    """
    num_sequences = packing.start.shape[0] - 1
    rows = jnp.minimum(rows, num_sequences)[:, None]
    place = packing.start[packing.first[rows]] + jnp.arange(row_length)
    filled = place < packing.start[packing.first[jnp.minimum(rows + 1, num_sequences)]]
    place = jnp.where(filled, place, 0)
    sequence = jnp.searchsorted(packing.start, place, side="right").astype(jnp.int32) - 1
    sequence = jnp.minimum(sequence, num_sequences - 1)
    element = place - packing.start[sequence]
    return sequence, element, jnp.where(filled, sequence, -1)


def sum_over_rows(function: Callable, lengths: chex.Array, row_length: int, rows: int):
    """Adds up `function` over all sequences, some packed rows at a time.

    The number of parts follows from the data, so the work does, too. `function` may contain
    gradients, which is how the gradient over a large batch accumulates in bounded memory.

    Args:
      function: maps the three arrays of `row_contents` to a pytree of sums over their elements,
        padding left out.
      lengths: `(B,)` int32 elements of each sequence; those of length 0 are left out.
      row_length: elements of a row (static), at least the largest of `lengths`.
      rows: rows per part.

    Returns:
      The pytree of total sums.
    """
    # Traced once, for its shapes and in the loop.
    function = jax.jit(function)
    packing = pack(lengths, row_length)
    num_rows = largest(packing.num_rows)

    def contents(part):
        return row_contents(packing, part * rows + jnp.arange(rows), row_length)

    def add_part(loop):
        part, total = loop
        return part + 1, jax.tree.map(jnp.add, total, function(*contents(part)))

    shapes = jax.eval_shape(function, *contents(jnp.int32(0)))
    total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    with jax.named_scope("packed_parts"):
        _, total = jax.lax.while_loop(
            lambda loop: loop[0] * rows < num_rows, add_part, (jnp.int32(0), total)
        )
    return total
