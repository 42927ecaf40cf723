"""CompILE, the strongest baseline: segments with one code each, found in hindsight (method §6).

Kipf et al. 2019 (1812.01483) in the place of the metacontroller, as in appendix C.4.3. Clean expert
trajectories are cut into at most `M` segments; the base model, controlled by the code of a segment,
has to make its actions likely. Codes and boundaries cost what they tell (two KLs). Where segments
end is known from the whole trajectory alone: a causal gate learns beside it to tell from the past,
so that reinforcement learning can use the codes as it uses the metacontroller's.
"""

import dataclasses
from typing import ClassVar

import chex
import jax

from internal_rl.methods.code_finding import (
    CodeFinder,
    CodeFindingSettings,
    State,
    rising_share,
)
from internal_rl.methods.compile_losses import LossSettings, apply_compile, compile_losses
from internal_rl.methods.evaluation import held_out
from internal_rl.methods.method import Metrics
from internal_rl.models.base_model import BaseModel
from internal_rl.models.compile import Compile, CompileConfig, as_discovery, make_compile
from internal_rl.section import at_least, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CompileConfig, LossSettings, CodeFindingSettings):
    """Section `compile`: the module's own fields, and how it is trained (method §6).

    Attributes:
      layer: controlled layer `l`, 1 to `L`; the encoder has as many blocks; `L/2` in the paper.
      train_base: whether the base model, which starts from pretraining, is trained too (open).
      weight_free_steps: updates at the beginning in which codes and boundaries cost nothing (open).
      weight_ramp_steps: updates over which their weights then rise (open).
      num_parts: parts in which a batch passes through the model, see `pretrain`; every part does so
        `M` times.
    """

    stage: ClassVar[str] = "compile"
    lowest_layer: ClassVar[int] = 1

    layer: int = setting(3, at_least(lowest_layer))
    train_base: bool = setting(True)
    weight_free_steps: int = setting(1_000, at_least(0), historical=0)
    weight_ramp_steps: int = setting(1_000, at_least(0), historical=0)
    num_parts: int = setting(16, at_least(1))
    steps: int = setting(32_000, at_least(1))

    @property
    def trains_base(self) -> bool:
        """See `CodeFindingSettings`."""
        return self.train_base

    def make_module(self, base: BaseModel) -> Compile:
        """CompILE, whose encoder is shaped like the lower half of the base model."""
        return make_compile(base, self.layer, self.part(CompileConfig))


def weight_schedule(config: Config, step: chex.Array) -> chex.Array:
    """Share of the weights of both KLs, see `rising_share`.

    With their whole weight from the start codes are given up before they mean anything. Discovery
    begins in the same way, see `methods.discovery.alpha_schedule`.
    """
    return rising_share(step, config.weight_free_steps, config.weight_ramp_steps)


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentDiscovery(CodeFinder):
    """Trains CompILE, and by default the base model with it.

    Attributes:
      config: the module, the layer that it controls, and how it trains.
    """

    config: Config

    def update(self, state: State, frozen: dict) -> tuple[State, Metrics]:
        """One gradient step.

        Returns:
          The new state, and `loss`, the terms of `Losses` in nats per action, and `gradient_norm`.
        """
        share = weight_schedule(self.config, state.step)

        def loss(model, part, key, tokens):
            losses, _ = compile_losses(model, part, key, tokens, self.config)
            return losses.weighted(self.config, share), vars(losses)

        return self.gradient_step(state, frozen, loss)

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
        gate = self.switching(jax.nn.sigmoid(logits), batch)
        gate = {f"gate_{name}": value for name, value in gate.items()}
        return metrics | self.switching(found.beta, batch) | gate
