"""Internal RL: trains a policy over the codes of a frozen metacontroller (method §6).

What takes the metacontroller's place is trained on in the same way, see `Config.codes`.
"""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp

from internal_rl.acting.code_policy import CodePolicyControl
from internal_rl.acting.decisions import decision_steps, num_decisions
from internal_rl.acting.episodes import Episodes
from internal_rl.methods.reinforcement.trainer import (
    Choices,
    PolicyTrainer,
    ReinforcementSettings,
)
from internal_rl.methods.reinforcement.update import PolicyState
from internal_rl.models.heads import gaussian_log_prob
from internal_rl.models.policy import CodePolicy
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import SIZE, setting, within
from internal_rl.training.mesh import total
from internal_rl.training.settings import SeedsPerInput

State = PolicyState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ReinforcementSettings, SeedsPerInput):
    """Section `internal_rl` (method §6).

    Attributes:
      codes: stage whose codes the policy chooses among: `"metacontroller"`, in its variant,
        `"compile"`, the baseline, or one of your own, whose section is a `CodeFindingSettings`.
      policy_width: width of the policy, a multiple of its heads.
      initial_std: standard deviation of the untrained policy's codes (open).
      min_std: smallest standard deviation of the codes (open).
      threshold: the switch asks for a code where `β_t >= threshold`.
    """

    codes: str = setting("metacontroller")
    policy_width: int = setting(256, SIZE)
    initial_std: float = setting(1.0, within(0.1, 10))
    min_std: float = setting(0.05, within(0.01, 10), historical=math.exp(-3.0))
    threshold: float = setting(0.5, within(0, 1))

    def check(self) -> None:
        """A policy has to start wider than it may become."""
        super().check()
        self.require(
            self.min_std < self.initial_std, "min_std", f"below initial_std = {self.initial_std}"
        )
        self.require(
            self.policy_width % CodePolicy.num_heads == 0,
            "policy_width",
            f"a multiple of {CodePolicy.num_heads}",
        )


class InternalRL(PolicyTrainer):
    """Trains the policy; base model and metacontroller stay as they are.

    Attributes:
      config: section of the config.
      world: where it acts.
      model: base model and metacontroller.
      task: of all episodes; None for what the section says.
    """

    config: Config

    def __post_init__(self):
        if self.model.metacontroller is None:
            raise ValueError("model has no metacontroller, allowed is one that has")
        super().__post_init__()

    @functools.cached_property
    def policy(self) -> CodePolicy:
        """Module of the policy."""
        return CodePolicy(
            code_size=self.model.metacontroller.config.code_size,
            width=self.config.policy_width,
            mlp_size=2 * self.config.policy_width,
            initial_std=self.config.initial_std,
            min_std=self.config.min_std,
        )

    def init(self, key: chex.PRNGKey, frozen: SteeredModel) -> State:
        """Starts from an untrained policy."""
        del frozen
        params_key, key = jax.random.split(key)
        return self.start(self.policy.initial_params(params_key, self.model.base.width), key)

    def actor(
        self, params: chex.ArrayTree, frozen: SteeredModel
    ) -> tuple[SteeredModel, CodePolicyControl]:
        """The base model under the codes of the policy."""
        return frozen, CodePolicyControl(self.policy, params, self.config.threshold)

    def choices(self, episodes: Episodes) -> Choices:
        """A code at every decision."""
        record = episodes.record
        return Choices(
            read=record["residual"],
            chosen=record["code"],
            log_prob=record["log_prob"],
            count=num_decisions(episodes),
            step=decision_steps(record["ask"]),
        )

    def log_prob(
        self, params: chex.ArrayTree, read: chex.Array, segment: chex.Array, chosen: chex.Array
    ) -> chex.Array:
        """Log-probability of codes, nats."""
        mean, log_std = self.policy.apply(params, read, segment)
        return gaussian_log_prob(mean, log_std, chosen)

    def metrics(self, episodes: Episodes) -> dict[str, chex.Array]:
        """Means over a batch of episodes.

        Returns:
          Those of every policy; `switches` per episode (the first one included), `beta` per raw
          step, and `reward_per_decision`.
        """
        switches = num_decisions(episodes)
        beta = total(jnp.sum(episodes.record["beta"] * episodes.active))
        return super().metrics(episodes) | {
            "switches": jnp.mean(switches.astype(jnp.float32)),
            "beta": beta / total(jnp.sum(episodes.active)),
            "reward_per_decision": total(jnp.sum(episodes.returns)) / total(jnp.sum(switches)),
        }
