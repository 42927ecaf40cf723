"""Runs a batch of episodes with neither idle episodes nor idle cache slots.

Episodes of one batch advance in lock-step, so that a key-value cache is written with one slice per
step, but they end at very different times. The run is therefore cut into stages of growing length.
Before each stage the running episodes are brought together and worked off in parts of `rows`
episodes; a part stops early when its last episode ends, and the models' caches grow from stage to
stage instead of being read in full from the first step on.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


@custom_vmap
def largest(value: chex.Array) -> chex.Array:
    """The largest `value` of all copies of the program that `jax.vmap` runs side by side.

    A loop whose condition reads only such values runs equally long in all copies. Without it,
    `jax.vmap` would copy everything the loop carries at every iteration, to undo the iterations that
    one copy needed and another did not. The loop's body must leave a copy unharmed that is already
    through.
    """
    return value


@largest.def_vmap
def _largest_of_batch(axis_size, in_batched, value):
    del axis_size, in_batched
    return largest(jnp.max(value, axis=0)), False


def stage_ends(num_steps: int, num_stages: int) -> tuple[int, ...]:
    """Ends of the stages: `num_steps` halved again and again, rounded up, in increasing order."""
    ends = {-(-num_steps // 2**i) for i in range(num_stages)}
    return tuple(sorted(ends))


def check_rows(rows: int, num_episodes: int) -> None:
    """Raises ValueError unless `rows` divides `num_episodes`."""
    if rows < 1 or num_episodes % rows:
        raise ValueError(f"rows: got {rows}, allowed: divisors of num_episodes = {num_episodes}")


def run_lockstep(
    step: Callable,
    extend: Callable,
    carry,
    num_steps: int,
    num_stages: int,
    rows: int,
):
    """Steps all episodes until they end, at most `num_steps` times.

    Args:
      step: maps the carry of `rows` episodes to `(carry, record)`; every array of the record has a
        leading axis `rows`. It is also called on ended episodes and must leave them ended.
      extend: `extend(carry, length)` grows the carry's caches to `length` steps.
      carry: dataclass of arrays with leading axis `B` and a field `active`, `(B,)` bool, True while
        an episode runs. Arrays without axes are counters of steps and go up by one per step.
      num_steps: time limit.
      num_stages: number of stages; each is compiled on its own.
      rows: episodes per part; divides `B`.

    Returns:
      The records, each array `(B, num_steps, ...)`; zero at steps that were never reached.
    """
    num_episodes = carry.active.shape[0]
    check_rows(rows, num_episodes)
    record = jax.eval_shape(lambda c: step(extend(_take(c, jnp.arange(rows)), num_steps))[1], carry)
    records = jax.tree.map(
        lambda x: jnp.zeros((num_episodes, num_steps, *x.shape[1:]), x.dtype), record
    )
    # Where the episode in each row of the carry has its place in the records.
    place = jnp.arange(num_episodes)
    start = 0
    for end in stage_ends(num_steps, num_stages):
        carry, place, records = _run_stage(
            step, extend, carry, place, records, start, end, rows, keep_carry=end < num_steps
        )
        start = end
    return records


def _take(carry, chosen: chex.Array):
    """Rows `chosen` of every array with axes."""
    return jax.tree.map(lambda x: x[chosen] if x.ndim else x, carry)


def _run_stage(
    step, extend, carry, place, records, start: int, end: int, rows: int, keep_carry: bool
):
    """Runs the active episodes from step `start` to `end`.

    Returns:
      Carry, place and records. Episodes that were active come first in the carry; the rows behind
      them are ended episodes. Without `keep_carry` the carry is None, which saves its memory.
    """
    num_episodes = carry.active.shape[0]
    order = jnp.argsort(~carry.active, stable=True)
    place = place[order]
    num_active = largest(jnp.sum(carry.active))

    def run_part(loop):
        part_index, renewed, records = loop
        first = part_index * rows
        chosen = jax.lax.dynamic_slice_in_dim(order, first, rows)
        part = extend(_take(carry, chosen), end)
        part, part_records = _run_part(step, part, end - start, records)
        if keep_carry:
            renewed = jax.tree.map(
                lambda x, new: _write_rows(x, new, first) if x.ndim else x, renewed, part
            )
        places = jax.lax.dynamic_slice_in_dim(place, first, rows)
        records = jax.tree.map(
            lambda x, new: x.at[places, start:end].set(new), records, part_records
        )
        return part_index + 1, renewed, records

    renewed = None
    if keep_carry:
        shapes = jax.eval_shape(lambda c: extend(_take(c, jnp.arange(rows)), end), carry)
        renewed = jax.tree.map(
            lambda x, like: jnp.zeros((num_episodes, *like.shape[1:]), like.dtype)
            if like.ndim
            else x + (end - start),
            carry,
            shapes,
        )
    loop = (jnp.int32(0), renewed, records)
    _, renewed, records = jax.lax.while_loop(
        lambda loop: loop[0] * rows < num_active, run_part, loop
    )
    return renewed, place, records


def _write_rows(array: chex.Array, rows: chex.Array, first: chex.Array) -> chex.Array:
    return jax.lax.dynamic_update_slice_in_dim(array, rows, first, 0)


def _run_part(step, carry, num_steps: int, records):
    """Steps one part until all its episodes have ended, at most `num_steps` times."""
    rows = carry.active.shape[0]
    part_records = jax.tree.map(
        lambda x: jnp.zeros((rows, num_steps, *x.shape[2:]), x.dtype), records
    )

    def run_step(loop):
        index, carry, part_records = loop
        carry, record = step(carry)
        part_records = jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new[:, None], index, 1),
            part_records,
            record,
        )
        return index + 1, carry, part_records

    def is_running(loop):
        index, carry, _ = loop
        return (index < num_steps) & largest(jnp.any(carry.active))

    _, carry, part_records = jax.lax.while_loop(
        is_running, run_step, (jnp.int32(0), carry, part_records)
    )
    return carry, part_records
