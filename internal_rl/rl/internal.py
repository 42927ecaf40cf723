"""Internal RL: trains a policy over controller codes, everything else stays frozen (method §6)."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.models.heads import gaussian_log_prob
from internal_rl.rl.internal_env import InternalEnv, Rollout, decision_steps
from internal_rl.rl.objective import ObjectiveSums, clipped_surrogate, trajectory_advantage
from internal_rl.rl.update import UpdateConfig, update_policy


@struct.dataclass
class InternalState:
    """Everything that changes during internal RL.

    Attributes:
      params: parameters of the code policy.
      optimiser_state: state of the optimiser.
      key: random key.
      episodes: `()` int32 episodes run so far.
    """

    params: Any
    optimiser_state: optax.OptState
    key: chex.PRNGKey
    episodes: chex.Array


@dataclasses.dataclass(frozen=True)
class InternalTrainer:
    """One update is one batch of episodes and a few gradient steps on it.

    Attributes:
      env: world, frozen models and policy.
      optimiser: gradient transformation.
      task: `(K,)` int32 colours of the task, padded with -1.
      num_episodes: episodes per update.
      update_config: settings of the policy update.
    """

    env: InternalEnv
    optimiser: optax.GradientTransformation
    task: chex.Array
    num_episodes: int = 1024
    update_config: UpdateConfig = UpdateConfig()

    def init(self, key: chex.PRNGKey) -> InternalState:
        """Fresh policy and optimiser."""
        params_key, key = jax.random.split(key)
        residual = jnp.zeros((1, 1, self.env.base.width))
        params = self.env.policy.init(params_key, residual, jnp.ones((1, 1), bool))
        return InternalState(params, self.optimiser.init(params), key, jnp.int32(0))

    def update(
        self, state: InternalState, frozen: dict
    ) -> tuple[InternalState, dict[str, chex.Array]]:
        """One batch of episodes and the policy update on it.

        Args:
          state: current state.
          frozen: `{"base": ..., "metacontroller": ...}` parameters.

        Returns:
          New state and scalar metrics: those of `rollout_metrics` and `update.update_policy`.
        """
        rollout_key, update_key, key = jax.random.split(state.key, 3)
        rollout = self.env.rollout(
            {**frozen, "policy": state.params}, rollout_key, self.task, self.num_episodes
        )
        params, optimiser_state, metrics = update_policy(
            functools.partial(self._part_sums, rollout, decision_steps(rollout.ask)),
            self.optimiser,
            self.update_config,
            state.params,
            state.optimiser_state,
            update_key,
            trajectory_advantage(rollout.returns),
            rollout.switches,
            rollout.ask.shape[1],
        )
        state = InternalState(params, optimiser_state, key, state.episodes + self.num_episodes)
        return state, {**rollout_metrics(rollout), **metrics}

    def evaluate(
        self,
        params: chex.ArrayTree,
        frozen: dict,
        key: chex.PRNGKey,
        num_episodes: int,
        deterministic: chex.Numeric = False,
    ) -> dict[str, chex.Array]:
        """Metrics of `num_episodes` episodes of the policy `params`, see `rollout_metrics`."""
        rollout = self.env.rollout(
            {**frozen, "policy": params}, key, self.task, num_episodes, deterministic
        )
        return rollout_metrics(rollout)

    def _part_sums(
        self, rollout: Rollout, steps, params, advantage, episode, index, segment
    ) -> ObjectiveSums:
        """Objective over packed decisions; the last three arguments are `(rows, S)`."""
        step = steps[episode, index]
        mean, log_std = self.env.policy.apply(params, rollout.residual[episode, step], segment)
        return clipped_surrogate(
            gaussian_log_prob(mean, log_std, rollout.code[episode, step]),
            rollout.log_prob[episode, step],
            advantage[episode],
            segment >= 0,
            self.update_config.clip,
        )


def rollout_metrics(rollout: Rollout) -> dict[str, chex.Array]:
    """Means over a batch of episodes.

    Returns:
      `success` and `return` per episode, `episode_length` in raw steps, `switches` per episode (the
      first one included), `progress` in colours, `beta` per raw step, and `reward_per_decision`.
    """
    decisions = jnp.sum(rollout.switches)
    raw_steps = jnp.sum(rollout.active)
    return {
        "success": jnp.mean(rollout.success.astype(jnp.float32)),
        "return": jnp.mean(rollout.returns),
        "episode_length": jnp.mean(rollout.length.astype(jnp.float32)),
        "switches": jnp.mean(rollout.switches.astype(jnp.float32)),
        "progress": jnp.mean(jnp.max(rollout.progress * rollout.active, axis=1) * 1.0),
        "beta": jnp.sum(rollout.beta * rollout.active) / raw_steps,
        "reward_per_decision": jnp.sum(rollout.returns) / decisions,
    }
