"""The trainer of every policy that learns from reward: internal RL and raw actions (method §6).

One update is one batch of episodes and a few gradient steps on it. What a policy is, what it reads
and what it chooses is told by the class that inherits from `PolicyTrainer`.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.acting.episodes import SOLVABLE, Control, Episodes, play
from internal_rl.methods.reinforcement.objective import (
    OBJECTIVES,
    ObjectiveSums,
    clipped_surrogate,
    trajectory_advantage,
)
from internal_rl.methods.reinforcement.update import (
    Lesson,
    PolicyState,
    UpdateSettings,
    update_policy,
)
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import (
    COUNT,
    POSITIVE,
    RATE,
    WEIGHT,
    SettingError,
    at_least,
    one_of,
    setting,
)
from internal_rl.training.mesh import mean, num_shares, share_number, share_size
from internal_rl.training.randomness import named_key
from internal_rl.training.settings import TrainingSettings
from internal_rl.types import World

POLICY_STAGES = ["internal_rl", "raw_rl"]
"""Stages that train a policy; those of users join them, see `stages.catalogue.register_stage`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReinforcementSettings(TrainingSettings):
    """What the sections `internal_rl` and `raw_rl` share (method §6).

    Attributes:
      task: post-training task as text that the world reads, such as "0-1-2"; empty for the world's
        own.
      episodes_per_update: size of a batch.
      objective: `"ppo"`, or `"as_printed"` for equation 10 to the letter, see
        `objective.OBJECTIVES`.
      clip: half-width ε of the trust region of the probability ratio (open).
      num_epochs: passes over a batch (open).
      num_minibatches: gradient steps per pass (open). The learning rate goes by updates that learn:
        those without anything to learn do not bring it nearer to its final value.
      evaluation_episodes: episodes of an evaluation.
    """

    learning_rate: float = setting(3e-5, RATE)
    weight_decay: float = setting(0.0, WEIGHT)
    steps: int = setting(100_000, at_least(1))
    log_every: int = setting(50, at_least(1))
    evaluate_every: int = setting(500, at_least(0))
    checkpoint_every: int = setting(500, at_least(1))
    steps_per_call: int = setting(10, at_least(1))
    task: str = setting("")
    episodes_per_update: int = setting(1024, at_least(2))
    objective: str = setting("ppo", one_of(OBJECTIVES))
    clip: float = setting(0.2, POSITIVE)
    num_epochs: int = setting(4, COUNT)
    num_minibatches: int = setting(1, at_least(1))
    evaluation_episodes: int = setting(1024, at_least(1))

    def check(self) -> None:
        """Minibatches share out the episodes of a batch evenly."""
        super().check()
        self.require(
            self.episodes_per_update % self.num_minibatches == 0,
            "num_minibatches",
            f"a divisor of episodes_per_update = {self.episodes_per_update}",
        )

    @property
    def gradient_steps(self) -> int:
        """How often the optimiser is called in an update, unless there is nothing to learn."""
        return self.num_epochs * self.num_minibatches

    def update_settings(self) -> UpdateSettings:
        """How a batch is learnt from."""
        return UpdateSettings(self.make_optimiser(), self.num_epochs, self.num_minibatches)


def task_of(settings: ReinforcementSettings, world: World) -> Any:
    """The task that a policy is trained on.

    Raises:
      SettingError: the world cannot read the text, or reads none at all.
    """
    if not settings.task:
        return world.post_training_task
    if not hasattr(world, "parse_task"):
        raise SettingError(
            "task", f"{settings.task!r} given, allowed is '': this world reads no tasks from text"
        )
    try:
        return world.parse_task(settings.task)
    except ValueError as error:
        raise SettingError("task", str(error)) from None


@struct.dataclass
class Choices:
    """What a policy chose in `B` episodes of up to `T` raw steps.

    Attributes:
      read: `(B, T, n)` what it read.
      chosen: `(B, T, ...)` what it chose.
      log_prob: `(B, T)` log-probability of that when it was drawn, nats.
      count: `(B,)` int32 how many choices an episode holds.
      step: `(B, T)` raw step of the k-th one; None where every raw step is a choice.
    """

    read: chex.Array
    chosen: chex.Array
    log_prob: chex.Array
    count: chex.Array
    step: chex.Array | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyTrainer:
    """Trains a policy in a world; see `methods.method` for how it is called.

    Attributes:
      config: section of the config.
      world: where it acts.
      model: frozen model that it acts through; stands for its shapes, the functions read `frozen`.
      task: of all episodes; None for what the section says.
    """

    config: ReinforcementSettings
    world: World
    model: SteeredModel
    task: Any = None

    KEPT = ("reward", "progress")
    """What is kept of every step to learn and to report from, beside what the control records."""

    def __post_init__(self):
        if self.task is None:
            object.__setattr__(self, "task", task_of(self.config, self.world))

    @property
    def frozen(self) -> SteeredModel:
        """The model."""
        return self.model

    # What a policy has to tell.

    def init(self, key: chex.PRNGKey, frozen: SteeredModel) -> PolicyState:
        """State before the first update, see `start`."""
        raise NotImplementedError

    def actor(self, params: chex.ArrayTree, frozen: SteeredModel) -> tuple[SteeredModel, Control]:
        """Who acts under the parameters `params`, and the control of its residual stream."""
        raise NotImplementedError

    def choices(self, episodes: Episodes) -> Choices:
        """What the policy chose."""
        raise NotImplementedError

    def log_prob(
        self, params: chex.ArrayTree, read: chex.Array, segment: chex.Array, chosen: chex.Array
    ) -> chex.Array:
        """`ln π(chosen)` in nats, `(R, S)`, of packed rows; arbitrary at padding.

        Args:
          params: parameters of the policy.
          read: `(R, S, n)` what it reads.
          segment: `(R, S)` int32 index of the episode, -1 at padding.
          chosen: `(R, S, ...)` what it chose.
        """
        raise NotImplementedError

    # What is the same for all of them.

    def start(self, params: chex.ArrayTree, key: chex.PRNGKey) -> PolicyState:
        """The state with parameters `params` and a fresh optimiser."""
        optimiser_state = self.config.make_optimiser().init(params)
        return PolicyState(params, optimiser_state, key, jnp.int32(0))

    def update(
        self, state: PolicyState, frozen: SteeredModel
    ) -> tuple[PolicyState, dict[str, chex.Array]]:
        """One batch of episodes and the policy update on it.

        Returns:
          The new state, and scalar metrics: those of `metrics` and of `update.update_policy`.
        """
        num_episodes = self.config.episodes_per_update
        rollout_key, update_key, key = jax.random.split(state.key, 3)
        episodes = self._own_episodes(state.params, frozen, rollout_key, num_episodes)
        choices = self.choices(episodes)
        lesson = Lesson(
            trajectory_advantage(episodes.returns), choices.count, episodes.active.shape[1]
        )
        part_sums = functools.partial(self._part_sums, choices)
        settings = self.config.update_settings()
        state, metrics = update_policy(part_sums, settings, state, lesson, update_key)
        num_episodes = num_shares() * share_size(num_episodes)
        state = state.replace(key=key, episodes=state.episodes + num_episodes)
        return state, {**mean(self.metrics(episodes)), **metrics}

    def _own_episodes(self, params, frozen, key, num_episodes: int, more=()) -> Episodes:
        """The episodes of this device; all devices together play `num_episodes` or a few more."""
        own = share_size(num_episodes)
        place = {"first_episode": share_number() * own, "out_of": num_shares() * own}
        return self.rollout(params, frozen, key, own, keep=(*self.KEPT, *more), **place)

    def _part_sums(
        self, choices: Choices, params, advantage, episode, index, segment
    ) -> ObjectiveSums:
        """Objective over packed choices; the last three arguments are `(R, S)`."""
        step = index if choices.step is None else choices.step[episode, index]
        read, chosen = choices.read[episode, step], choices.chosen[episode, step]
        return clipped_surrogate(
            self.log_prob(params, read, segment, chosen),
            choices.log_prob[episode, step],
            advantage[episode],
            segment >= 0,
            self.config.clip,
            objective=self.config.objective,
        )

    def rollout(
        self,
        params: chex.ArrayTree,
        frozen: SteeredModel,
        key: chex.PRNGKey,
        num_episodes: int,
        **options,
    ) -> Episodes:
        """Episodes of the policy.

        Args:
          params: parameters of the policy.
          frozen: the model that it acts through.
          key: randomness of starts, codes and actions. Every episode has its own share of it, so
            that what happens in an episode does not depend on `num_slots`.
          num_episodes: how many, `B`.
          **options: those of `acting.episodes.act`: `deterministic`, `keep`, `num_slots`, ...
        """
        model, control = self.actor(params, frozen)
        return play(self.world, model, control, key, num_episodes, task=self.task, **options)

    def evaluate(self, state: PolicyState, frozen: SteeredModel) -> dict[str, chex.Array]:
        """Metrics of `config.evaluation_episodes` episodes, the same ones at every call."""
        key = named_key(jax.random.key(1), "evaluation")
        number = self.config.evaluation_episodes
        episodes = self._own_episodes(state.params, frozen, key, number, more=(SOLVABLE,))
        return mean(self.metrics(episodes))

    def params(self, state: PolicyState) -> chex.ArrayTree:
        """Parameters of the policy."""
        return state.params

    def metrics(self, episodes: Episodes) -> dict[str, chex.Array]:
        """Means over a batch of episodes; of several devices each gives those of its own.

        Returns:
          `success` and `return` per episode, `episode_length` in raw steps, and `progress`, the
          furthest of each episode, where the world emits it. Of an evaluation in a world that also
          draws layouts in which the task cannot be completed, `solvable`, the share of the others,
          and `solvable_success`, the success among these.
        """
        metrics = {
            "success": jnp.mean(episodes.success.astype(jnp.float32)),
            "return": jnp.mean(episodes.returns),
            "episode_length": jnp.mean(episodes.length.astype(jnp.float32)),
        }
        if episodes.progress is not None:
            metrics["progress"] = jnp.mean(episodes.furthest.astype(jnp.float32))
        if episodes.solvable is not None:
            share = jnp.mean(episodes.solvable.astype(jnp.float32))
            solved = jnp.mean((episodes.success & episodes.solvable).astype(jnp.float32))
            # Shares of all devices: the mean over these is that of the quotients' numerators.
            metrics |= {"solvable": share, "solvable_success": solved / mean(share)}
        return metrics
