"""Success of supervised controllers against ε, the noise of the expert in D (method §4)."""

import dataclasses
from typing import Any

from internal_rl.analysis.sweeps import controllers
from internal_rl.analysis.sweeps.sweep import Run, Sweep, values_of

LABEL = "noise ε of the expert"
TITLE = "Supervised controllers by noise of the expert of pretraining"


@dataclasses.dataclass(frozen=True)
class Values:
    """What the study goes through.

    Attributes:
      epsilons: shares of random actions of the expert.
      base_models: for each.
      depths: of the base model; empty for that of the config.
    """

    epsilons: tuple[float, ...]
    base_models: int
    depths: tuple[int, ...] = ()


VALUES = {
    "smoke": Values((0.1,), 1),
    "small": Values((0.0, 0.05, 0.1, 0.2), 3),
    "paper": Values((0.0, 0.05, 0.1, 0.2), 10, (6, 8)),
}


def runs(settings: Any, values: Values | None = None) -> list[Run]:
    """Base models with every ε, and controllers on each.

    Raises:
      ValueError: trajectories are collected beforehand, so that their noise is what it is.
    """
    if settings.collect is not None:
        raise ValueError(
            "data.epsilon: not read where trajectories are collected beforehand; allowed is a"
            " config without `collect`"
        )
    values = values or values_of(VALUES, settings)
    return controllers.controllers_of_values(
        settings,
        "data.epsilon",
        {LABEL: values.epsilons},
        base_models=values.base_models,
        depths=values.depths,
    )


SWEEP = Sweep(
    name="ablation_noise",
    title=TITLE,
    runs=runs,
    table=lambda results: controllers.table_of_values(results, LABEL),
    figures=lambda results: controllers.draw(
        "ablation_noise", controllers.figure_of_values(results, LABEL, TITLE, even=True)
    ),
    captions={"ablation_noise": controllers.CAPTION},
)
