"""Raw-action RL, the baseline: finetunes the base model itself on its own actions (method §6).

Objective and update are those of internal RL; a decision is a raw step. The log-probabilities of the
acting model come from its one-step form, those of the update from its parallel form.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.models.base_model import BaseModel
from internal_rl.models.heads import action_log_prob
from internal_rl.rl.internal_env import act, extend_memory
from internal_rl.rl.lockstep import run_lockstep
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
class _Carry:
    """State of `B` running episodes; `time` is shared."""

    world: Any
    observation: chex.Array
    active: chex.Array
    episode: chex.Array
    memory: tuple
    time: chex.Array


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
      num_stages: see `lockstep.run_lockstep`.
      rows: the same, episodes per part.
    """

    world: Any
    base: BaseModel
    optimiser: optax.GradientTransformation
    task: chex.Array
    num_episodes: int = 1024
    update_config: UpdateConfig = UpdateConfig()
    num_stages: int = 4
    rows: int = 256

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
            functools.partial(self._part_sums, rollout, trajectory_advantage(rollout.returns)),
            self.optimiser,
            self.update_config,
            state.params,
            state.optimiser_state,
            update_key,
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
        deterministic: bool = False,
    ) -> dict[str, chex.Array]:
        """Metrics of `num_episodes` episodes of the base model `params`, see `rollout_metrics`."""
        return rollout_metrics(self.rollout(params, key, num_episodes, deterministic))

    def rollout(
        self,
        params: chex.ArrayTree,
        key: chex.PRNGKey,
        num_episodes: int,
        deterministic: bool = False,
    ) -> RawRollout:
        """Runs `num_episodes` episodes of the base model."""
        reset_key, step_key = jax.random.split(key)
        world, timestep = jax.vmap(self.world.reset, (0, None))(
            jax.random.split(reset_key, num_episodes), self.task
        )
        carry = _Carry(
            world=world,
            observation=timestep.observation,
            active=~timestep.done,
            episode=jnp.arange(num_episodes),
            memory=self.base.clone(max_length=1).initial_state(num_episodes),
            time=jnp.int32(0),
        )
        return run_lockstep(
            lambda carry: self._step(params, step_key, carry, deterministic),
            lambda carry, length: carry.replace(
                memory=extend_memory(self.base, carry.memory, length)
            ),
            carry,
            self.world.time_limit,
            self.num_stages,
            min(self.rows, num_episodes),
        )

    def _step(self, params, key, carry: _Carry, deterministic: bool) -> tuple[_Carry, RawRollout]:
        """One raw step of all episodes."""
        residual, memory = self.base.apply(
            params, carry.observation, carry.memory, self.base.depth, method="lower_step"
        )
        output, memory = self.base.apply(
            params, residual, memory, self.base.depth, method="upper_step"
        )
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.fold_in(key, carry.time), carry.episode
        )
        action = act(self.base.action_head, output.action, keys, deterministic)
        world, timestep = jax.vmap(self.world.step)(carry.world, action)
        record = RawRollout(
            observation=carry.observation,
            action=action,
            log_prob=action_log_prob(self.base.action_head, output.action, action),
            reward=jnp.where(carry.active, timestep.reward, 0.0),
            progress=world.progress,
            active=carry.active,
        )
        carry = carry.replace(
            world=world,
            observation=timestep.observation,
            active=carry.active & ~timestep.done,
            memory=memory,
            time=carry.time + 1,
        )
        return carry, record

    def _part_sums(
        self, rollout: RawRollout, advantage, params, episode, index, segment
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
