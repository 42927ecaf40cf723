"""Plays expert episodes of a grid world back to back, by integer look-ups."""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.extend.random import threefry2x32_p

from internal_rl.experts import action_words, rollout_kernel, shortest_path
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


@dataclasses.dataclass(frozen=True)
class Rules:
    """What holds for all episodes.

    Attributes:
      grid_size: side `G` of the grid.
      time_limit: an episode that takes this many steps without success has failed, as has one whose
        goal no path leads to.
      epsilon: probability of a uniformly random harmless action.
      include_terminal: whether a successful episode ends with a token for its last observation.
    """

    grid_size: int
    time_limit: int
    epsilon: float
    include_terminal: bool


def play(
    legs: Legs, start_cell: chex.Array, num_slots: int, rules: Rules, num_tokens: int
) -> Steps:
    """Plays the episodes of each lane one behind the other.

    One loop over tokens moves all lanes at once; a lane that has ended an episode goes on with its
    next one in the following token, so that no time is spent on waiting.

    Args:
      legs: of the episodes, in order.
      start_cell: `(B, M)` int32.
      num_slots: `K`, legs of an episode.
      rules: of the episodes.
      num_tokens: `S`.

    Returns:
      `Steps`, `(B, S)`; behind the end of the last episode they mean nothing.
    """
    place = action_words.place_of(start_cell[:, 0], rules.grid_size)
    by_leg, by_word = (legs.facts, *legs.seed), legs.actions
    of_lanes = [
        tuple(table.reshape(len(place), -1) for table in tables) for tables in (by_leg, by_word)
    ]
    one_step = functools.partial(step, rules)
    if rollout_kernel.suits([*of_lanes[0], *of_lanes[1]]):
        token, leg = rollout_kernel.run(one_step, *of_lanes, place, num_tokens)
    else:
        token, leg = _scan(one_step, by_leg, by_word, place, num_tokens)
    token, leg = token.T, leg.T
    episode = leg // num_slots
    terminal = (token >> 22 & 1) == 1
    return Steps(
        cell=action_words.cell_of(token & 1023, rules.grid_size),
        next_cell=action_words.cell_of(token >> 10 & 1023, rules.grid_size),
        action=token >> 20 & 3,
        # A terminal token belongs to the last leg, the colour of which has been visited.
        progress=leg - episode * num_slots + terminal,
        episode=episode,
        terminal=terminal,
        status=token >> 23 & 3,
    )


def step(rules: Rules, read: Callable, now: tuple) -> tuple[tuple, tuple[chex.Array, chex.Array]]:
    """Plays one token of every lane, elementwise.

    It reads all tables for the step behind it, and does arithmetic on two packed numbers per lane.

    Args:
      rules: of the episodes.
      read: `read(leg, place)`, what the tables of `Legs` say: numbers of a leg, and words of a leg
        that hold a place.
      now: numbers of the legs, states (place, whether the token is terminal, whether the lane is
        over, time), and what `read` gave for them.

    Returns:
      the next `now`; tokens (see `play` for their bits) and the numbers of their legs, int32.
    """
    leg, state, (facts, *seed), words = now
    facts = unpack_facts(facts)
    place, terminal = state & 1023, state >> 10 & 1 == 1
    over, time = state >> 11 & 1 == 1, state >> 12
    sets = [action_words.actions_at(word, place) for word in words]
    coin, pick = _random_words(seed, time)
    expert, mask = sets[0], sets[0]
    if rules.epsilon > 0.0:
        mask = jnp.where(_uniform(coin) < rules.epsilon, sets[1], mask)
    action = shortest_path.choose_action(mask, pick)
    # Each action of the expert leaves the cell, so that without noise it is all one has to ask.
    moves = (sets[-1] >> action & 1 == 1) & ~terminal
    offsets = action_words.offsets(rules.grid_size)
    offset = sum(jnp.where(action == a, by, 0) for a, by in enumerate(offsets))
    next_place = jnp.where(moves, place + offset, place)
    reached = moves & (next_place == facts.goal)
    completed = terminal | (reached & facts.ends_task)
    failed = ~completed & ((time + 1 >= rules.time_limit) | (~terminal & (expert == 0)))
    succeeded = terminal if rules.include_terminal else completed
    status = jnp.where(succeeded, SUCCESS, jnp.where(failed, FAILURE, RUNNING))
    status = jnp.where(over, RUNNING, status)
    token = place | next_place << 10 | jnp.where(terminal, 0, action) << 20
    token |= terminal.astype(jnp.int32) << 22 | status << 23
    ended = status != RUNNING
    further = (reached & ~facts.ends_task).astype(jnp.int32)
    new_leg = leg + jnp.where(ended, facts.to_next, further)
    new_place = jnp.where(ended, facts.next_start, next_place)
    new_terminal = (completed & ~ended).astype(jnp.int32)
    new_over = (over | (ended & facts.ends_lane)).astype(jnp.int32)
    new_time = jnp.where(ended, 0, time + 1)
    new_state = new_place | new_terminal << 10 | new_over << 11 | new_time << 12
    return (new_leg, new_state, *read(new_leg, new_place)), (token, leg)


def _scan(
    one_step: Callable,
    by_leg: tuple[chex.Array, ...],
    by_word: tuple[chex.Array, ...],
    place: chex.Array,
    num_tokens: int,
) -> tuple[chex.Array, chex.Array]:
    """As `rollout_kernel.run`, with tables of all lanes in one axis."""
    legs_per_lane = by_leg[0].size // place.size
    num_words = by_word[0].size // by_leg[0].size

    def read(leg, place):
        word = leg * num_words + (place >> 3)
        return [_at(table, leg) for table in by_leg], [_at(table, word) for table in by_word]

    # Made from the lanes, so that under `jax.shard_map` they too differ between devices.
    lane = jnp.zeros_like(place) + jnp.arange(place.size, dtype=jnp.int32)
    first_leg = lane * legs_per_lane
    start = (first_leg, place, *read(first_leg, place))
    _, (token, leg) = jax.lax.scan(lambda now, _: one_step(read, now), start, length=num_tokens)
    return token, leg - first_leg


def _at(table: chex.Array, index: chex.Array) -> chex.Array:
    """Elements of `table (N,)`; all indices are within it."""
    return table.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _random_words(seed: list[chex.Array], time: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Two random uint32 for one step: a Threefry block of the episode's key and the step's time.

    The words of `jax.random.fold_in(key, time)`.
    """
    words = threefry2x32_p.bind(*seed, jnp.zeros_like(seed[0]), time.astype(jnp.uint32))
    return tuple(words)


def _uniform(word: chex.Array) -> chex.Array:
    """Uniform float32 in [0, 1) from uint32."""
    return (word >> 8).astype(jnp.int32).astype(jnp.float32) * (2.0**-24)
