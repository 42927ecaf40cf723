"""Success of supervised controllers against λ, the weight of the observation loss (method §4)."""

import dataclasses
from typing import Any

from internal_rl.analysis.sweeps import controllers
from internal_rl.analysis.sweeps.sweep import Run, Sweep, values_of

LABEL = "observation loss λ"
TITLE = "Supervised controllers by observation loss of the base model"


@dataclasses.dataclass(frozen=True)
class Values:
    """What the study goes through.

    Attributes:
      weights: λ of the observation loss.
      base_models: for each.
      depths: of the base model; empty for that of the config.
    """

    weights: tuple[float, ...]
    base_models: int
    depths: tuple[int, ...] = ()


VALUES = {
    "smoke": Values((0.01,), 1),
    "small": Values((0.0, 0.001, 0.01, 0.1), 3),
    "paper": Values((0.0, 0.001, 0.01, 0.1), 10, (6, 8)),
}


def runs(settings: Any, values: Values | None = None) -> list[Run]:
    """Base models with every λ, and controllers on each."""
    values = values or values_of(VALUES, settings)
    return controllers.controllers_of_values(
        settings,
        "base.observation_loss",
        {LABEL: values.weights},
        base_models=values.base_models,
        depths=values.depths,
    )


SWEEP = Sweep(
    name="ablation_observation_loss",
    title=TITLE,
    runs=runs,
    table=lambda results: controllers.table_of_values(results, LABEL),
    figures=lambda results: controllers.draw(
        "ablation_observation_loss", controllers.figure_of_values(results, LABEL, TITLE, even=True)
    ),
    inputs=("collect",),
    captions={"ablation_observation_loss": controllers.CAPTION},
)
