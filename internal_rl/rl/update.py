"""One policy update: a few passes of gradient steps over a batch of episodes."""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

from internal_rl.batching import largest
from internal_rl.rl.objective import ObjectiveSums
from internal_rl.rl.packing import sum_over_rows

_METRICS = ("loss", "clip_fraction", "divergence", "gradient_norm")


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """Settings the paper leaves open; the defaults are PPO's customary ones.

    Attributes:
      clip: half-width ε of the trust region of the probability ratio.
      num_epochs: passes over the batch.
      num_minibatches: gradient steps per pass; each uses another part of the episodes.
      tokens: decisions per part when a gradient is accumulated, padding included; no influence on
        the result, bounds the memory.
    """

    clip: float = 0.2
    num_epochs: int = 4
    num_minibatches: int = 1
    tokens: int = 1024

    def __post_init__(self):
        if not self.clip > 0:
            raise ValueError(f"clip: got {self.clip}, allowed: above 0")
        for name in ("num_epochs", "num_minibatches", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 1 or more")


def update_policy(
    part_sums: Callable[..., ObjectiveSums],
    optimiser: optax.GradientTransformation,
    config: UpdateConfig,
    params: chex.ArrayTree,
    optimiser_state: optax.OptState,
    key: chex.PRNGKey,
    advantage: chex.Array,
    num_decisions: chex.Array,
    max_decisions: int,
) -> tuple[chex.ArrayTree, optax.OptState, dict[str, chex.Array]]:
    """Takes `num_epochs * num_minibatches` gradient steps.

    A batch whose advantages are all zero, as without a success, leaves parameters and optimiser as
    they are, and its gradient is not computed. Otherwise momentum would go on with what the last
    success taught, and Adam, whose second moment forgets meanwhile, would take far too large a step
    at the next one.

    Args:
      part_sums: `part_sums(params, advantage, episode, index, segment)` sums the objective over the
        decisions `index` of the episodes `episode`, packed as in `packing.row_contents`.
      optimiser: gradient transformation.
      config: settings.
      params: parameters of the policy.
      optimiser_state: state of the optimiser.
      key: draws the minibatches.
      advantage: `(B,)` advantage of each episode.
      num_decisions: `(B,)` int32 decisions in each episode.
      max_decisions: upper bound of `num_decisions` (static).

    Returns:
      New parameters, new optimiser state, and metrics averaged over the gradient steps: `loss`,
      `clip_fraction`, `divergence` (of the acting policy from the current one, nats) and
      `gradient_norm`; all zero where there is nothing to learn.
    """
    num_episodes = num_decisions.shape[0]
    rows = min(max(config.tokens // max_decisions, 1), num_episodes)
    if num_episodes % config.num_minibatches:
        raise ValueError(
            f"num_minibatches: got {config.num_minibatches}, allowed: divisors of {num_episodes}"
        )

    def gradient_step(carry, minibatch):
        params, optimiser_state = carry
        lengths = jnp.where(minibatch, num_decisions, 0)

        def gradient_of_part(*contents):
            def loss(params):
                sums = part_sums(params, advantage, *contents)
                return sums.loss, sums

            return jax.grad(loss, has_aux=True)(params)

        gradient, sums = sum_over_rows(gradient_of_part, lengths, max_decisions, rows)
        gradient, sums = jax.tree.map(lambda x: x / sums.decisions, (gradient, sums))
        norm = optax.global_norm(gradient)
        updates, next_state = optimiser.update(gradient, optimiser_state, params)
        moved = optax.apply_updates(params, updates), next_state
        # For a copy under `vmap` with nothing to learn beside others that have. Not `norm > 0`: a
        # gradient that is not a number has to show in the parameters.
        carry = jax.tree.map(lambda new, old: jnp.where(norm == 0, old, new), moved, carry)
        metrics = sums.loss, sums.clipped, sums.divergence, norm
        return carry, dict(zip(_METRICS, metrics, strict=True))

    def epoch(carry, key):
        group = jax.random.permutation(key, num_episodes) % config.num_minibatches
        minibatches = group == jnp.arange(config.num_minibatches)[:, None]
        return jax.lax.scan(gradient_step, carry, minibatches)

    def learn():
        carry, metrics = jax.lax.scan(
            epoch, (params, optimiser_state), jax.random.split(key, config.num_epochs)
        )
        return *carry, jax.tree.map(jnp.mean, metrics)

    def nothing_to_learn():
        return params, optimiser_state, dict.fromkeys(_METRICS, jnp.zeros(()))

    return jax.lax.cond(largest(jnp.any(advantage != 0)), learn, nothing_to_learn)
