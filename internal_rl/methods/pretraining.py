"""Pretraining: the base model learns to predict what goal-directed experts do (method §3)."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.methods.batches import next_rows, num_targets
from internal_rl.methods.evaluation import held_out, require_fitting
from internal_rl.methods.method import Metrics
from internal_rl.models.base_model import BaseModel
from internal_rl.models.heads import action_log_prob, observation_log_prob
from internal_rl.models.reach import gradient_through
from internal_rl.section import COUNT, LARGEST_WHOLE, at_least, setting
from internal_rl.training.accumulation import accumulated_gradients
from internal_rl.training.mesh import mean
from internal_rl.training.optimiser import apply_gradients
from internal_rl.training.randomness import named_keys
from internal_rl.training.settings import TrainingSettings
from internal_rl.types import DataSource, Trajectory, num_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainingSettings):
    """Section `pretrain`; the weight of the observation loss stands in `base`.

    Attributes:
      num_seeds: base models: `seed`, `seed + 1`, ... of the config.
      batch_size: trajectories of an update, in the mean.
      num_parts: parts in which a batch passes through the model one after the other, to save memory
        (the result is that of the whole batch). Those of ten seeds in one program: with `n` of them
        accelerators take `n` tenths of it, rounded up.
      curriculum_tasks: tasks that the first updates are made on, as text that the world
        understands, such as `"0432,1043"`; a small model learns to plan sooner where the next place
        is certain (open). Worlds whose data is collected beforehand name them in `collect`.
      curriculum_steps: number of these updates; 0 for no curriculum.
      evaluation_rows: rows of held-out data in an evaluation (open).
      evaluation_episodes: episodes sampled on the post-training task at the end (open).
      reference_trajectories: trajectories over which exact references are averaged (open).
      baseline_steps: gradient steps of the perceptron that the base model is compared with where no
        exact reference is known (open).
      snapshot_steps: training ages at which parameters are kept for probes and supervised
        controllers, multiples of `log_every`.
    """

    num_seeds: int = setting(10, COUNT)
    batch_size: int = setting(1_024, at_least(1))
    num_parts: int = setting(8, at_least(1))
    curriculum_tasks: str = setting("")
    curriculum_steps: int = setting(0, at_least(0))
    evaluation_rows: int = setting(64, at_least(1))
    evaluation_episodes: int = setting(4_096, at_least(1))
    reference_trajectories: int = setting(4_096, at_least(1))
    baseline_steps: int = setting(20_000, at_least(1))
    snapshot_steps: tuple[int, ...] = setting((16_000, 32_000, 64_000, 128_000))
    steps: int = setting(256_000, at_least(1))
    log_every: int = setting(500, at_least(1))
    evaluate_every: int = setting(5_000, at_least(0))
    checkpoint_every: int = setting(2_000, at_least(1))

    def __post_init__(self):
        if isinstance(self.snapshot_steps, list):  # JSON knows no tuples
            object.__setattr__(self, "snapshot_steps", tuple(self.snapshot_steps))
        super().__post_init__()

    @property
    def ages(self) -> tuple[int, ...]:
        """Those of `snapshot_steps` that the training comes to."""
        return tuple(age for age in self.snapshot_steps if age <= self.steps)

    def check(self) -> None:
        """Snapshots are taken where a line of metrics is written."""
        super().check()
        ages = self.snapshot_steps
        self.require(
            isinstance(ages, tuple)
            and all(type(age) is int and 0 < age <= LARGEST_WHOLE for age in ages)
            and all(age % self.log_every == 0 for age in ages),
            "snapshot_steps",
            f"a tuple of multiples of log_every = {self.log_every}",
        )


@struct.dataclass
class State:
    """Everything that changes while the base model trains.

    Attributes:
      params: of the base model.
      optimiser_state: state of the optimiser.
      stream: position in the data.
      step: `()` int32 updates done.
    """

    params: chex.ArrayTree
    optimiser_state: optax.OptState
    stream: Any
    step: chex.Array


def prediction_loss(
    base: BaseModel, params: chex.ArrayTree, batch: Trajectory, tokens: chex.Array
) -> tuple[chex.Array, Metrics]:
    """`-ln p(a_t|o_{1:t}) - λ ln p(o_{t+1}|o_{1:t})`, summed over `batch`, by `tokens`, in nats.

    Args:
      base: the base model; its config holds λ.
      params: its parameters.
      batch: `(B, S)` packed rows.
      tokens: `()` number of actions that makes the sum a mean.

    Returns:
      The loss, and `action_nll` and, unless λ is 0, `observation_nll`.
    """
    output = base.apply(params, batch.observation, batch.segment)
    mask = batch.mask.astype(jnp.float32)
    log_prob = action_log_prob(base.action_spec, output.action, batch.action)
    loss = action_nll = -(log_prob * mask).sum() / tokens
    metrics = {"action_nll": action_nll}
    weight = base.config.observation_loss
    if weight:
        log_prob = observation_log_prob(
            base.observation_spec, output.observation, batch.next_observation
        )
        metrics["observation_nll"] = -(log_prob * mask).sum() / tokens
        loss = loss + weight * metrics["observation_nll"]
    return loss, metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Pretraining:
    """Trains a base model from scratch.

    Attributes:
      config: how it trains.
      base: the module to train.
      source: what it is trained and evaluated on; labels are not read.
      curriculum: what the first `curriculum_steps` updates are made on; rows of the same shapes.

    Raises:
      ValueError: there are to be updates on a curriculum, and none is given; or a dataset holds
        other trajectories than the model reads.
    """

    config: Config
    base: BaseModel
    source: DataSource
    curriculum: DataSource | None = None

    def __post_init__(self):
        if self.config.curriculum_steps and self.curriculum is None:
            raise ValueError(
                f"curriculum_steps: {self.config.curriculum_steps} given, allowed is 0 without a"
                " curriculum"
            )
        for source in (self.source, self.curriculum):
            if source is not None:
                require_fitting(source, self.base)

    @property
    def frozen(self) -> dict[str, Any]:
        """What stays as it is: the arrays of the data."""
        return {
            "data": self.source.arrays,
            "curriculum": self.curriculum and self.curriculum.arrays,
        }

    def init(self, key: chex.PRNGKey, frozen: dict) -> State:
        """Untrained parameters, and the beginning of the data."""
        del frozen
        keys = named_keys(key, "params", "data")
        params = self.base.initial_params(keys["params"])
        rows = num_rows(self.source, self.config.batch_size)
        position = self.source.init(keys["data"], rows)
        optimiser_state = self.config.make_optimiser().init(params)
        return State(params, optimiser_state, position, jnp.int32(0))

    def update(self, state: State, frozen: dict) -> tuple[State, Metrics]:
        """One gradient step.

        Returns:
          The new state, and `loss`, `action_nll` and `observation_nll` in nats per action,
          `gradient_norm`, and `padding`, the share of tokens without a trajectory.
        """
        position, batch = self._next(state, frozen)
        tokens = num_targets(batch)

        def share(base, params, part, index):
            del index
            return prediction_loss(base, params, part, tokens)

        (value, metrics), gradients = accumulated_gradients(
            gradient_through(self.base, share), state.params, batch, self.config.num_parts
        )
        params, optimiser_state, more = apply_gradients(
            self.config.make_optimiser(), gradients, state.optimiser_state, state.params
        )
        state = State(params, optimiser_state, position, state.step + 1)
        padding = mean(jnp.mean(batch.segment < 0, dtype=jnp.float32))
        return state, {"loss": value, "padding": padding, **metrics, **more}

    def _next(self, state: State, frozen: dict) -> tuple[Any, Trajectory]:
        """The advanced position and the rows of the next update."""
        parts = self.config.num_parts
        if not self.config.curriculum_steps:
            return next_rows(self.source, state.stream, frozen["data"], parts)
        return jax.lax.cond(
            state.step < self.config.curriculum_steps,
            lambda position: next_rows(self.curriculum, position, frozen["curriculum"], parts),
            lambda position: next_rows(self.source, position, frozen["data"], parts),
            state.stream,
        )

    def evaluate(self, state: State, frozen: dict) -> Metrics:
        """`action_nll` and `observation_nll` on held-out rows, in nats per action."""
        batch = held_out(self.source, self.config.evaluation_rows, frozen["data"])
        return prediction_loss(self.base, state.params, batch, batch.num_targets())[1]

    def params(self, state: State) -> chex.ArrayTree:
        """Parameters of the base model."""
        return state.params
