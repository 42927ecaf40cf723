"""Success of supervised controllers against the weight decay of the base model (method §4, §7)."""

import dataclasses
from typing import Any

from internal_rl.analysis.sweeps import controllers
from internal_rl.analysis.sweeps.sweep import Run, Sweep, values_of

LABEL = "weight decay"
TITLE = "Supervised controllers by weight decay of the base model"


@dataclasses.dataclass(frozen=True)
class Values:
    """What the study goes through.

    Attributes:
      weight_decays: of pretraining.
      base_models: for each.
      depths: of the base model; empty for that of the config.
    """

    weight_decays: tuple[float, ...]
    base_models: int
    depths: tuple[int, ...] = ()


VALUES = {
    "smoke": Values((0.03,), 1),
    "small": Values((0.0, 0.01, 0.03, 0.1, 0.3), 3),
    "paper": Values((0.0, 0.01, 0.03, 0.1, 0.3), 10, (6, 8)),
}


def runs(settings: Any, values: Values | None = None) -> list[Run]:
    """Base models with every weight decay, and controllers on each."""
    values = values or values_of(VALUES, settings)
    return controllers.controllers_of_values(
        settings,
        "pretrain.weight_decay",
        {LABEL: values.weight_decays},
        base_models=values.base_models,
        depths=values.depths,
    )


SWEEP = Sweep(
    name="ablation_weight_decay",
    title=TITLE,
    runs=runs,
    table=lambda results: controllers.table_of_values(results, LABEL),
    figures=lambda results: controllers.draw(
        "ablation_weight_decay", controllers.figure_of_values(results, LABEL, TITLE, even=True)
    ),
    inputs=("collect",),
    captions={"ablation_weight_decay": controllers.CAPTION},
)
