"""Selection of learning rate and discovery settings, method by method (method §6, appendix C.5.5).

Every method is tried as often as every other one: grids differ in size by a factor of 72, so that
of each the same number of combinations is drawn, with a seed and without repetition. A method whose
grid is smaller than that is tried at rates between those of the grid too. Each is shown at the
combination with the best median over runs.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from internal_rl.analysis.sweeps.rate_distortion import alpha_fields
from internal_rl.analysis.sweeps.selection_results import figures, files, table
from internal_rl.analysis.sweeps.sweep import Run, Sweep, Value, tag, values_of
from internal_rl.methods.discovery import VARIANTS

DRAW = 0
"""Seed with which combinations are drawn."""

SHORT = {
    "metacontroller.alpha": "alpha",
    "compile.code_weight": "code",
    "compile.boundary_weight": "boundary",
    "compile.temperature": "temperature",
}
"""Discovery settings in names of runs and in tables."""


@dataclasses.dataclass(frozen=True)
class Values:
    """What the study goes through.

    Attributes:
      trials: combinations of every method.
      rates: learning rates.
      alphas: weights of the metacontroller's KL.
      weights: weights of CompILE's KL of codes, and of that of boundaries.
      temperatures: of CompILE's boundaries.
      base_models: that all methods stand on.
      discoveries: seeds of discovery on each base model, or of raw-action RL, which has none.
    """

    trials: int
    rates: tuple[float, ...]
    alphas: tuple[float, ...]
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]
    base_models: int
    discoveries: int


VALUES = {
    "smoke": Values(2, (1e-4, 1e-3), (0.1,), (0.1,), (1.0,), 1, 1),
    "small": Values(6, (3e-4, 1e-3, 3e-3), (0.03, 0.05, 0.1), (0.03, 0.1, 0.3), (0.5, 1.0), 1, 1),
    "ant-pinpad/small": Values(
        6, (3e-4, 1e-3, 3e-3), (0.3, 0.8, 2.0), (0.03, 0.1, 0.3), (0.5, 1.0), 1, 1
    ),
    "paper": Values(
        trials=15,
        rates=(3e-6, 1e-5, 3e-5, 1e-4, 3e-4),
        alphas=(0.0, 0.05, 0.1, 0.17, 0.3, 0.5, 1.0),
        weights=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        temperatures=(0.5, 1.0),
        base_models=10,
        discoveries=3,
    ),
}


@dataclasses.dataclass(frozen=True)
class Way:
    """A method that is tried.

    Attributes:
      name: of the method.
      stages: discovery, if there is one, and reinforcement learning.
      fields: fields of the config that make it this method.
      grid: discovery settings, the values of each.
    """

    name: str
    stages: tuple[str, ...]
    fields: Mapping[str, Any]
    grid: Mapping[str, Sequence[float]]

    @property
    def section(self) -> str:
        """Section of its reinforcement learning."""
        return self.stages[-1]

    def combinations(self, rates: Sequence[float]) -> list[tuple[float, ...]]:
        """All discovery settings at all rates, the rate last."""
        return list(itertools.product(*self.grid.values(), rates))


def ways(values: Values, settings: Any) -> list[Way]:
    """Methods that are compared."""
    found = []
    if settings.metacontroller is not None:
        found = [
            Way(
                variant,
                ("metacontroller", "internal_rl"),
                {"metacontroller.variant": variant},
                {"metacontroller.alpha": values.alphas},
            )
            for variant in VARIANTS
        ]
    if settings.compile is not None:
        grid = {"compile.code_weight": values.weights, "compile.boundary_weight": values.weights}
        grid["compile.temperature"] = values.temperatures
        fields = {"internal_rl.codes": "compile"}
        found.append(Way("compile", ("compile", "internal_rl"), fields, grid))
    return [*found, Way("raw_actions", ("raw_rl",), {}, {})]


def between(rates: Sequence[float]) -> list[float]:
    """The rates and the geometric means of neighbours, to two digits."""
    ordered = sorted(rates)
    means = [float(f"{math.sqrt(a * b):.1e}") for a, b in itertools.pairwise(ordered)]
    return sorted([*ordered, *means])


def trials_of(way: Way, values: Values) -> list[tuple[float, ...]]:
    """Combinations at which a method is tried, drawn with `DRAW`.

    More trials hold those of fewer, so that a study can be continued with more, unless rates had to
    be refined. A single rate cannot be refined.
    """
    rates = list(values.rates)
    while len(way.combinations(rates)) < values.trials and len(rates) > 1:
        rates = between(rates)
    combinations = way.combinations(rates)
    order = np.random.default_rng(DRAW).permutation(len(combinations))
    return [combinations[index] for index in order[: values.trials]]


def runs(settings: Any, values: Values | None = None) -> list[Run]:
    """For every method its discoveries, and reinforcement learning at every trial."""
    values = values or values_of(VALUES, settings)
    found: dict[str, Run] = {}
    for way in ways(values, settings):
        for *chosen, rate in sorted(trials_of(way, values)):
            given = dict(zip(way.grid, chosen, strict=True))
            for run in _trial(way, given, rate, settings, values):
                found.setdefault(run.name, run)
    return list(found.values())


def _trial(
    way: Way, chosen: Mapping[str, float], rate: float, settings: Any, values: Values
) -> list[Run]:
    """The discovery of a trial, if the method has one, and its reinforcement learning."""
    fields, name = dict(way.fields), way.name
    for field, value in chosen.items():
        alpha = field == "metacontroller.alpha"
        fields |= alpha_fields(settings, value) if alpha else {field: value}
        name += f"_{SHORT[field]}{tag(value)}"
    seeds = {"pretrain": values.base_models, way.stages[0]: values.discoveries}
    discovery = [Run(name, way.stages[:1], fields, seeds)] if way.grid else []
    labels: dict[str, Value] = {"method": way.name, "rate": rate}
    labels |= {SHORT[field]: value for field, value in chosen.items()}
    learning = Run(
        name=f"{name}_rate{tag(rate)}",
        stages=(way.section,),
        fields={**fields, **_rate_fields(way.section, rate, settings)},
        seeds={**seeds, **({way.section: 1} if way.grid else {})},
        labels=labels,
        reads=tuple(run.name for run in discovery),
    )
    return [*discovery, learning]


def _rate_fields(section: str, rate: float, settings: Any) -> dict[str, float]:
    """Fields for a learning rate; one that falls does so by the same factor as in the config."""
    given = settings.sections[section]
    fields = {f"{section}.learning_rate": rate}
    if given.final_learning_rate >= 0:
        final = rate * given.final_learning_rate / given.learning_rate
        fields[f"{section}.final_learning_rate"] = float(f"{final:.6g}")
    return fields


SWEEP = Sweep(
    name="selection",
    title="Reinforcement learning: selection of rate and discovery settings",
    runs=runs,
    table=table,
    figures=figures,
    inputs=("pretrain",),
    files=files,
    # Settings are chosen before a whole run.
    reproduced=False,
    captions={
        "selection": "Left, success of every trial by method and rate, the best of each ringed;"
        " right, success of the batches of the best against episodes."
    },
)
