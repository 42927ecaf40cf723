"""Plays expert episodes of a grid world back to back, by integer look-ups."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.experts import shortest_path

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
    episodes: Episodes,
    tasks: chex.Array,
    table: shortest_path.ExpertTable,
    table_index: chex.Array,
    *,
    grid_size: int,
    time_limit: int,
    epsilon: float,
    include_terminal: bool,
    num_tokens: int,
) -> Steps:
    """Plays the episodes of each lane one behind the other.

    One scan over tokens moves all lanes at once; a lane that has ended an episode goes on with its
    next one in the following token, so that no time is spent on waiting.

    Args:
      episodes: starts of the episodes, `(B, M)`.
      tasks: `(N, K)` int32, padded with -1.
      table: expert tables with one leading axis.
      table_index: `(B, M)` int32, which table belongs to an episode.
      grid_size: side `G` of the grid.
      time_limit: an episode that takes this many steps without success has failed, as has one whose
        goal no path leads to.
      epsilon: probability of a uniformly random harmless action.
      include_terminal: whether a successful episode ends with a token for its last observation.
      num_tokens: `S`.

    Returns:
      `Steps`, `(B, S)`.
    """
    num_lanes, num_episodes = episodes.start_cell.shape
    lanes = jnp.arange(num_lanes, dtype=jnp.int32)
    goals = tasks[episodes.task_index]
    goal_cells = jnp.take_along_axis(episodes.objects, jnp.maximum(goals, 0), axis=2)
    lengths = jnp.sum(goals >= 0, axis=2, dtype=jnp.int32)
    offsets = jnp.array([-grid_size, grid_size, -1, 1], jnp.int32)

    def step(carry, _):
        episode, cell, progress, time, terminal = carry
        current = jnp.minimum(episode, num_episodes - 1)
        slot = jnp.minimum(progress, lengths[lanes, current] - 1)
        goal = goals[lanes, current, slot]
        place = table_index[lanes, current]
        words = jax.vmap(_random_words)(episodes.seed[lanes, current], time)
        expert = table.expert[place, goal, cell]
        mask = expert
        if epsilon > 0.0:
            noisy = _uniform(words[:, 0]) < epsilon
            mask = jnp.where(noisy, table.harmless[place, goal, cell], mask)
        action = shortest_path.choose_action(mask, words[:, 1])
        moves = (table.moves[place, cell] >> action.astype(jnp.uint8)) & 1
        next_cell = jnp.where((moves == 1) & ~terminal, cell + offsets[action], cell)
        reached = (next_cell == goal_cells[lanes, current, slot]) & (next_cell != cell)
        new_progress = progress + reached
        completed = new_progress == lengths[lanes, current]
        failed = ~completed & ((time + 1 >= time_limit) | (~terminal & (expert == 0)))
        succeeded = terminal if include_terminal else completed
        status = jnp.where(succeeded, SUCCESS, jnp.where(failed, FAILURE, RUNNING))
        status = jnp.where(episode < num_episodes, status, RUNNING)
        token = Steps(
            cell=cell,
            next_cell=next_cell,
            action=jnp.where(terminal, 0, action),
            progress=progress,
            episode=current,
            terminal=terminal,
            status=status,
        )
        ended = status != RUNNING
        episode = episode + ended
        start_cell = episodes.start_cell[lanes, jnp.minimum(episode, num_episodes - 1)]
        carry = (
            episode,
            jnp.where(ended, start_cell, next_cell),
            jnp.where(ended, 0, new_progress),
            jnp.where(ended, 0, time + 1),
            completed & ~ended,
        )
        return carry, token

    start_cell = episodes.start_cell[:, 0]
    # Made from the lanes, so that under `jax.shard_map` they too differ between devices.
    zeros = jnp.zeros_like(start_cell)
    carry = (zeros, start_cell, zeros, zeros, zeros.astype(bool))
    _, steps = jax.lax.scan(step, carry, length=num_tokens)
    return jax.tree.map(jnp.transpose, steps)


def _random_words(seed: chex.Array, time: chex.Array) -> chex.Array:
    """Two random uint32 for one step: a Threefry block of the episode's key and the step's time."""
    return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(seed), time))


def _uniform(word: chex.Array) -> chex.Array:
    """Uniform float32 in [0, 1) from uint32."""
    return (word >> 8).astype(jnp.float32) * (2.0**-24)
