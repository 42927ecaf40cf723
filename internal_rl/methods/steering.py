"""Supervised linear controllers: can the residual stream be steered to a known subgoal? (method §4)

One controller per subgoal, `e' = e + U^(g) e`, is trained at every layer on expert trajectories
whose subgoal `g_t` is known (the metacontroller with `z_t = onehot(g_t)` and `beta = 1`). Whether
they solve the post-training task when they are switched in the right order is seen by acting with
them, see `acting.controls`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.methods.batches import next_rows, num_targets
from internal_rl.methods.evaluation import require_fitting, require_labels
from internal_rl.methods.method import Metrics
from internal_rl.models.controllers import Controllers, initial_controllers, steer
from internal_rl.models.heads import action_log_prob
from internal_rl.models.reach import gradient_through
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import RATE, WEIGHT, at_least, setting
from internal_rl.training.accumulation import accumulated_gradients
from internal_rl.training.optimiser import apply_gradients
from internal_rl.training.randomness import named_keys
from internal_rl.training.settings import SeedsPerInput, TrainingSettings
from internal_rl.types import DataSource, Trajectory, num_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainingSettings, SeedsPerInput):
    """Section `steer`.

    Attributes:
      batch_size: trajectories of an update, in the mean.
      num_parts: parts in which a batch passes through the model, see `pretrain`.
      rank: of the controllers, at most `n_e`; 0 for full ones.
      min_action_std: least standard deviation of actions in the loss, where they are continuous
        (open).
      evaluation_episodes: episodes on the post-training task for each layer (open).
      base_step: training age of the base model, one of its snapshots; 0 for the final parameters.
    """

    batch_size: int = setting(512, at_least(1))
    num_parts: int = setting(8, at_least(1))
    rank: int = setting(16, at_least(0))
    min_action_std: float = setting(0.0, WEIGHT)
    evaluation_episodes: int = setting(1_024, at_least(1))
    base_step: int = setting(0, at_least(0))
    learning_rate: float = setting(1e-3, RATE)
    steps: int = setting(3_200, at_least(1))
    log_every: int = setting(100, at_least(1))
    evaluate_every: int = setting(1_000, at_least(0))
    checkpoint_every: int = setting(800, at_least(1))


@struct.dataclass
class SteeringState:
    """State of the controllers of one layer.

    Attributes:
      controllers: what is trained.
      optimiser_state: state of the optimiser.
    """

    controllers: Controllers
    optimiser_state: optax.OptState


@struct.dataclass
class State:
    """Everything that changes while the controllers train.

    Attributes:
      layers: one entry per residual stream, 0 (embedding) to `L`.
      stream: position in the data.
    """

    layers: tuple[SteeringState, ...]
    stream: Any


def steering_losses(
    controllers: Sequence[Controllers],
    model: SteeredModel,
    batch: Trajectory,
    tokens: chex.Array,
    min_action_std: float = 0.0,
) -> chex.Array:
    """Negative log-likelihood of the expert's actions under control, summed, by `tokens`, in nats.

    Args:
      controllers: of all subgoals, for each layer from 0 (embedding) to `L`.
      model: the frozen base model.
      batch: `(B, S)` packed rows of expert trajectories with labels.
      tokens: `()` number of actions that makes the sum a mean.
      min_action_std: see `heads.action_log_prob`.

    Returns:
      `(L + 1,)`, one loss for each layer that is controlled, without control of the others.
    """
    residuals = jax.lax.stop_gradient(model.residuals(batch.observation, batch.segment))
    steered = [
        steer(of_layer, residual, batch.subgoal)
        for of_layer, residual in zip(controllers, residuals, strict=True)
    ]
    output = model.upper_of_each(jnp.stack(steered), batch.segment)
    spec = model.base.action_spec
    log_prob = action_log_prob(spec, output.action, batch.action[None], min_action_std)
    return -jnp.sum(log_prob * batch.mask, axis=(1, 2)) / tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Steering:
    """Trains controllers of all subgoals at every layer of a frozen base model.

    Attributes:
      config: how it trains.
      model: whose base model is controlled; its layer and metacontroller do not matter.
      source: expert trajectories with labels.
      num_subgoals: number of subgoals `G`.

    Raises:
      ValueError: the source has no labels, or a dataset holds other trajectories than the model
        reads or other subgoals.
    """

    config: Config
    model: SteeredModel
    source: DataSource
    num_subgoals: int

    def __post_init__(self):
        require_labels(self.source, "steering")
        require_fitting(self.source, self.model.base, num_subgoals=self.num_subgoals)

    @property
    def frozen(self) -> dict[str, Any]:
        """What stays as it is: the base model and the arrays of the data."""
        return {"model": self.model.alone(), "data": self.source.arrays}

    def init(self, key: chex.PRNGKey, frozen: dict) -> State:
        """Controllers that change nothing, and the beginning of the data.

        Raises:
          SettingError: the rank is above the width of the model.
        """
        del frozen
        keys, base = named_keys(key, "params", "data"), self.model.base
        optimiser, layers = self.config.make_optimiser(), []
        for layer in range(base.depth + 1):
            layer_key = jax.random.fold_in(keys["params"], layer)
            controllers = initial_controllers(
                layer_key, self.num_subgoals, base.width, self.config.rank
            )
            layers.append(SteeringState(controllers, optimiser.init(controllers)))
        rows = num_rows(self.source, self.config.batch_size)
        return State(tuple(layers), self.source.init(keys["data"], rows))

    def update(self, state: State, frozen: dict) -> tuple[State, Metrics]:
        """One gradient step of the controllers of every layer.

        Returns:
          The new state, and `action_nll_layer_<l>` and their mean `loss` in nats per action.
        """
        parts = self.config.num_parts
        position, batch = next_rows(self.source, state.stream, frozen["data"], parts)
        tokens, model = num_targets(batch), frozen["model"]

        def share(base, controllers, part, index):
            del index
            narrowed = model.replace(base=base)
            losses = steering_losses(
                controllers, narrowed, part, tokens, self.config.min_action_std
            )
            # Controllers of a layer change its own loss alone: the sum has the gradients of all.
            return losses.sum(), losses

        controllers = tuple(layer.controllers for layer in state.layers)
        (_, losses), gradients = accumulated_gradients(
            gradient_through(model.base, share), controllers, batch, parts
        )
        layers = tuple(map(self._updated, state.layers, gradients))
        metrics = {f"action_nll_layer_{layer}": losses[layer] for layer in range(len(layers))}
        return State(layers, position), {"loss": losses.mean(), **metrics}

    def _updated(self, state: SteeringState, gradient: Controllers) -> SteeringState:
        controllers, optimiser_state, _ = apply_gradients(
            self.config.make_optimiser(), gradient, state.optimiser_state, state.controllers
        )
        return SteeringState(controllers, optimiser_state)

    def evaluate(self, state: State, frozen: dict) -> Metrics:
        """Nothing: what controllers are good for shows when they act."""
        del state, frozen
        return {}

    def params(self, state: State) -> chex.ArrayTree:
        """`layer_<l>`: `read` and `write` of `Controllers`."""
        return {
            f"layer_{i}": {"read": layer.controllers.read, "write": layer.controllers.write}
            for i, layer in enumerate(state.layers)
        }
