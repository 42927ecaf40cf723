"""Discovery: the metacontroller learns abstract actions, without labels (method §5).

It reads the residual stream of a base model on clean expert trajectories, and steers it so that the
expert's actions become likely. Codes cost what they tell (the KL), gates decide when a new one is
taken. The base model is frozen; in the baseline of co-training it learns on the same loss.
"""

import dataclasses
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp

from internal_rl.methods.code_finding import (
    CodeFinder,
    CodeFindingSettings,
    State,
    rising_share,
)
from internal_rl.methods.evaluation import held_out
from internal_rl.methods.method import Metrics
from internal_rl.models.base_model import BaseModel
from internal_rl.models.heads import action_log_prob
from internal_rl.models.metacontroller import (
    UNAIDED,
    Discovery,
    GateTraining,
    Metacontroller,
    MetacontrollerConfig,
)
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import LARGEST_WHOLE, WEIGHT, at_least, one_of, setting
from internal_rl.types import Trajectory

VARIANTS: dict[str, dict[str, Any]] = {
    "discovered": {},
    "forced": {"gate": "one"},
    "unaligned": {"gate": "random"},
    "cotrained": {},
}
"""Fields of the metacontroller that a variant sets: as the config says; the same with `β = 1`
throughout; a control whose switches are drawn at random; as the config says, with a base model that
is trained together with it."""

BASES = ("pretrained", "random")
"""What the base model of co-training starts from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(MetacontrollerConfig, CodeFindingSettings):
    """Section `metacontroller`: the module's own fields, and how it is trained.

    Attributes:
      variant: one of `VARIANTS`; `"forced"` and `"unaligned"` take no notice of `gate`.
      base_from: what the base model of the variant `"cotrained"` starts from: `"pretrained"`
        parameters, or `"random"` ones; no other variant reads it.
      alpha: weight of the KL, see `alpha_schedule`; the paper tries {0, 0.05, 0.1, 0.17, 0.3, 0.5,
        1}.
      alpha_start: weight at which it begins to rise by constant factors; 0 for a straight line
        (open).
      alpha_free_steps: updates before that, at weight 0 (open).
      alpha_ramp_steps: updates over which it rises (open).
      min_action_std: least standard deviation of actions in the loss, where they are continuous
        (open).
      gate_open_steps: updates at the beginning over which gates are held open (open).
      gate_release_steps: updates over which they are then released (open).
      gate_noise_free_steps: updates at the beginning in which gates have no noise; of `"gumbel"`
        gates (open).
      gate_noise_ramp_steps: updates over which it then rises (open).
    """

    stage: ClassVar[str] = "metacontroller"

    variant: str = setting("discovered", one_of(tuple(VARIANTS)))
    base_from: str = setting("random", one_of(BASES), historical="pretrained")
    alpha: float = setting(0.17, WEIGHT)
    alpha_start: float = setting(0.0, WEIGHT)
    alpha_free_steps: int = setting(2_000, at_least(0))
    alpha_ramp_steps: int = setting(2_000, at_least(0))
    min_action_std: float = setting(0.0, WEIGHT)
    gate_open_steps: int = setting(0, at_least(0))
    gate_release_steps: int = setting(0, at_least(0))
    gate_noise_free_steps: int = setting(0, at_least(0))
    gate_noise_ramp_steps: int = setting(0, at_least(0))
    steps: int = setting(64_000, at_least(1))

    def check(self) -> None:
        """The weight of the KL rises and never falls; steps are numbers of 32 bits."""
        super().check()
        allowed = f"0 to {self.alpha} (metacontroller.alpha)"
        self.require(self.alpha_start <= self.alpha, "alpha_start", allowed)
        most = LARGEST_WHOLE - self.gate_open_steps
        allowed = f"up to {most} behind gate_open_steps = {self.gate_open_steps}"
        self.require(self.gate_release_steps <= most, "gate_release_steps", allowed)

    @property
    def metacontroller_config(self) -> MetacontrollerConfig:
        """What the module of the variant is made from."""
        return dataclasses.replace(self.part(MetacontrollerConfig), **VARIANTS[self.variant])

    @property
    def trains_base(self) -> bool:
        """See `CodeFindingSettings`."""
        return self.variant == "cotrained"

    @property
    def reads_base(self) -> bool:
        """See `CodeFindingSettings`."""
        return not self.trains_base or self.base_from == "pretrained"

    def make_module(self, base: BaseModel) -> Metacontroller:
        """The metacontroller of the variant."""
        return Metacontroller(base.width, self.metacontroller_config)

    def decisive(self) -> dict[str, Any]:
        """See `Section.decisive`: `base_from` decides nothing of a frozen base model."""
        fields = super().decisive()
        if not self.trains_base:
            del fields["base_from"]
        return fields


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


def gate_schedule(config: Config, step: chex.Array) -> GateTraining:
    """How gates are helped at the beginning of training.

    Where subgoals are long, gates that are free from the start shut before the codes mean anything:
    a new code is then nothing but new noise. They are held open at first, a floor of 1, which then
    falls linearly to 0. Noise, which makes gates binary in the end, comes after the codes too: it
    rises linearly from 0 to that of the Gumbel-sigmoid.
    """
    last = config.gate_open_steps + config.gate_release_steps
    left = jnp.asarray(last - step, jnp.float32)
    return GateTraining(
        floor=jnp.clip(left / max(config.gate_release_steps, 1), 0.0, 1.0),
        noise=rising_share(step, config.gate_noise_free_steps, config.gate_noise_ramp_steps),
    )


def discovery_losses(
    model: SteeredModel,
    batch: Trajectory,
    key: chex.PRNGKey,
    tokens: chex.Array,
    *,
    gates: GateTraining = UNAIDED,
    min_action_std: float = 0.0,
) -> tuple[chex.Array, chex.Array, Discovery]:
    """Both terms of the loss, summed over `batch` and divided by `tokens`, and what was inferred.

    Args:
      model: base model and metacontroller.
      batch: `(B, S)` packed rows; labels are not read.
      key: noise of the codes.
      tokens: `()` number of actions that makes the sums means.
      gates: see `Metacontroller.discover`.
      min_action_std: see `heads.action_log_prob`.

    Returns:
      `-ln p(a_t|o_{1:t}, z_{1:t})` in nats, the unweighted KL in nats, and the `Discovery`.
    """
    residual = model.lower(batch.observation, batch.segment)
    discovery = model.discover(residual, batch.segment, key, gates)
    controlled = model.control(residual, discovery.code)
    output = model.upper(controlled, batch.segment)
    spec = model.base.action_spec
    log_prob = action_log_prob(spec, output.action, batch.action, min_action_std)
    mask = batch.mask.astype(jnp.float32)
    return -(log_prob * mask).sum() / tokens, (discovery.kl * mask).sum() / tokens, discovery


@dataclasses.dataclass(frozen=True, eq=False)
class CodeDiscovery(CodeFinder):
    """Trains a metacontroller on a frozen base model, or together with one (`"cotrained"`).

    Attributes:
      config: the metacontroller, the layer that it controls, and how it trains.
    """

    config: Config

    def update(self, state: State, frozen: dict) -> tuple[State, Metrics]:
        """One gradient step.

        Returns:
          The new state, and `loss`, `action_nll` and `kl` in nats per action, `alpha` and
          `gradient_norm`.
        """
        alpha = alpha_schedule(self.config, state.step)
        gates = gate_schedule(self.config, state.step)

        def loss(model, part, key, tokens):
            nll, kl, _ = discovery_losses(
                model,
                part,
                key,
                tokens,
                gates=gates,
                min_action_std=self.config.min_action_std,
            )
            return nll + alpha * kl, {"action_nll": nll, "kl": kl}

        state, metrics = self.gradient_step(state, frozen, loss)
        return state, {**metrics, "alpha": alpha}

    def evaluate(self, state: State, frozen: dict) -> Metrics:
        """Losses on held-out rows and, where these have labels, the `switching_metrics`.

        Codes are drawn and Gumbel gates have their noise, as in training.

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
        return metrics | self.switching(discovery.beta, batch)
