"""Why acting in code space helps: variance of two policy-gradient estimates (method §6).

Both estimate the gradient of the expected return with respect to the same parameter, the bias `b`
of the policy's mean (`z_k = mean_k + b + std_k * noise_k` at decision k), from the same rollouts:

- *code actions*: the codes are the random actions; a decision contributes
  `A d ln pi(z_k) / db = A (z_k - mean_k) / std_k^2`.
- *raw actions*: given the noise, the codes are a function of `b` (reparametrised) and the base
  model's actions are the random ones; a raw step contributes
  `A d ln p(a_t | o_{1:t}, z_{1:t}) / db`, differentiated through controller and base model.

`A` is the trajectory's advantage. The first sum has a term per switch, the second one per raw step.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.models.heads import action_log_prob
from internal_rl.rl.internal_env import InternalEnv, Rollout, decision_steps
from internal_rl.rl.objective import trajectory_advantage

# Episodes whose scores are computed at a time: full-rank controllers are matrices of every step.
_EPISODES_AT_A_TIME = 16


@struct.dataclass
class GradientVariance:
    """Total variance (trace of the covariance) of one episode's gradient estimate.

    Entry `n - 1` uses the first `n` raw steps of the episodes that last at least `n`; it is NaN
    where there are fewer than two of them.

    Attributes:
      code: `(T,)` with code actions.
      raw: `(T,)` with raw actions.
      code_score: `(T,)` with code actions and `A = 1`: the variance without the return's share.
      raw_score: `(T,)` with raw actions and `A = 1`.
      episodes: `(T,)` episodes used.
    """

    code: chex.Array
    raw: chex.Array
    code_score: chex.Array
    raw_score: chex.Array
    episodes: chex.Array


def code_scores(env: InternalEnv, params: dict, rollout: Rollout) -> chex.Array:
    """`d ln pi(z_k) / db` at the raw steps that made decision k, zero elsewhere, `(B, T, n_z)`."""
    steps = decision_steps(rollout.ask)
    episode = jnp.arange(steps.shape[0])[:, None]
    mask = jnp.arange(steps.shape[1]) < rollout.switches[:, None]
    mean, log_std = env.policy.apply(params["policy"], rollout.residual[episode, steps], mask)
    decision = jnp.maximum(jnp.cumsum(rollout.ask, axis=1) - 1, 0)
    mean, log_std = mean[episode, decision], log_std[episode, decision]
    score = (rollout.code - mean) * jnp.exp(-2 * log_std)
    return jnp.where(rollout.ask[..., None], score, 0.0)


def raw_scores(env: InternalEnv, params: dict, rollout: Rollout) -> chex.Array:
    """`d ln p(a_t | o_{1:t}, z_{1:t}) / db` of every raw step, zero after the end, `(B, T, n_z)`.

    Forward-mode derivatives, one per code dimension, give all steps at once. The switches of the
    rollout are kept: they are events, not functions of `b`.
    """
    segment = jnp.where(rollout.active, 0, -1)

    def log_probs(bias):
        controlled = env.metacontroller.apply(
            params["metacontroller"], rollout.residual, rollout.code + bias, method="control"
        )
        output = env.base.apply(params["base"], controlled, segment, env.layer, method="upper")
        return action_log_prob(env.base.action_head, output.action, rollout.action)

    bias = jnp.zeros(rollout.code.shape[-1])
    tangents = jax.lax.map(
        lambda direction: jax.jvp(log_probs, (bias,), (direction,))[1], jnp.eye(len(bias))
    )
    return jnp.where(rollout.active[..., None], jnp.moveaxis(tangents, 0, -1), 0.0)


def _total_variance(gradient: chex.Array, chosen: chex.Array) -> chex.Array:
    """Trace of the covariance over chosen episodes: `(B, T, n_z)` and `(B, T)` to `(T,)`."""
    count = jnp.sum(chosen, axis=0)
    weight = chosen[..., None] / jnp.maximum(count, 1)[:, None]
    centred = gradient - jnp.sum(weight * gradient, axis=0)
    variance = jnp.sum(weight * centred**2, axis=(0, 2)) * count / jnp.maximum(count - 1, 1)
    return jnp.where(count >= 2, variance, jnp.nan)


def gradient_variance(env: InternalEnv, params: dict, rollout: Rollout) -> GradientVariance:
    """Variance of both estimates as a function of the number of raw steps.

    Args:
      env: what the episodes were run in.
      params: `{"base": ..., "metacontroller": ..., "policy": ...}`.
      rollout: `B` episodes of this policy with sampled codes and actions. If all returns are equal
        the advantage is zero and only the two `_score` curves say anything.
    """
    advantage = trajectory_advantage(rollout.returns)[:, None, None]

    def scores(episode):
        alone = jax.tree.map(lambda leaf: leaf[None], episode)
        return code_scores(env, params, alone)[0], raw_scores(env, params, alone)[0]

    code, raw = (
        jnp.cumsum(score, axis=1)
        for score in jax.lax.map(scores, rollout, batch_size=_EPISODES_AT_A_TIME)
    )
    return GradientVariance(
        code=_total_variance(advantage * code, rollout.active),
        raw=_total_variance(advantage * raw, rollout.active),
        code_score=_total_variance(code, rollout.active),
        raw_score=_total_variance(raw, rollout.active),
        episodes=jnp.sum(rollout.active, axis=0),
    )
