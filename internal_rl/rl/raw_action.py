"""Raw-action RL, the baseline: finetunes the base model itself on its own actions (method §6).

Objective and update are those of internal RL; a decision is a raw step. The log-probabilities of
the acting model come from its one-step form, those of the update from its parallel form.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.envs.slots import Slots, choose_num_slots, run_episodes
from internal_rl.models.base_model import BaseModel
from internal_rl.models.heads import action_log_prob
from internal_rl.rl.internal_env import act, episode_keys, reset_worlds
from internal_rl.rl.objective import ObjectiveSums, clipped_surrogate, trajectory_advantage
from internal_rl.rl.update import UpdateConfig, update_policy


@struct.dataclass
class RawRollout:
    """`B` episodes of the base model acting on its own; see `internal_env.Rollout`.

    Attributes:
      observation: `(B, T, d)` observation `o_t`.
      action: `(B, T)` or `(B, T, d_a)` action.
      log_prob: `(B, T)` log-probability of the action when it was drawn, nats.
      reward: `(B, T)` reward that followed.
      progress: `(B, T)` int32 colours of the task visited after this step.
      active: `(B, T)` bool, the episode was running at this step.
    """

    observation: chex.Array
    action: chex.Array
    log_prob: chex.Array
    reward: chex.Array
    progress: chex.Array
    active: chex.Array

    @property
    def returns(self) -> chex.Array:
        """`(B,)` sum of rewards."""
        return jnp.sum(self.reward, axis=1)

    @property
    def length(self) -> chex.Array:
        """`(B,)` int32 raw steps."""
        return jnp.sum(self.active, axis=1)


@struct.dataclass
class RawState:
    """Everything that changes during raw-action RL.

    Attributes:
      params: parameters of the base model.
      optimiser_state: state of the optimiser.
      key: random key.
      episodes: `()` int32 episodes run so far.
    """

    params: Any
    optimiser_state: optax.OptState
    key: chex.PRNGKey
    episodes: chex.Array


@dataclasses.dataclass(frozen=True)
class RawActionTrainer:
    """One update is one batch of episodes and a few gradient steps on it.

    Attributes:
      world: environment with single-world `reset` and `step`.
      base: base model module.
      optimiser: gradient transformation.
      task: `(K,)` int32 colours of the task, padded with -1.
      num_episodes: episodes per update.
      update_config: settings of the policy update.
      num_slots: episodes that run side by side, which bounds the memory; 0 leaves the choice to
        `slots.choose_num_slots`.
    """

    world: Any
    base: BaseModel
    optimiser: optax.GradientTransformation
    task: chex.Array
    num_episodes: int = 1024
    update_config: UpdateConfig = UpdateConfig()
    num_slots: int = 0

    def init(self, key: chex.PRNGKey, params: chex.ArrayTree) -> RawState:
        """Starts from the pretrained base model `params`."""
        return RawState(params, self.optimiser.init(params), key, jnp.int32(0))

    def update(self, state: RawState) -> tuple[RawState, dict[str, chex.Array]]:
        """One batch of episodes and the policy update on it.

        Returns:
          New state and scalar metrics: those of `rollout_metrics` and `update.update_policy`.
        """
        rollout_key, update_key, key = jax.random.split(state.key, 3)
        rollout = self.rollout(state.params, rollout_key, self.num_episodes)
        params, optimiser_state, metrics = update_policy(
            functools.partial(self._part_sums, rollout),
            self.optimiser,
            self.update_config,
            state.params,
            state.optimiser_state,
            update_key,
            trajectory_advantage(rollout.returns),
            rollout.length,
            rollout.active.shape[1],
        )
        state = RawState(params, optimiser_state, key, state.episodes + self.num_episodes)
        return state, {**rollout_metrics(rollout), **metrics}

    def evaluate(
        self,
        params: chex.ArrayTree,
        key: chex.PRNGKey,
        num_episodes: int,
        deterministic: chex.Numeric = False,
    ) -> dict[str, chex.Array]:
        """Metrics of `num_episodes` episodes of the base model `params`, see `rollout_metrics`."""
        return rollout_metrics(self.rollout(params, key, num_episodes, deterministic))

    def rollout(
        self,
        params: chex.ArrayTree,
        key: chex.PRNGKey,
        num_episodes: int,
        deterministic: chex.Numeric = False,
    ) -> RawRollout:
        """Runs `num_episodes` episodes of the base model.

        With `deterministic`, `()` bool, it takes its most probable actions.
        """
        reset_key, step_key = jax.random.split(key)
        num_slots = choose_num_slots(self.num_slots, num_episodes)
        records, length = run_episodes(
            lambda *carry: self._step(params, step_key, deterministic, *carry),
            reset_worlds(self.world, reset_key, self.task, num_episodes),
            self.base.initial_state(num_slots),
            num_slots,
            self.world.time_limit,
        )
        active = jnp.arange(self.world.time_limit) < length[:, None]
        return RawRollout(**records, active=active)

    def _step(self, params, key, deterministic, slots: Slots, state, memory: tuple):
        """One raw step of all slots, see `slots.run_episodes`."""
        world, observation = state
        memory = self.base.restart(memory, slots.forgets)
        depth = self.base.depth
        residual, memory = self.base.apply(params, observation, memory, depth, method="lower_step")
        output, memory = self.base.apply(params, residual, memory, depth, method="upper_step")
        (keys,) = episode_keys(key, slots, 1)
        action = act(self.base.action_head, output.action, keys, deterministic)
        world, timestep = jax.vmap(self.world.step)(world, action)
        record = {
            "observation": observation,
            "action": action,
            "log_prob": action_log_prob(self.base.action_head, output.action, action),
            "reward": timestep.reward,
            "progress": world.progress,
        }
        return (world, timestep.observation), memory, timestep.done, record

    def _part_sums(
        self, rollout: RawRollout, params, advantage, episode, index, segment
    ) -> ObjectiveSums:
        """Objective over packed raw steps; the last three arguments are `(rows, S)`."""
        output = self.base.apply(params, rollout.observation[episode, index], segment)
        action = rollout.action[episode, index]
        return clipped_surrogate(
            action_log_prob(self.base.action_head, output.action, action),
            rollout.log_prob[episode, index],
            advantage[episode],
            segment >= 0,
            self.update_config.clip,
        )


def rollout_metrics(rollout: RawRollout) -> dict[str, chex.Array]:
    """Means over a batch of episodes: `success`, `return`, `episode_length`, `progress`."""
    return {
        "success": jnp.mean((rollout.returns > 0).astype(jnp.float32)),
        "return": jnp.mean(rollout.returns),
        "episode_length": jnp.mean(rollout.length.astype(jnp.float32)),
        "progress": jnp.mean(jnp.max(rollout.progress * rollout.active, axis=1) * 1.0),
    }
