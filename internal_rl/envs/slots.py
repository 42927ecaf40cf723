"""Runs many episodes on a few slots that never idle.

Episodes of one task end at very different times. Here a fixed number of slots steps in lock-step,
so that the base model's cache is written with one slice per step; a slot whose episode has ended
takes the next episode at once. When none is left, the last running episodes are brought together on
fewer and fewer slots.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.backend import on_cpu
from internal_rl.batching import largest

# Every phase has this many times fewer slots than the one before.
SHRINK = 4
# More phases, or fewer slots in one, take longer to compile than they save.
MAX_PHASES = 3
FEWEST_SLOTS = 8
# On a CPU a step of this many slots already keeps the matrix products busy, and more of them would
# only idle longer at the end. Accelerators take all episodes at once: their steps cost the same.
CPU_SLOTS = 128


@struct.dataclass
class Slots:
    """Which episode runs in each of `W` slots.

    Attributes:
      episode: `(W,)` int32 index of the episode.
      time: `(W,)` int32 its steps so far.
      active: `(W,)` bool, False for a slot that has nothing to run.
    """

    episode: chex.Array
    time: chex.Array
    active: chex.Array

    @property
    def forgets(self) -> chex.Array:
        """`(W,)` bool: an episode begins or nothing runs, so there is nothing to look back to."""
        return (self.time == 0) | ~self.active


def choose_num_slots(num_slots: int, num_episodes: int) -> int:
    """`num_slots`, or for 0 what suits the backend; never more than there are episodes."""
    if num_slots == 0:
        num_slots = CPU_SLOTS if on_cpu() else num_episodes
    return min(num_slots, num_episodes)


def choose_num_phases(num_slots: int) -> int:
    """How often it pays to move the last episodes to fewer slots, plus one."""
    fewer, num_phases = num_slots // SHRINK, 1
    while fewer >= FEWEST_SLOTS and num_phases < MAX_PHASES:
        fewer, num_phases = fewer // SHRINK, num_phases + 1
    return num_phases


@struct.dataclass
class _Loop:
    """What the loop over steps carries.

    Attributes:
      slots: current occupation.
      state: world states and observations of the slots.
      memory: what the models remember.
      following: `()` int32 next episode that no slot has taken.
      place: `(N,)` int32 `episode * num_steps + time` of each record, `B * num_steps` if idle.
      records: records in the order in which they were made, `(N, ...)`.
      ends: what is kept of the end of every episode, by name, `(B, ...)`.
      cursor: `()` int32 records made so far.
    """

    slots: Slots
    state: Any
    memory: Any
    following: chex.Array
    place: chex.Array
    records: Any
    ends: dict[str, chex.Array]
    cursor: chex.Array


def run_episodes(
    step: Callable,
    fresh,
    memory,
    num_slots: int,
    num_steps: int,
    *,
    at_end: Callable | None = None,
    num_phases: int | None = None,
):
    """Runs every episode to its end, at most `num_steps` steps.

    Args:
      step: `step(slots, state, memory)` returns `(state, memory, done, record)`: the next state of
        the slots, `(W,)` bool whether their episodes have ended, and arrays `(W, ...)` to be kept.
        Where `slots.time` is 0 an episode begins and the memory of the last one must not be used.
      fresh: states of all episodes at their start, arrays `(B, ...)`.
      memory: what the models remember, arrays `(W, ...)`, and arrays without axes, which all slots
        share.
      num_slots: number of slots `W <= B`.
      num_steps: time limit; no episode is longer.
      at_end: `at_end(state)` returns arrays `(W, ...)` by name, which are kept of the state after
        the last step of every episode; None keeps nothing.
      num_phases: how often the last episodes move to fewer slots, plus one; each phase is compiled
        on its own. None leaves the choice to `choose_num_phases`.

    Returns:
      The records, each array `(B, num_steps, ...)`, zero after an episode's end, among them by name
      what `at_end` keeps, `(B, ...)`; and the `(B,)` int32 lengths of the episodes.
    """
    num_episodes = jax.tree.leaves(fresh)[0].shape[0]
    if num_phases is None:
        num_phases = choose_num_phases(num_slots)
    # Traced once, for the shapes of its records and in the loop.
    step = jax.jit(step)
    loop = _start(step, fresh, memory, num_slots, num_steps)
    if at_end is not None:
        loop = loop.replace(ends=jax.tree.map(jnp.zeros_like, at_end(fresh)))
    for phase in range(num_phases):
        fewer = num_slots // SHRINK if phase + 1 < num_phases else 0
        # The names are those of `benchmarks.tpu`, to which the loops' lengths have to be told.
        with jax.named_scope("last_episode_steps" if phase else "episode_steps"):
            loop = jax.lax.while_loop(
                lambda loop, fewer=fewer: largest(_must_go_on(loop, num_episodes, fewer)),
                lambda loop: _advance(step, at_end, fresh, loop, num_steps),
                loop,
            )
        if not fewer:
            break
        loop = _move_to_fewer(loop, fewer)
        num_slots = fewer
    records, lengths = _sorted_records(loop, num_episodes, num_steps)
    return (records | loop.ends if loop.ends else records), lengths


def _start(step, fresh, memory, num_slots: int, num_steps: int) -> _Loop:
    """The first `num_slots` episodes in the slots, room for the records."""
    num_episodes = jax.tree.leaves(fresh)[0].shape[0]
    first = jnp.arange(num_slots, dtype=jnp.int32)
    slots = Slots(first, jnp.zeros_like(first), jnp.ones(num_slots, bool))
    state = jax.tree.map(lambda x: x[:num_slots], fresh)
    # While fresh episodes are left every record belongs to an episode; after that every slot makes
    # at most `num_steps` records more.
    capacity = num_episodes * num_steps
    if num_slots < num_episodes:
        capacity += num_slots * num_steps
    record = jax.eval_shape(step, slots, state, memory)[3]
    return _Loop(
        slots=slots,
        state=state,
        memory=memory,
        following=jnp.int32(num_slots),
        place=jnp.full(capacity, num_episodes * num_steps, jnp.int32),
        records=jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), record),
        ends={},
        cursor=jnp.int32(0),
    )


def _must_go_on(loop: _Loop, num_episodes: int, fewer: int) -> chex.Array:
    """More episodes are left than fit into `fewer` slots."""
    waiting = jnp.maximum(num_episodes - loop.following, 0)
    return jnp.sum(loop.slots.active) + waiting > fewer


def _advance(step, at_end, fresh, loop: _Loop, num_steps: int) -> _Loop:
    """One step of all slots; ended episodes make room for fresh ones."""
    slots, num_episodes = loop.slots, jax.tree.leaves(fresh)[0].shape[0]
    state, memory, done, record = step(slots, loop.state, loop.memory)
    place = jnp.where(
        slots.active, slots.episode * num_steps + slots.time, num_episodes * num_steps
    )
    time = slots.time + 1
    vacant = done | ~slots.active | (time >= num_steps)
    candidate = loop.following + jnp.cumsum(vacant, dtype=jnp.int32) - 1
    refilled = vacant & (candidate < num_episodes)
    episode = jnp.where(refilled, candidate, slots.episode)
    ends = loop.ends
    if at_end is not None:
        # A number that no episode has is written nowhere.
        ended = jnp.where(vacant & slots.active, slots.episode, num_episodes)
        ends = jax.tree.map(lambda x, new: x.at[ended].set(new, mode="drop"), ends, at_end(state))

    def renew(old, start):
        chosen = refilled.reshape(-1, *[1] * (old.ndim - 1))
        return jnp.where(chosen, start[episode], old)

    return _Loop(
        slots=Slots(
            episode=episode,
            time=jnp.where(refilled, 0, time),
            active=~vacant | refilled,
        ),
        state=jax.tree.map(renew, state, fresh),
        memory=memory,
        following=loop.following + jnp.sum(vacant, dtype=jnp.int32),
        place=_write(loop.place, place, loop.cursor),
        records=jax.tree.map(lambda x, new: _write(x, new, loop.cursor), loop.records, record),
        ends=ends,
        cursor=loop.cursor + len(place),
    )


def _write(array: chex.Array, rows: chex.Array, cursor: chex.Array) -> chex.Array:
    return jax.lax.dynamic_update_slice_in_dim(array, rows, cursor, 0)


def _move_to_fewer(loop: _Loop, num_slots: int) -> _Loop:
    """Brings the active slots together."""
    chosen = jnp.argsort(~loop.slots.active, stable=True)[:num_slots]
    slots, state, memory = jax.tree.map(
        lambda x: x[chosen] if x.ndim else x, (loop.slots, loop.state, loop.memory)
    )
    return loop.replace(slots=slots, state=state, memory=memory)


def _sorted_records(loop: _Loop, num_episodes: int, num_steps: int):
    """Records by episode and time, and the lengths of the episodes."""
    order = jnp.argsort(loop.place)
    start = jnp.searchsorted(loop.place[order], jnp.arange(num_episodes + 1) * num_steps).astype(
        jnp.int32
    )
    lengths = jnp.diff(start)
    time = jnp.arange(num_steps)
    ran = time < lengths[:, None]
    index = order[jnp.where(ran, start[:-1, None] + time, 0)]

    def sort(x):
        return jnp.where(ran.reshape(*ran.shape, *[1] * (x.ndim - 1)), x[index], 0).astype(x.dtype)

    return jax.tree.map(sort, loop.records), lengths
