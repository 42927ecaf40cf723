"""Raw-action RL, the baseline: finetunes the base model itself on its own actions (method §6).

Objective and update are those of internal RL; a choice is a raw step. The log-probabilities of the
acting model come from its one-step form, those of the update from its parallel form.
"""

import dataclasses

import chex

from internal_rl.acting.episodes import Episodes, NoControl
from internal_rl.methods.reinforcement.trainer import (
    Choices,
    PolicyTrainer,
    ReinforcementSettings,
)
from internal_rl.methods.reinforcement.update import PolicyState
from internal_rl.models.heads import action_log_prob
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import COUNT, setting
from internal_rl.training.settings import SeedsPerInput

State = PolicyState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ReinforcementSettings, SeedsPerInput):
    """Section `raw_rl` (method §6)."""

    seeds_per_input: int = setting(3, COUNT)


class RawActionRL(PolicyTrainer):
    """Trains the base model; its parameters are the state's.

    Attributes:
      config: section of the config.
      world: where it acts.
      model: the pretrained base model, from which training starts; a metacontroller is left out.
      task: of all episodes; None for what the section says.
    """

    config: Config

    KEPT = ("observation", "action", "action_log_prob", "reward", "progress")

    def init(self, key: chex.PRNGKey, frozen: SteeredModel) -> State:
        """Starts from the pretrained base model."""
        return self.start(frozen.base_params, key)

    def actor(self, params: chex.ArrayTree, frozen: SteeredModel) -> tuple[SteeredModel, NoControl]:
        """The base model alone, with the parameters that are trained."""
        return frozen.alone().replace(base_params=params), NoControl()

    def choices(self, episodes: Episodes) -> Choices:
        """An action at every raw step."""
        return Choices(
            read=episodes.observation,
            chosen=episodes.action,
            log_prob=episodes.action_log_prob,
            count=episodes.length,
        )

    def log_prob(
        self, params: chex.ArrayTree, read: chex.Array, segment: chex.Array, chosen: chex.Array
    ) -> chex.Array:
        """Log-probability of actions, nats."""
        base = self.model.base
        return action_log_prob(base.action_spec, base.apply(params, read, segment).action, chosen)
