"""Success of supervised controllers against the training age of the base model (method §4, §7).

Ages are the snapshots of pretraining, `pretrain.snapshot_steps`, and its end; a config without
snapshots gets two.
"""

import dataclasses
from typing import Any

from internal_rl.analysis.sweeps import controllers
from internal_rl.analysis.sweeps.sweep import Run, Sweep, values_of

LABEL = "updates of the base model"
TITLE = "Supervised controllers by training age of the base model"


@dataclasses.dataclass(frozen=True)
class Values:
    """What the study goes through.

    Attributes:
      base_models: for each depth.
      depths: of the base model; empty for that of the config.
    """

    base_models: int
    depths: tuple[int, ...] = ()


VALUES = {
    "smoke": Values(1),
    "small": Values(3),
    "ant-pinpad/small": Values(2),
    "paper": Values(10, (4, 6, 8)),
}


def ages_of(settings: Any) -> tuple[int, ...]:
    """Snapshots before the end of training; a quarter and a half of it, if there are none."""
    pretrain = settings.pretrain
    before = tuple(age for age in pretrain.ages if age < pretrain.steps)
    if before:
        return before
    lines = (pretrain.steps // share // pretrain.log_every for share in (4, 2))
    return tuple(dict.fromkeys(line * pretrain.log_every for line in lines if line))


def runs(settings: Any, values: Values | None = None) -> list[Run]:
    """Base models of every depth, and controllers on each at every age."""
    values, ages = values or values_of(VALUES, settings), ages_of(settings)
    found = []
    for depth in controllers.depths_of(values.depths, settings):
        base = f"depth{depth}_base"
        fields = {**controllers.depth_fields(settings, depth), "pretrain.snapshot_steps": ages}
        seeds = {"pretrain": values.base_models}
        found.append(Run(base, ("pretrain",), fields, seeds))
        # The end of the training is age 0 to the stage.
        for age in (*ages, 0):
            updates = age or settings.pretrain.steps
            found.append(
                Run(
                    name=f"depth{depth}_age{updates}",
                    stages=("steer",),
                    fields={**fields, "steer.base_step": age},
                    seeds={**seeds, "steer": 1},
                    labels={"depth": depth, LABEL: updates},
                    reads=(base,),
                )
            )
    return found


SWEEP = Sweep(
    name="ablation_age",
    title=TITLE,
    runs=runs,
    table=lambda results: controllers.table_of_values(results, LABEL),
    figures=lambda results: controllers.draw(
        "ablation_age", controllers.figure_of_values(results, LABEL, TITLE, even=False)
    ),
    inputs=("collect",),
    captions={"ablation_age": controllers.CAPTION},
)
