"""Settings of the ant's expert, apart from its training: brax takes seconds to import."""

import dataclasses

from internal_rl.experts import shortest_path


@dataclasses.dataclass(frozen=True)
class AntExpertConfig:
    """Settings of the expert and of brax's PPO.

    Attributes:
      ties: how equally short paths are told apart, see `shortest_path.TIES`; the directions shown
        have to be unique.
      control_cost: reward lost per unit of squared torque, summed over the torques; keeps torques
        off their limits, where a Gaussian describes them badly.
      hop_cost: reward lost per metre of torso height above `ant_ppo.TALL`; a bounding gait ends
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

    ties: str = "axis"
    control_cost: float = 0.02
    hop_cost: float = 10.0
    failure_cost: float = 20.0
    success_reward: float = 10.0
    hidden_sizes: tuple[int, ...] = (128, 128, 128)
    rounds: int = 20
    steps_per_round: int = 2_000_000
    num_worlds: int = 512
    unroll_length: int = 10
    batch_size: int = 512
    num_minibatches: int = 16
    num_passes: int = 4
    learning_rate: float = 6e-4
    final_learning_rate: float = 5.27e-5
    entropy_cost: float = 3e-4
    discounting: float = 0.98
    gae_lambda: float = 0.95
    clip: float = 0.2
    reward_scaling: float = 0.1

    def __post_init__(self):
        shortest_path.check_ties(self.ties)
        if self.ties == "random":
            raise ValueError("ties is 'random', allowed are those that leave one action per cell")
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes is {self.hidden_sizes}, allowed are sizes of 1 or more")
        if self.batch_size * self.num_minibatches % self.num_worlds:
            raise ValueError(
                f"num_worlds is {self.num_worlds}, allowed are divisors of batch_size * "
                f"num_minibatches, {self.batch_size * self.num_minibatches}"
            )

    def learning_rate_of(self, index: int) -> float:
        """Learning rate of round `index`."""
        share = index / max(self.rounds - 1, 1)
        return self.learning_rate ** (1 - share) * self.final_learning_rate**share
