"""The objective of internal RL and of its raw-action baseline (method §6).

PPO's clipped surrogate (Schulman et al. 2017, equation 7) without critic and without entropy bonus,
or equation 10 of the paper as it is printed (`OBJECTIVES`).
Credit goes to whole trajectories: every decision of trajectory τ has the advantage

    A(τ) = (R(τ) - mean_batch R) / (std_batch R + 1e-3).

The loss is a mean over all decisions of the batch. The number of decisions in a batch is the same
for every decision, so the gradient points where the policy gradient `mean_τ Σ_t A(τ) ∇ ln π`
points; a mean within each trajectory first would weigh the decisions of short ones more.
"""

import chex
import jax.numpy as jnp
from flax import struct

from internal_rl.training.mesh import mean, share_number, total

STD_OFFSET = 1e-3

OBJECTIVES = ("ppo", "as_printed")
"""How the ratio ρ is clipped: `min(ρ A, clip(ρ) A)` as in PPO, or `min(ρ, clip(ρ)) A` as equation
10 prints it, which sets no lower bound to the ratio of decisions of negative advantage."""


@struct.dataclass
class ObjectiveSums:
    """Sums over decisions; sums of several parts of a batch add up to the sums of the batch.

    Attributes:
      loss: `()` negative clipped surrogate.
      clipped: `()` number of decisions whose ratio left the trust region.
      divergence: `()` estimate of `KL(old || new)` in nats, `ratio - 1 - ln ratio` (k3,
        Schulman 2020).
      decisions: `()` number of decisions.
    """

    loss: chex.Array
    clipped: chex.Array
    divergence: chex.Array
    decisions: chex.Array


def trajectory_advantage(returns: chex.Array) -> chex.Array:
    """Advantage shared by all decisions of each trajectory: `(B,)` returns to `(B,)`.

    Of several devices each has as many trajectories; mean and deviation are those of all. Equal
    returns have advantages of exactly 0, so that nothing is learnt from them: what rounding leaves
    of a mean would, divided by the small offset, pass for a lesson.
    """
    chex.assert_rank(returns, 1)
    returns = returns - total(jnp.where(share_number() == 0, returns[0], 0.0))
    centred = returns - mean(jnp.mean(returns))
    deviation = jnp.sqrt(mean(jnp.mean(jnp.square(centred))))
    return centred / (deviation + STD_OFFSET)


def clipped_surrogate(
    log_prob: chex.Array,
    old_log_prob: chex.Array,
    advantage: chex.Array,
    mask: chex.Array,
    clip: float,
    *,
    objective: str = "ppo",
) -> ObjectiveSums:
    """Sums the negative clipped surrogate over the decisions in `mask`.

    Args:
      log_prob: `(B, K)` log-probability of each decision under the current policy, nats.
      old_log_prob: `(B, K)` the same under the policy that acted.
      advantage: `(B, K)` advantage of the trajectory that each decision belongs to.
      mask: `(B, K)` bool, entries that hold a decision.
      clip: ε, half-width of the trust region of the ratio ρ.
      objective: one of `OBJECTIVES`.
    """
    chex.assert_equal_shape((log_prob, old_log_prob, advantage, mask))
    log_ratio = jnp.where(mask, log_prob - old_log_prob, 0.0)
    ratio = jnp.exp(log_ratio)
    advantage = jnp.where(mask, advantage, 0.0)
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    if objective == "ppo":
        surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
    else:
        surrogate = jnp.minimum(ratio, clipped) * advantage
    return ObjectiveSums(
        loss=-jnp.sum(surrogate),
        clipped=jnp.sum(jnp.abs(ratio - 1) > clip).astype(jnp.float32),
        divergence=jnp.sum(ratio - 1 - log_ratio),
        decisions=jnp.sum(mask).astype(jnp.float32),
    )
