"""Discovery: the metacontroller learns abstract actions, without labels (method §5).

It reads the residual stream of a frozen base model on clean expert trajectories, and steers it so
that the expert's actions become likely. Codes cost what they tell (the KL), gates decide when a new
one is taken.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.methods.batches import next_rows, num_targets
from internal_rl.methods.evaluation import held_out
from internal_rl.methods.method import Metrics
from internal_rl.methods.switching import count_switches, switching_metrics
from internal_rl.models.heads import action_log_prob
from internal_rl.models.metacontroller import Discovery, Metacontroller, MetacontrollerConfig
from internal_rl.models.reach import gradient_through
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import COUNT, POSITIVE, at_least, one_of, setting
from internal_rl.training.accumulation import accumulated_gradients
from internal_rl.training.optimiser import apply_gradients
from internal_rl.training.randomness import named_keys
from internal_rl.training.settings import TrainingSettings
from internal_rl.types import DataSource, Trajectory, num_rows

VARIANTS: dict[str, dict[str, Any]] = {
    "discovered": {},
    "forced": {"gate": "one"},
    "unaligned": {"gate": "random"},
}
"""Fields of the metacontroller that a variant sets: as the config says; the same with `β = 1`
throughout; a control whose switches are drawn at random."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(MetacontrollerConfig, TrainingSettings):
    """Section `metacontroller`: the module's own fields, and how it is trained.

    Attributes:
      variant: one of `VARIANTS`.
      layer: controlled layer `l`, 0 (embedding) to `L`; `L/2` in the paper.
      alpha: weight of the KL, from {0, 0.05, 0.1, 0.17, 0.3, 0.5, 1}; see `alpha_schedule`.
      alpha_start: weight at which it begins to rise by constant factors; 0 for a straight line
        (open).
      alpha_free_steps: updates before that, at weight 0 (open).
      alpha_ramp_steps: updates over which it rises (open).
      min_action_std: least standard deviation of actions in the loss, where they are continuous
        (open).
      gate_open_steps: updates at the beginning over which gates are held open (open).
      gate_release_steps: updates over which they are then released (open).
      batch_size: trajectories of an update, in the mean.
      num_parts: parts in which a batch passes through the model, see `pretrain`.
      evaluation_rows: rows of held-out data in an evaluation (open).
      evaluation_episodes: episodes per arm of the code injection (open).
    """

    num_seeds: int = setting(10, COUNT)
    variant: str = setting("discovered", one_of(tuple(VARIANTS)))
    layer: int = setting(3, at_least(0))
    alpha: float = setting(0.17, at_least(0))
    alpha_start: float = setting(0.0, at_least(0))
    alpha_free_steps: int = setting(2_000, at_least(0))
    alpha_ramp_steps: int = setting(2_000, at_least(0))
    min_action_std: float = setting(0.0, at_least(0))
    gate_open_steps: int = setting(0, at_least(0))
    gate_release_steps: int = setting(0, at_least(0))
    batch_size: int = setting(512, at_least(1))
    num_parts: int = setting(4, at_least(1))
    evaluation_rows: int = setting(64, at_least(1))
    evaluation_episodes: int = setting(1_024, at_least(1))
    learning_rate: float = setting(1e-3, POSITIVE)
    steps: int = setting(64_000, at_least(1))
    log_every: int = setting(200, at_least(1))
    evaluate_every: int = setting(2_000, at_least(0))
    checkpoint_every: int = setting(1_000, at_least(1))

    def check(self) -> None:
        """The weight of the KL rises and never falls."""
        super().check()
        allowed = f"0 to {self.alpha} (metacontroller.alpha)"
        self.require(self.alpha_start <= self.alpha, "alpha_start", allowed)

    @property
    def metacontroller_config(self) -> MetacontrollerConfig:
        """What the module of the variant is made from."""
        return dataclasses.replace(self.part(MetacontrollerConfig), **VARIANTS[self.variant])


@struct.dataclass
class State:
    """Everything that changes while the metacontroller trains.

    Attributes:
      params: of the metacontroller.
      optimiser_state: state of the optimiser.
      stream: position in the data.
      key: randomness of the codes.
      step: `()` int32 updates done.
    """

    params: chex.ArrayTree
    optimiser_state: optax.OptState
    stream: Any
    key: chex.PRNGKey
    step: chex.Array


def alpha_schedule(config: Config, step: chex.Array) -> chex.Array:
    """Weight α of the KL: zero, then rising from `alpha_start` to `alpha`, then constant.

    The rise is geometric, so that the rate is squeezed out gradually; with `alpha_start = 0` it is
    linear.
    """
    since = jnp.asarray(step - config.alpha_free_steps, jnp.float32)
    progress = since / max(config.alpha_ramp_steps, 1)
    share = jnp.clip(progress, 0.0, 1.0)
    if config.alpha_start > 0:
        rising = config.alpha * (config.alpha_start / config.alpha) ** (1.0 - share)
    else:
        rising = config.alpha * share
    return jnp.where(progress < 0, 0.0, rising)


def gate_floor_schedule(config: Config, step: chex.Array) -> chex.Array:
    """The least that gates are open: 1 at first, falling linearly at the end, then 0.

    Where subgoals are long, gates that are free from the start shut before the codes mean anything:
    a new code is then nothing but new noise.
    """
    last = config.gate_open_steps + config.gate_release_steps
    left = jnp.asarray(last - step, jnp.float32)
    return jnp.clip(left / max(config.gate_release_steps, 1), 0.0, 1.0)


def discovery_losses(
    model: SteeredModel,
    batch: Trajectory,
    key: chex.PRNGKey,
    tokens: chex.Array,
    *,
    gate_floor: chex.Numeric = 0.0,
    min_action_std: float = 0.0,
) -> tuple[chex.Array, chex.Array, Discovery]:
    """Both terms of the loss, summed over `batch` and divided by `tokens`, and what was inferred.

    Args:
      model: base model and metacontroller.
      batch: `(B, S)` packed rows; labels are not read.
      key: noise of the codes.
      tokens: `()` number of actions that makes the sums means.
      gate_floor: see `Metacontroller.discover`.
      min_action_std: see `heads.action_log_prob`.

    Returns:
      `-ln p(a_t|o_{1:t}, z_{1:t})` in nats, the unweighted KL in nats, and the `Discovery`.
    """
    residual = model.lower(batch.observation, batch.segment)
    discovery = model.discover(residual, batch.segment, key, gate_floor)
    controlled = model.control(residual, discovery.code)
    output = model.upper(controlled, batch.segment)
    spec = model.base.action_spec
    log_prob = action_log_prob(spec, output.action, batch.action, min_action_std)
    mask = batch.mask.astype(jnp.float32)
    return -(log_prob * mask).sum() / tokens, (discovery.kl * mask).sum() / tokens, discovery


@dataclasses.dataclass(frozen=True, eq=False)
class CodeDiscovery:
    """Trains a metacontroller on a frozen base model.

    Attributes:
      config: the metacontroller, the layer that it controls, and how it trains.
      model: whose base model is steered; layer and metacontroller are those of `config`.
      source: clean expert trajectories; labels are read by `evaluate` alone.
      tolerance: steps by which a switch may miss a change of subgoal and still count as close.

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
    def metacontroller(self) -> Metacontroller:
        """The module that is trained."""
        return Metacontroller(self.model.base.width, self.config.metacontroller_config)

    @property
    def frozen(self) -> dict[str, Any]:
        """What stays as it is: the base model and the arrays of the data."""
        return {"model": self.model.alone(), "data": self.source.arrays}

    def steered(self, params: chex.ArrayTree, frozen: dict) -> SteeredModel:
        """The base model under a metacontroller with these parameters."""
        return frozen["model"].replace(
            layer=self.config.layer,
            metacontroller=self.metacontroller,
            metacontroller_params=params,
        )

    def init(self, key: chex.PRNGKey, frozen: dict) -> State:
        """An untrained metacontroller, and the beginning of the data."""
        del frozen
        keys = named_keys(key, "params", "data", "noise")
        params = self.metacontroller.initial_params(keys["params"])
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
          The new state, and `loss`, `action_nll` and `kl` in nats per action, `alpha` and
          `gradient_norm`.
        """
        position, batch = next_rows(self.source, state.stream, frozen["data"])
        alpha = alpha_schedule(self.config, state.step)
        floor = gate_floor_schedule(self.config, state.step)
        key = jax.random.fold_in(state.key, state.step)
        tokens = num_targets(batch)

        def share(base, params, part, index):
            model = self.steered(params, frozen).replace(base=base)
            part_key = jax.random.fold_in(key, index)
            nll, kl, _ = discovery_losses(
                model,
                part,
                part_key,
                tokens,
                gate_floor=floor,
                min_action_std=self.config.min_action_std,
            )
            return nll + alpha * kl, (nll, kl)

        (value, (nll, kl)), gradients = accumulated_gradients(
            gradient_through(self.model.base, share), state.params, batch, self.config.num_parts
        )
        params, optimiser_state, more = apply_gradients(
            self.config.make_optimiser(), gradients, state.optimiser_state, state.params
        )
        state = State(params, optimiser_state, position, state.key, state.step + 1)
        return state, {"loss": value, "action_nll": nll, "kl": kl, "alpha": alpha, **more}

    def evaluate(self, state: State, frozen: dict) -> Metrics:
        """Losses on held-out rows and, where these have labels, the `switching_metrics`.

        Returns:
          `loss`, with the final weight of the KL, `action_nll` and `kl` in nats per action; ratios
          of switches and changes of subgoal.
        """
        batch = held_out(self.source, self.config.evaluation_rows, frozen["data"])
        nll, kl, discovery = discovery_losses(
            self.steered(state.params, frozen),
            batch,
            jax.random.key(0),
            batch.num_targets(),
            min_action_std=self.config.min_action_std,
        )
        metrics = {"loss": nll + self.config.alpha * kl, "action_nll": nll, "kl": kl}
        if batch.subgoal is None:
            return metrics
        counts = count_switches(
            discovery.beta,
            batch.subgoal,
            batch.segment,
            batch.mask,
            tolerance=self.tolerance,
        )
        return metrics | switching_metrics(counts)

    def params(self, state: State) -> chex.ArrayTree:
        """Parameters of the metacontroller."""
        return state.params
