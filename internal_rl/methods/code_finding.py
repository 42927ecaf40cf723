"""Methods that find codes in clean trajectories: what discovery and CompILE share (method §5, §6).

A module infers codes of expert trajectories; the base model, controlled by them, has to make the
expert's actions likely. The base model is frozen, or is trained on the same loss as the module:
then it is kept with the module, and whatever uses the codes later acts with it in place of the
pretrained one.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.methods.batches import next_rows, num_targets
from internal_rl.methods.code_tests import CodeTestSettings
from internal_rl.methods.evaluation import require_fitting
from internal_rl.methods.method import Metrics
from internal_rl.methods.switching import count_switches, switching_metrics
from internal_rl.models.base_model import BaseModel
from internal_rl.models.code_controller import CodeController
from internal_rl.models.reach import gradient_through
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import COUNT, RATE, at_least, setting
from internal_rl.training.accumulation import accumulated_gradients
from internal_rl.training.optimiser import apply_gradients
from internal_rl.training.randomness import named_keys
from internal_rl.training.settings import SeedsPerInput, TrainingSettings
from internal_rl.types import DataSource, Trajectory, num_rows

CODE_STAGES = ["metacontroller", "compile"]
"""Stages that find codes; those of users join them, see `stages.catalogue.register_stage`."""

Loss = Callable[[SteeredModel, Trajectory, chex.PRNGKey, chex.Array], tuple[chex.Array, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeFindingSettings(CodeTestSettings, TrainingSettings, SeedsPerInput, abc.ABC):
    """Fields that the sections `metacontroller` and `compile` share.

    Attributes:
      layer: controlled layer `l`, 0 (embedding) to `L`; `L/2` in the paper.
      batch_size: trajectories of an update, in the mean.
      num_parts: parts in which a batch passes through the model, see `pretrain`.
      evaluation_rows: rows of held-out data in an evaluation (open).
      evaluation_episodes: episodes per arm of the tests of codes (open).
    """

    stage: ClassVar[str]
    """Stage whose section it is."""

    lowest_layer: ClassVar[int] = 0
    """Least layer that it can control."""

    seeds_per_input: int = setting(3, COUNT)
    layer: int = setting(3, at_least(0))
    batch_size: int = setting(512, at_least(1))
    num_parts: int = setting(4, at_least(1))
    evaluation_rows: int = setting(64, at_least(1))
    evaluation_episodes: int = setting(1_024, at_least(1))
    learning_rate: float = setting(1e-3, RATE)
    log_every: int = setting(200, at_least(1))
    evaluate_every: int = setting(2_000, at_least(0))
    checkpoint_every: int = setting(1_000, at_least(1))

    @property
    def trains_base(self) -> bool:
        """Whether the base model is trained too, with the optimiser of the module."""
        return False

    @property
    def reads_base(self) -> bool:
        """Whether the base model is the pretrained one, or starts from it."""
        return True

    @abc.abstractmethod
    def make_module(self, base: BaseModel) -> CodeController:
        """The module that infers codes and controls a base model."""


@struct.dataclass
class State:
    """Everything that changes while codes are looked for.

    Attributes:
      params: of the module; with a base model that is trained too `{stage: module, "base": base
        model}`.
      optimiser_state: state of the optimiser.
      stream: position in the data.
      key: randomness of what is drawn in training.
      step: `()` int32 updates done.
    """

    params: chex.ArrayTree
    optimiser_state: optax.OptState
    stream: Any
    key: chex.PRNGKey
    step: chex.Array


def steered_by(
    config: CodeFindingSettings, model: SteeredModel, params: chex.ArrayTree
) -> SteeredModel:
    """A base model under a trained module.

    Args:
      config: the section of the module.
      model: the pretrained base model; its parameters are not read where the module has its own.
      params: as `State.params`.
    """
    base_params = model.base_params
    if config.trains_base:
        params, base_params = params[config.stage], params["base"]
    return model.replace(
        layer=config.layer,
        base_params=base_params,
        metacontroller=config.make_module(model.base),
        metacontroller_params=params,
    )


def rising_share(step: chex.Array, free_steps: int, ramp_steps: int) -> chex.Array:
    """Share, `()`, of what comes late in training: zero, then rising linearly to 1, then constant.

    Args:
      step: `()` updates done.
      free_steps: updates in which it is zero.
      ramp_steps: updates over which it then rises; 0 for at once.
    """
    since = jnp.asarray(step - free_steps, jnp.float32)
    return jnp.clip((since + 1.0) / max(ramp_steps, 1), 0.0, 1.0)


def expected_params(config: CodeFindingSettings, base: BaseModel) -> chex.ArrayTree:
    """Parameters that a section leaves, as in `State.params`, with shapes in place of arrays."""
    key = jax.random.key(0)
    module = jax.eval_shape(config.make_module(base).initial_params, key)
    if not config.trains_base:
        return module
    return {config.stage: module, "base": jax.eval_shape(base.initial_params, key)}


@dataclasses.dataclass(frozen=True, eq=False)
class CodeFinder(abc.ABC):
    """Trains a module that infers codes, and the base model with it if the section says so.

    Attributes:
      config: the module, the layer that it controls, and how it trains.
      model: whose base model is controlled; layer and module are those of `config`. Its parameters
        may be None where `config.reads_base` is false.
      source: clean expert trajectories; labels are read by `evaluate` alone.
      tolerance: steps by which a switch may miss a change of subgoal and still count as close.

    Raises:
      SettingError: the base model has no such layer.
      ValueError: a dataset holds other trajectories than the base model reads.
    """

    config: CodeFindingSettings
    model: SteeredModel
    source: DataSource
    tolerance: int = 1

    def __post_init__(self):
        self.model.base.config.check_layer("layer", self.config.layer)
        require_fitting(self.source, self.model.base)

    @property
    def module(self) -> CodeController:
        """The module that is trained."""
        return self.config.make_module(self.model.base)

    @property
    def frozen(self) -> dict[str, Any]:
        """What stays as it is: the base model that was pretrained and the arrays of the data."""
        return {"model": self.model.alone(), "data": self.source.arrays}

    def steered(self, params: chex.ArrayTree, frozen: dict) -> SteeredModel:
        """The base model under a module with these parameters, see `steered_by`."""
        return steered_by(self.config, frozen["model"], params)

    def init(self, key: chex.PRNGKey, frozen: dict) -> State:
        """An untrained module, the base model if it is trained, and the beginning of the data."""
        keys = named_keys(key, "params", "data", "noise", "base")
        params = self.module.initial_params(keys["params"])
        if self.config.trains_base:
            if self.config.reads_base:
                base_params = jax.tree.map(jnp.asarray, frozen["model"].base_params)
            else:
                base_params = self.model.base.initial_params(keys["base"])
            params = {self.config.stage: params, "base": base_params}
        rows = num_rows(self.source, self.config.batch_size)
        return State(
            params,
            self.config.make_optimiser().init(params),
            self.source.init(keys["data"], rows),
            keys["noise"],
            jnp.int32(0),
        )

    @abc.abstractmethod
    def update(self, state: State, frozen: dict) -> tuple[State, Metrics]:
        """One `gradient_step`."""

    @abc.abstractmethod
    def evaluate(self, state: State, frozen: dict) -> Metrics:
        """Losses on held-out rows and, where these have labels, the `switching` metrics."""

    def gradient_step(self, state: State, frozen: dict, loss: Loss) -> tuple[State, Metrics]:
        """Changes all of `state.params` along the gradient of a loss on the next rows.

        Args:
          state: before the update.
          frozen: see `frozen`.
          loss: `(model, part, key, tokens) -> (value, metrics)`, sums over the rows of a part
            divided by the number of actions in all of them; `key` is another one for every part.

        Returns:
          The new state; `loss`, the metrics of the loss summed over the parts, and
          `gradient_norm`.
        """
        parts = self.config.num_parts
        position, batch = next_rows(self.source, state.stream, frozen["data"], parts)
        key = jax.random.fold_in(state.key, state.step)
        tokens = num_targets(batch)

        def share(base, params, part, index):
            model = self.steered(params, frozen).replace(base=base)
            return loss(model, part, jax.random.fold_in(key, index), tokens)

        (value, metrics), gradients = accumulated_gradients(
            gradient_through(self.model.base, share), state.params, batch, parts
        )
        params, optimiser_state, more = apply_gradients(
            self.config.make_optimiser(), gradients, state.optimiser_state, state.params
        )
        state = State(params, optimiser_state, position, state.key, state.step + 1)
        return state, {"loss": value, **metrics, **more}

    def switching(self, beta: chex.Array, batch: Trajectory) -> Metrics:
        """`switching_metrics` of gates `(B, S)` against the changes of subgoal."""
        counts = count_switches(
            beta, batch.subgoal, batch.segment, batch.mask, tolerance=self.tolerance
        )
        return switching_metrics(counts)

    def params(self, state: State) -> chex.ArrayTree:
        """Parameters of the module, and of the base model if it is trained."""
        return state.params
