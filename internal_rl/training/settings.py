"""Settings of every stage with updates: its optimiser, its length, how often it reports."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import optax

from internal_rl.section import (
    COUNT,
    RATE,
    WEIGHT,
    Rule,
    Section,
    SettingError,
    at_least,
    below,
    one_of,
    setting,
)
from internal_rl.training.optimiser import OPTIMISERS, make_optimiser, make_schedule

_FINAL_RATE = Rule(lambda value: value <= 1e3, "up to 1000")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedsPerInput(Section):
    """The field of a stage that reads another one seed by seed.

    Attributes:
      seeds_per_input: seeds for each seed of the stage that is read: of 10 base models and 3 there
        are 30, of which the k-th reads base model `k modulo 10`.
    """

    replaced: ClassVar[Mapping[str, str]] = {
        "num_seeds": "seeds_per_input, the seeds for each seed of the stage that is read"
    }

    seeds_per_input: int = setting(1, COUNT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(Section):
    """Fields that the sections of all trained stages share.

    Attributes:
      seeds_together: seeds that are trained as one program, at most; the others follow in groups of
        so many, which bounds the memory (open).
      optimiser: `"adamw"` or `"muon"`.
      learning_rate: after the warm-up.
      warmup_steps: updates over which the rate rises from 0.
      final_learning_rate: at the end of the decay; below 0 the rate stays constant.
      decay_steps: updates, those of the warm-up among them, after which the rate has come to
        `final_learning_rate` and stays there; 0 for all of the stage.
      weight_decay: decoupled, multiplied by the learning rate.
      b1: decay of AdamW's first moment; Muon's own momentum is 0.95.
      b2: decay of the second moment.
      max_gradient_norm: gradients are scaled down to this global norm; 0 for no clipping.
      steps: updates of the whole stage. May be raised later to train a finished stage further;
        where its rate has fallen to `final_learning_rate`, with the `decay_steps` that it had.
      log_every: updates averaged into one line of metrics.
      evaluate_every: updates between evaluations, a multiple of `log_every`; 0 for the end only.
      checkpoint_every: updates between checkpoints, a multiple of `log_every`.
      checkpoint_minutes: a checkpoint is also saved where the last one is as old as this; 0 for
        never.
      steps_per_call: updates inside one compiled call.
    """

    seeds_together: int = setting(10, COUNT)
    optimiser: str = setting("adamw", one_of(OPTIMISERS))
    learning_rate: float = setting(3e-4, RATE)
    warmup_steps: int = setting(0, at_least(0))
    final_learning_rate: float = setting(-1.0, _FINAL_RATE)
    decay_steps: int = setting(0, at_least(0))
    weight_decay: float = setting(0.03, WEIGHT)
    b1: float = setting(0.9, below(1))
    b2: float = setting(0.999, below(1))
    max_gradient_norm: float = setting(0.0, at_least(0))
    steps: int = setting(1_000, at_least(1))
    log_every: int = setting(100, at_least(1))
    evaluate_every: int = setting(1_000, at_least(0))
    checkpoint_every: int = setting(1_000, at_least(1))
    checkpoint_minutes: float = setting(10.0, at_least(0))
    steps_per_call: int = setting(100, at_least(1))

    def check(self) -> None:
        """Reports and checkpoints fall together; the warm-up ends before the stage does."""
        for field in ("checkpoint_every", "evaluate_every"):
            self.require_multiples(field, getattr(self, field))
        self.require(self.warmup_steps < self.steps, "warmup_steps", f"below steps = {self.steps}")
        self.require(
            not self.decay_steps or self.decay_steps > self.warmup_steps,
            "decay_steps",
            f"0, or above warmup_steps = {self.warmup_steps}",
        )

    def require_multiples(self, field: str, *values: int) -> None:
        """Raises SettingError about a field unless all values are multiples of `log_every`."""
        if any(value % self.log_every for value in values):
            allowed = f"a multiple of log_every = {self.log_every}"
            raise SettingError(field, f"{getattr(self, field)!r} given, allowed is {allowed}")

    @property
    def gradient_steps(self) -> int:
        """How often the optimiser is called in an update."""
        return 1

    def make_optimiser(self) -> optax.GradientTransformation:
        """The optimiser with its schedule, which goes by updates."""
        calls = self.gradient_steps
        return make_optimiser(
            make_schedule(
                self.learning_rate,
                calls * (self.decay_steps or self.steps),
                calls * self.warmup_steps,
                self.final_learning_rate,
            ),
            weight_decay=self.weight_decay,
            b1=self.b1,
            b2=self.b2,
            max_gradient_norm=self.max_gradient_norm,
            optimiser=self.optimiser,
        )
