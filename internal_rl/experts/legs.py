"""Legs: what the expert looks up on the way to one colour of an episode's task.

Legs are numbered over lanes, episodes and slots of the task, so that the next one of an episode has
the next number. All tables are one-dimensional, so that an index into them is a single number.
"""

import chex
import jax.numpy as jnp
from flax import struct

from internal_rl.experts import action_words, shortest_path


@struct.dataclass
class Legs:
    """Tables of `B * M * K` legs, uint32.

    Attributes:
      facts: `(B * M * K,)` what there is to know beside the actions, see `Facts`.
      seed: key data of the episode, two arrays `(B * M * K,)`.
      actions: `(B * M * K * V,)` words of `action_words`, `V` for a leg: those of the expert and,
        where it is noisy, of what is harmless and of what leaves the cell.
    """

    facts: chex.Array
    seed: tuple[chex.Array, chex.Array]
    actions: tuple[chex.Array, ...]


@struct.dataclass
class Facts:
    """What a step has to know about a leg beside its actions, `(B,)` each.

    Attributes:
      goal: int32 place of the colour.
      next_start: int32 place where the next episode of the lane starts.
      to_next: int32 what to add to the number of the leg to get to the next episode; 0 in the last.
      ends_task: bool, no colour is left behind this one.
      ends_lane: bool, no episode is left behind this one.
    """

    goal: chex.Array
    next_start: chex.Array
    to_next: chex.Array
    ends_task: chex.Array
    ends_lane: chex.Array


def solved_actions(
    objects: chex.Array, walls: chex.Array, goal_cells: chex.Array, grid_size: int, noisy: bool
) -> tuple[chex.Array, ...]:
    """The actions of `Legs` with `random` ties.

    Args:
      objects: `(B, M, O)` int32 cells of the colours.
      walls: `(B, M, W)` int32 cells of the walls.
      goal_cells: `(B, M, K)` int32.
      grid_size: side `G` of the grid.
      noisy: whether the expert is.
    """
    found = shortest_path.expert_boards(objects, walls, goal_cells, grid_size)
    expert = action_words.from_boards(found.expert, grid_size)
    if not noisy:
        return (expert.reshape(-1),)
    harmless = action_words.from_boards(found.harmless, grid_size)
    moves = action_words.from_boards(found.moves, grid_size)[:, :, None]
    return tuple(x.reshape(-1) for x in jnp.broadcast_arrays(expert, harmless, moves))


def looked_up_actions(
    words: shortest_path.ExpertTable, layout: chex.Array, goals: chex.Array, noisy: bool
) -> tuple[chex.Array, ...]:
    """The actions of `Legs` from tables of layouts for every colour.

    Args:
      words: with words of `action_words` in place of the masks.
      layout: `(B, M)` int32, which table belongs to an episode.
      goals: `(B, M, K)` int32 colours.
      noisy: whether the expert is.
    """
    num_colours, num_words = words.expert.shape[1:]
    # One index for layout and colour: on a CPU three times as fast as two of them.
    place = (layout[..., None] * num_colours + goals).reshape(-1)
    expert = words.expert.reshape(-1, num_words)[place]
    if not noisy:
        return (expert.reshape(-1),)
    harmless = words.harmless.reshape(-1, num_words)[place]
    moves = jnp.repeat(words.moves[layout.reshape(-1)], goals.shape[-1], axis=0)
    return expert.reshape(-1), harmless.reshape(-1), moves.reshape(-1)


def pack_facts(
    goal_cells: chex.Array, start_cell: chex.Array, num_goals: chex.Array, grid_size: int
) -> chex.Array:
    """Facts of all legs in one number each.

    Args:
      goal_cells: `(B, M, K)` int32.
      start_cell: `(B, M)` int32.
      num_goals: `(B, M)` int32 colours to visit.
      grid_size: side `G` of the grid.

    Returns:
      `(B * M * K,)` uint32.
    """
    num_episodes, num_slots = goal_cells.shape[1:]
    slot = jnp.arange(num_slots, dtype=jnp.int32)
    start = action_words.place_of(start_cell, grid_size)
    next_start = jnp.concatenate([start[:, 1:], start[:, -1:]], axis=1)[..., None]
    ends_lane = (jnp.arange(num_episodes, dtype=jnp.int32) == num_episodes - 1)[:, None]
    to_next = jnp.where(ends_lane, 0, num_slots - slot)
    ends_task = slot == num_goals[..., None] - 1
    facts = action_words.place_of(goal_cells, grid_size) | next_start << 10
    facts = facts.astype(jnp.uint32) | to_next.astype(jnp.uint32) << 20
    facts |= ends_task.astype(jnp.uint32) << 30 | ends_lane.astype(jnp.uint32) << 31
    return facts.reshape(-1)


def unpack_facts(facts: chex.Array) -> Facts:
    """The reverse of `pack_facts`."""

    def bits(first, last):
        return (facts >> first & ((1 << last - first) - 1)).astype(jnp.int32)

    return Facts(
        goal=bits(0, 10),
        next_start=bits(10, 20),
        to_next=bits(20, 30),
        ends_task=bits(30, 31) == 1,
        ends_lane=bits(31, 32) == 1,
    )
