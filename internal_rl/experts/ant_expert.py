"""Settings of the ant's expert, apart from its training: brax takes seconds to import."""

import dataclasses

from internal_rl.experts.shortest_path import TIES
from internal_rl.section import (
    COUNT,
    LAYERS,
    POSITIVE,
    RATE,
    SCALE,
    SIZE,
    WEIGHT,
    Rule,
    Section,
    at_least,
    one_of,
    setting,
    within,
)

_UNIQUE_TIES = tuple(ties for ties in TIES if ties != "random")
_SIZES = Rule(
    lambda sizes: (
        isinstance(sizes, (tuple, list))
        and LAYERS.holds(len(sizes))
        and all(type(size) is int and SIZE.holds(size) for size in sizes)
    ),
    f"a tuple of {LAYERS.allowed} sizes, each {SIZE.allowed}",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AntExpertConfig(Section):
    """Settings of the expert and of brax's PPO.

    Attributes:
      ties: how equally short paths are told apart, see `shortest_path.TIES`; the directions shown
        have to be unique.
      control_cost: reward lost per unit of squared torque, summed over the torques; keeps torques
        off their limits, where a Gaussian describes them badly.
      hop_cost: reward lost per metre of torso height above `ant_guide.TALL`; a bounding gait ends
        most episodes that fail above the highest height that the world allows.
      failure_cost: reward lost where an episode ends as a failure before its time limit.
      success_reward: added on the step that completes the task.
      hidden_sizes: hidden layers of policy and value function.
      rounds: the training is cut into so many calls of brax's PPO, each from the parameters of the
        one before; an interrupted training goes on with the round it was in.
      steps_per_round: control steps of a round, over all worlds.
      num_worlds: worlds that run side by side.
      unroll_length: steps of each world in a sample.
      batch_size: samples in a gradient step.
      num_minibatches: gradient steps per pass over the samples.
      num_passes: passes over the samples of an update.
      learning_rate: of Adam.
      final_learning_rate: rate of the last round; falls by a constant factor from round to round.
      entropy_cost: weight of the policy's entropy.
      discounting: discount per control step.
      gae_lambda: of the generalised advantage estimate.
      clip: trust region of the surrogate.
      reward_scaling: factor on rewards before the value function sees them.
    """

    ties: str = setting("axis", one_of(_UNIQUE_TIES))
    control_cost: float = setting(0.02, WEIGHT)
    hop_cost: float = setting(10.0, WEIGHT)
    failure_cost: float = setting(20.0, WEIGHT)
    success_reward: float = setting(10.0, WEIGHT)
    hidden_sizes: tuple[int, ...] = setting((128, 128, 128), _SIZES)
    rounds: int = setting(20, COUNT)
    steps_per_round: int = setting(2_000_000, at_least(1))
    num_worlds: int = setting(512, at_least(1))
    unroll_length: int = setting(10, at_least(1))
    batch_size: int = setting(512, at_least(1))
    num_minibatches: int = setting(16, at_least(1))
    num_passes: int = setting(4, COUNT)
    learning_rate: float = setting(6e-4, RATE)
    final_learning_rate: float = setting(5.27e-5, RATE)
    entropy_cost: float = setting(3e-4, WEIGHT)
    discounting: float = setting(0.98, within(0, 1))
    gae_lambda: float = setting(0.95, within(0, 1))
    clip: float = setting(0.2, POSITIVE)
    reward_scaling: float = setting(0.1, SCALE)

    def check(self) -> None:
        """Samples are dealt out to whole worlds."""
        super().check()
        # JSON knows no tuples.
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        samples = self.batch_size * self.num_minibatches
        allowed = f"a divisor of batch_size * num_minibatches = {samples}"
        self.require(samples % self.num_worlds == 0, "num_worlds", allowed)

    def learning_rate_of(self, index: int) -> float:
        """Learning rate of round `index`."""
        share = index / max(self.rounds - 1, 1)
        return self.learning_rate ** (1 - share) * self.final_learning_rate**share


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertSection(AntExpertConfig):
    """Section `expert`: the expert, and what its stage adds.

    Attributes:
      num_seeds: experts that are trained.
      evaluation_episodes: episodes on the pretraining tasks and as many on the post-training task,
        after each round (open).
    """

    num_seeds: int = setting(1, COUNT)
    evaluation_episodes: int = setting(1_000, at_least(1))
