"""CompILE, the strongest baseline: segments with one code each, found in hindsight (method §6).

Kipf et al. 2019 (1812.01483) in the place of the metacontroller, as in appendix C.4.3. Clean expert
trajectories are cut into at most `M` segments; the base model, controlled by the code of a segment,
has to make its actions likely. Codes and boundaries cost what they tell (two KLs). Where segments
end is known from the whole trajectory alone: a causal gate learns beside it to tell from the past,
so that reinforcement learning can use the codes as it uses the metacontroller's.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.methods.batches import next_rows, num_targets
from internal_rl.methods.compile_losses import LossSettings, apply_compile, compile_losses
from internal_rl.methods.evaluation import held_out
from internal_rl.methods.method import Metrics
from internal_rl.methods.switching import count_switches, switching_metrics
from internal_rl.models.compile import Compile, CompileConfig, as_discovery, make_compile
from internal_rl.models.reach import gradient_through
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import COUNT, POSITIVE, at_least, setting
from internal_rl.training.accumulation import accumulated_gradients
from internal_rl.training.optimiser import apply_gradients
from internal_rl.training.randomness import named_keys
from internal_rl.training.settings import TrainingSettings
from internal_rl.types import DataSource, Trajectory, num_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CompileConfig, LossSettings, TrainingSettings):
    """Section `compile`: the module's own fields, and how it is trained (method §6).

    Attributes:
      layer: controlled layer `l`, 1 to `L`; the encoder has as many blocks; `L/2` in the paper.
      train_base: whether the base model, which starts from pretraining, is trained too (open).
      batch_size: trajectories of an update, in the mean.
      num_parts: parts in which a batch passes through the model, see `pretrain`; every part does so
        `M` times.
      evaluation_rows: rows of held-out data in an evaluation (open).
      evaluation_episodes: episodes per arm of the code injection (open).
    """

    num_seeds: int = setting(10, COUNT)
    layer: int = setting(3, at_least(1))
    train_base: bool = setting(True)
    batch_size: int = setting(512, at_least(1))
    num_parts: int = setting(16, at_least(1))
    evaluation_rows: int = setting(64, at_least(1))
    evaluation_episodes: int = setting(1_024, at_least(1))
    learning_rate: float = setting(1e-3, POSITIVE)
    steps: int = setting(32_000, at_least(1))
    log_every: int = setting(200, at_least(1))
    evaluate_every: int = setting(2_000, at_least(0))
    checkpoint_every: int = setting(1_000, at_least(1))


@struct.dataclass
class State:
    """Everything that changes while CompILE trains.

    Attributes:
      params: `compile`, of the module, and `base`, of the base model if it is trained.
      optimiser_state: state of the optimiser.
      stream: position in the data.
      key: randomness of boundaries and codes.
      step: `()` int32 updates done.
    """

    params: dict[str, chex.ArrayTree]
    optimiser_state: optax.OptState
    stream: Any
    key: chex.PRNGKey
    step: chex.Array


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentDiscovery:
    """Trains CompILE, and by default the base model with it.

    Attributes:
      config: the module, the layer that it controls, and how it trains.
      model: whose base model is controlled; layer and metacontroller are those of `config`.
      source: clean expert trajectories; labels are read by `evaluate` alone.
      tolerance: steps by which a boundary may miss a change of subgoal and still count as close.

    Raises:
      SettingError: the base model has no such layer.
    """

    config: Config
    model: SteeredModel
    source: DataSource
    tolerance: int = 1

    def __post_init__(self):
        self.model.base.config.check_layer("layer", self.config.layer)

    @property
    def module(self) -> Compile:
        """The module that is trained."""
        return module_of(self.config, self.model)

    @property
    def frozen(self) -> dict[str, Any]:
        """What stays as it is: the pretrained base model and the arrays of the data."""
        return {"model": self.model.alone(), "data": self.source.arrays}

    def steered(self, params: dict, frozen: dict) -> SteeredModel:
        """The base model under CompILE with these parameters."""
        return steered_by(self.config, frozen["model"], params)

    def init(self, key: chex.PRNGKey, frozen: dict) -> State:
        """Untrained CompILE, the pretrained base model, and the beginning of the data."""
        keys = named_keys(key, "params", "data", "noise")
        params = {"compile": self.module.initial_params(keys["params"])}
        if self.config.train_base:
            params["base"] = jax.tree.map(jnp.asarray, frozen["model"].base_params)
        rows = num_rows(self.source, self.config.batch_size, self.config.num_parts)
        return State(
            params,
            self.config.make_optimiser().init(params),
            self.source.init(keys["data"], rows),
            keys["noise"],
            jnp.int32(0),
        )

    def update(self, state: State, frozen: dict) -> tuple[State, Metrics]:
        """One gradient step.

        Returns:
          The new state, and `loss`, the terms of `Losses` in nats per action, and `gradient_norm`.
        """
        position, batch = next_rows(self.source, state.stream, frozen["data"])
        key = jax.random.fold_in(state.key, state.step)
        tokens = num_targets(batch)

        def share(base, params, part, index):
            model = self.steered(params, frozen).replace(base=base)
            part_key = jax.random.fold_in(key, index)
            losses, _ = compile_losses(model, part, part_key, tokens, self.config)
            return losses.weighted(self.config), losses

        (value, losses), gradients = accumulated_gradients(
            gradient_through(self.model.base, share), state.params, batch, self.config.num_parts
        )
        params, optimiser_state, more = apply_gradients(
            self.config.make_optimiser(), gradients, state.optimiser_state, state.params
        )
        state = State(params, optimiser_state, position, state.key, state.step + 1)
        return state, {"loss": value, **vars(losses), **more}

    def evaluate(self, state: State, frozen: dict) -> Metrics:
        """Losses on held-out rows, each boundary where it is most probable.

        Returns:
          `loss` and its terms in nats per action; where rows have labels also the
          `switching_metrics` of the boundaries, and with the prefix `gate_` those of the causal
          gate, both against the changes of subgoal.
        """
        batch = held_out(self.source, self.config.evaluation_rows, frozen["data"])
        model, key = self.steered(state.params, frozen), jax.random.key(0)
        losses, segments = compile_losses(
            model, batch, key, batch.num_targets(), self.config, relaxed=False
        )
        metrics = {"loss": losses.weighted(self.config), **vars(losses)}
        if batch.subgoal is None:
            return metrics
        found = as_discovery(segments, batch.segment)
        residual = model.lower(batch.observation, batch.segment)
        logits = apply_compile(model, "gate_logits", residual, batch.segment, found.code)
        gate = self._switching(jax.nn.sigmoid(logits), batch)
        gate = {f"gate_{name}": value for name, value in gate.items()}
        return metrics | self._switching(found.beta, batch) | gate

    def _switching(self, beta: chex.Array, batch: Trajectory) -> Metrics:
        counts = count_switches(
            beta, batch.subgoal, batch.segment, batch.mask, tolerance=self.tolerance
        )
        return switching_metrics(counts)

    def params(self, state: State) -> dict[str, chex.ArrayTree]:
        """Parameters of the module, and of the base model if it is trained."""
        return state.params


def module_of(config: Config, model: SteeredModel) -> Compile:
    """CompILE as a section describes it, for a base model."""
    return make_compile(model.base, config.layer, config.part(CompileConfig))


def steered_by(config: Config, model: SteeredModel, params: dict) -> SteeredModel:
    """A base model under trained CompILE.

    Args:
      config: the section `compile`.
      model: the pretrained base model.
      params: as `SegmentDiscovery.params` gives them.
    """
    return model.replace(
        layer=config.layer,
        base_params=params.get("base", model.base_params),
        metacontroller=module_of(config, model),
        metacontroller_params=params["compile"],
    )
