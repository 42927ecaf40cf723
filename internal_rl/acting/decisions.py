"""Episodes on the abstract timescale, where a step is a decision of the policy (method §6)."""

import chex
import jax.numpy as jnp
from flax import struct

from internal_rl.acting.episodes import Episodes


@struct.dataclass
class Decisions:
    """`B` episodes of up to `K` decisions.

    Attributes:
      residual: `(B, K, n_e)` residual that the policy read.
      code: `(B, K, n_z)` code that it picked.
      log_prob: `(B, K)` log-probability of that code, nats.
      reward: `(B, K)` rewards summed from this decision to the next one or the end.
      duration: `(B, K)` int32 raw steps during which the code was in force.
      mask: `(B, K)` bool, True for the leading entries that hold a decision.
    """

    residual: chex.Array
    code: chex.Array
    log_prob: chex.Array
    reward: chex.Array
    duration: chex.Array
    mask: chex.Array


def num_decisions(episodes: Episodes) -> chex.Array:
    """`(B,)` int32 decisions of each episode, the one at the first step included."""
    return jnp.sum(episodes.record["ask"], axis=1)


def decision_steps(ask: chex.Array) -> chex.Array:
    """`(B, T)` raw step of each episode's k-th decision; arbitrary beyond the last decision.

    Args:
      ask: `(B, T)` bool, a new code was asked for at this step.
    """
    return jnp.argsort(~ask, axis=1, stable=True)


def abstract_sequence(episodes: Episodes, max_decisions: int) -> Decisions:
    """Compresses raw steps to the first `max_decisions` decisions of each episode.

    Args:
      episodes: as `CodePolicyControl` records them.
      max_decisions: `K`.
    """
    record = episodes.record
    steps = decision_steps(record["ask"])[:, :max_decisions]
    episode = jnp.arange(steps.shape[0])[:, None]
    index = jnp.maximum(jnp.cumsum(record["ask"], axis=1) - 1, 0)
    reward = jnp.zeros(steps.shape, episodes.reward.dtype)
    duration = jnp.zeros(steps.shape, jnp.int32)
    return Decisions(
        residual=record["residual"][episode, steps],
        code=record["code"][episode, steps],
        log_prob=record["log_prob"][episode, steps],
        reward=reward.at[episode, index].add(episodes.reward * episodes.active, mode="drop"),
        duration=duration.at[episode, index].add(episodes.active, mode="drop"),
        mask=jnp.arange(max_decisions) < num_decisions(episodes)[:, None],
    )
