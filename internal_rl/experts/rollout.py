"""Plays expert episodes of a grid world back to back, by integer look-ups."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.backend import on_cpu
from internal_rl.experts import action_words, shortest_path
from internal_rl.experts.legs import Legs, unpack_facts

RUNNING, SUCCESS, FAILURE = np.arange(3, dtype=np.int32)


@struct.dataclass
class Episodes:
    """What episodes start from, `M` episodes in each of `B` lanes.

    Attributes:
      seed: `(B, M, 2)` uint32 key data for the actions.
      objects: `(B, M, O)` int32 cells of the colours.
      walls: `(B, M, W)` int32 cells of the walls.
      layout_index: `(B, M)` int32 index into the pool, -1 without a pool.
      task_index: `(B, M)` int32 row of the stream's tasks.
      start_cell: `(B, M)` int32.
    """

    seed: chex.Array
    objects: chex.Array
    walls: chex.Array
    layout_index: chex.Array
    task_index: chex.Array
    start_cell: chex.Array


@struct.dataclass
class Steps:
    """Played tokens, `(B, S)` each; an episode that did not end has no status.

    Attributes:
      cell: int32 cell of the agent at the token.
      next_cell: int32 cell after the action.
      action: int32; 0 at terminal tokens.
      progress: int32 number of colours visited before the action.
      episode: int32 index of the episode in its lane.
      terminal: bool, the token only holds the terminal observation.
      status: int32 `SUCCESS` or `FAILURE` at the last token of an episode, elsewhere `RUNNING`.
    """

    cell: chex.Array
    next_cell: chex.Array
    action: chex.Array
    progress: chex.Array
    episode: chex.Array
    terminal: chex.Array
    status: chex.Array


def play(
    legs: Legs,
    start_cell: chex.Array,
    num_slots: int,
    *,
    grid_size: int,
    time_limit: int,
    epsilon: float,
    include_terminal: bool,
    num_tokens: int,
) -> Steps:
    """Plays the episodes of each lane one behind the other.

    One scan over tokens moves all lanes at once; a lane that has ended an episode goes on with its
    next one in the following token, so that no time is spent on waiting. On a TPU every loop over
    the lanes takes its time, however little it does; so a step is three of them. It reads all
    tables at one index, for the step behind it, and does arithmetic on two packed numbers per lane.

    Args:
      legs: of the episodes, in order.
      start_cell: `(B, M)` int32.
      num_slots: `K`, legs of an episode.
      grid_size: side `G` of the grid.
      time_limit: an episode that takes this many steps without success has failed, as has one whose
        goal no path leads to.
      epsilon: probability of a uniformly random harmless action.
      include_terminal: whether a successful episode ends with a token for its last observation.
      num_tokens: `S`.

    Returns:
      `Steps`, `(B, S)`; behind the end of the last episode they mean nothing.
    """
    num_lanes, num_episodes = start_cell.shape
    legs_per_lane = num_episodes * num_slots
    num_words = action_words.num_words(grid_size)
    offsets = action_words.offsets(grid_size)
    by_leg = legs.facts, legs.seed
    if not on_cpu():
        # With one index for all tables; the barrier keeps XLA from making them in every step anew.
        by_leg = jax.tree.map(lambda table: jnp.repeat(table, num_words), by_leg)
        by_leg = jax.lax.optimization_barrier(by_leg)

    def read(leg, place):
        """What the tables say."""
        index = leg * num_words + (place >> 3)
        facts, seed = jax.tree.map(lambda table: _at(table, leg if on_cpu() else index), by_leg)
        return facts, seed, tuple(_at(table, index) for table in legs.actions)

    def step(carry, _):
        leg, state, (facts, seed, words) = carry
        facts = unpack_facts(facts)
        place, terminal = state & 1023, state >> 10 & 1 == 1
        over, time = state >> 11 & 1 == 1, state >> 12
        sets = [action_words.actions_at(word, place) for word in words]
        bits = jax.vmap(_random_words)(jnp.stack(seed, axis=-1), time)
        expert, mask = sets[0], sets[0]
        if epsilon > 0.0:
            mask = jnp.where(_uniform(bits[:, 0]) < epsilon, sets[1], mask)
        action = shortest_path.choose_action(mask, bits[:, 1])
        # Each action of the expert leaves the cell, so that without noise it is all one has to ask.
        moves = (sets[-1] >> action & 1 == 1) & ~terminal
        offset = sum(jnp.where(action == a, by, 0) for a, by in enumerate(offsets))
        next_place = jnp.where(moves, place + offset, place)
        reached = moves & (next_place == facts.goal)
        completed = terminal | (reached & facts.ends_task)
        failed = ~completed & ((time + 1 >= time_limit) | (~terminal & (expert == 0)))
        succeeded = terminal if include_terminal else completed
        status = jnp.where(succeeded, SUCCESS, jnp.where(failed, FAILURE, RUNNING))
        status = jnp.where(over, RUNNING, status)
        flags = [(jnp.where(terminal, 0, action), 20), (terminal, 22), (status, 23)]
        flags += [(completed, 25), (reached & ~facts.ends_task, 26)]
        token = place | next_place << 10
        for flag, shift in flags:
            token |= flag.astype(jnp.int32) << shift
        # What follows is computed from this number alone: without the barrier a TPU would do the
        # random numbers once more for each part of the new state.
        token = jax.lax.optimization_barrier(token)
        ended = token >> 23 & 3 != RUNNING
        new_leg = leg + jnp.where(ended, facts.to_next, token >> 26)
        new_place = jnp.where(ended, facts.next_start, token >> 10 & 1023)
        new_terminal = jnp.where(ended, 0, token >> 25 & 1)
        new_over = (over | (ended & facts.ends_lane)).astype(jnp.int32)
        new_time = jnp.where(ended, 0, time + 1)
        new_state = new_place | new_terminal << 10 | new_over << 11 | new_time << 12
        return (new_leg, new_state, read(new_leg, new_place)), (token, leg)

    # Made from the lanes, so that under `jax.shard_map` they too differ between devices.
    state = action_words.place_of(start_cell[:, 0], grid_size)
    first_leg = jnp.zeros_like(state) + jnp.arange(num_lanes, dtype=jnp.int32) * legs_per_lane
    carry = (first_leg, state, read(first_leg, state))
    _, (token, leg) = jax.lax.scan(step, carry, length=num_tokens)
    token, leg = token.T, leg.T - first_leg[:, None]
    episode = leg // num_slots
    terminal = (token >> 22 & 1) == 1
    return Steps(
        cell=action_words.cell_of(token & 1023, grid_size),
        next_cell=action_words.cell_of(token >> 10 & 1023, grid_size),
        action=token >> 20 & 3,
        # A terminal token belongs to the last leg, the colour of which has been visited.
        progress=leg - episode * num_slots + terminal,
        episode=episode,
        terminal=terminal,
        status=token >> 23 & 3,
    )


def _at(table: chex.Array, index: chex.Array) -> chex.Array:
    """Elements of `table (N,)`; all indices are within it."""
    return table.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _random_words(seed: chex.Array, time: chex.Array) -> chex.Array:
    """Two random uint32 for one step: a Threefry block of the episode's key and the step's time."""
    return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(seed), time))


def _uniform(word: chex.Array) -> chex.Array:
    """Uniform float32 in [0, 1) from uint32."""
    return (word >> 8).astype(jnp.float32) * (2.0**-24)
