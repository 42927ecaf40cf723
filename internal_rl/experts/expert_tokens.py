"""Tokens of expert trajectories: how what was played becomes rows of successful episodes."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.backend import on_cpu
from internal_rl.experts import rollout
from internal_rl.experts.rollout import Episodes, Steps


@struct.dataclass
class ExpertTokens:
    """Packed expert trajectories as integers, `(B, S)` each; the one-hots are made from these.

    Attributes:
      cell: cell of the agent at the token.
      next_cell: cell after the action.
      action: int32; 0 at terminal and padding tokens.
      mask: bool, the token carries a next-action target.
      progress: number of colours visited before the action; at terminal tokens all of them.
      goal: colour the expert walks to, -1 at padding; at terminal tokens the last one.
      subgoal: id of the subgoal, -1 at padding; at terminal tokens the last one.
      task_index: row of the stream's tasks.
      layout_index: index into the pool of layouts, -1 without a pool.
      episode: index into `episodes` of the trajectory, 0 at padding.
      segment: index of the trajectory in its row, -1 at padding.
      episodes: the `Episodes` that the rows were made from, `(B, M)`.
    """

    cell: chex.Array
    next_cell: chex.Array
    action: chex.Array
    mask: chex.Array
    progress: chex.Array
    goal: chex.Array
    subgoal: chex.Array
    task_index: chex.Array
    layout_index: chex.Array
    episode: chex.Array
    segment: chex.Array
    episodes: Episodes


def _packer(kept: chex.Array) -> Callable[[chex.Array, int], chex.Array]:
    """How values `(B, S)` of the `kept` tokens are moved to the front, with padding behind them.

    A scatter on CPUs. It takes minutes to compile for a TPU: there the token that comes to each
    place is looked up, which is the first one up to which more are kept than lie before the place.
    """
    num_tokens = kept.shape[1]
    kept_up_to = jnp.cumsum(kept, axis=1, dtype=jnp.int32)
    if on_cpu():
        rows = jnp.arange(len(kept), dtype=jnp.int32)[:, None]
        place = jnp.where(kept, kept_up_to - 1, num_tokens)
        return lambda values, padding: (
            jnp.full_like(values, padding).at[rows, place].set(values, mode="drop")
        )
    places = jnp.arange(num_tokens, dtype=jnp.int32)
    source = jnp.sum(kept_up_to[:, None] <= places[:, None], axis=2, dtype=jnp.int32)
    filled = source < num_tokens
    source = jnp.minimum(source, num_tokens - 1)

    def look_up(values, padding):
        packed = jnp.take_along_axis(values, source, axis=1)
        return jnp.where(filled, packed, jnp.asarray(padding, values.dtype))

    return look_up


def pack_successes(
    episodes: Episodes, steps: Steps, tasks: np.ndarray, subgoals: np.ndarray
) -> ExpertTokens:
    """Keeps the tokens of successful episodes and moves them to the front of their row.

    Args:
      episodes: starts of the episodes, `(B, M)`.
      steps: what was played, `(B, S)`.
      tasks: `(N, K)` int32, padded with -1.
      subgoals: `(N, K)` int32 id of the subgoal that each colour of a task belongs to.
    """
    num_tokens = steps.status.shape[1]
    order = jnp.arange(num_tokens, dtype=jnp.int32) * 3
    # Status of the episode a token belongs to: that of the next token with a status.
    ends = jnp.where(steps.status != rollout.RUNNING, order + steps.status, 3 * num_tokens)
    kept = jax.lax.cummin(ends, axis=1, reverse=True) % 3 == rollout.SUCCESS
    success = steps.status == rollout.SUCCESS
    segment = jnp.cumsum(success, axis=1, dtype=jnp.int32) - success
    pack = _packer(kept)
    task_index = jnp.take_along_axis(episodes.task_index, steps.episode, axis=1)
    last = jnp.asarray((tasks >= 0).sum(axis=1), jnp.int32)[task_index] - 1
    slot = jnp.minimum(steps.progress, last)
    layout_index = jnp.take_along_axis(episodes.layout_index, steps.episode, axis=1)
    return ExpertTokens(
        cell=pack(steps.cell, 0),
        next_cell=pack(steps.next_cell, 0),
        action=pack(steps.action, 0),
        mask=pack(~steps.terminal, False),
        progress=pack(steps.progress, 0),
        goal=pack(jnp.asarray(tasks)[task_index, slot], -1),
        subgoal=pack(jnp.asarray(subgoals)[task_index, slot], -1),
        task_index=pack(task_index, 0),
        layout_index=pack(layout_index, -1),
        episode=pack(steps.episode, 0),
        segment=pack(segment, -1),
        episodes=episodes,
    )
