"""Success of supervised controllers by layer and depth of the base model (method §4, §7).

Layers are counted from the middle of the base model, `l - L/2`.
"""

import dataclasses
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from internal_rl.analysis.drawing import draw_band, legend, palette, panels, tell
from internal_rl.analysis.sweeps import controllers
from internal_rl.analysis.sweeps.sweep import Run, Sweep, SweepResults, values_of
from internal_rl.analysis.sweeps.table import SweepTable


@dataclasses.dataclass(frozen=True)
class Values:
    """What the study goes through.

    Attributes:
      depths: of the base model.
      base_models: of each depth.
    """

    depths: tuple[int, ...]
    base_models: int


VALUES = {
    "smoke": Values((1, 2), 1),
    "small": Values((3, 4, 5, 6), 3),
    # Of one base model each: together with their controllers they take some four hours of a core.
    "ant-pinpad/small": Values((2, 4, 6), 1),
    "paper": Values((4, 6, 8), 5),
}


def runs(settings: Any, values: Values | None = None) -> list[Run]:
    """Base models of every depth, and controllers on each."""
    values = values or values_of(VALUES, settings)
    return [
        Run(
            name=f"depth{depth}",
            stages=("pretrain", "steer"),
            fields=controllers.depth_fields(settings, depth),
            seeds={"pretrain": values.base_models, "steer": 1},
            labels={"depth": depth},
        )
        for depth in values.depths
    ]


def table(results: SweepResults) -> SweepTable:
    """A row for each depth and layer."""
    columns = ("depth", "layer", "from the middle", "success", "base models")
    rows = []
    for run in results.runs:
        depth = run.labels["depth"]
        for layer in range(len(controllers.success(run.seeds[0]))):
            found = run.summary(lambda seed, layer=layer: float(controllers.success(seed)[layer]))
            rows.append((depth, layer, layer - depth / 2, found, len(run.seeds)))
    return SweepTable(columns, rows, controllers.told_success(results))


def figures(results: SweepResults) -> dict[str, Figure]:
    """Success against the layer from the middle, a line for each depth."""
    if not results.runs:
        return {}
    figure, axes = panels(1, 1, (5.4, 3.8))
    panel = axes[0, 0]
    for run, colour in zip(results.runs, palette(len(results.runs)), strict=True):
        depth = run.labels["depth"]
        success = np.stack([controllers.success(seed) for seed in run.seeds])
        x = np.arange(depth + 1) - depth / 2
        draw_band(panel, x, success, label=f"{depth} blocks", colour=colour)
        panel.plot(x, np.median(success, axis=0), "o", color=colour, markersize=4)
    panel.axvline(0.0, color="0.6", linestyle=":", linewidth=1.0)
    panel.set(xlabel="controlled layer, from the middle of the base model", ylim=(-0.02, 1.02))
    panel.set_ylabel("success on the post-training task")
    legend(panel)
    figure.suptitle("Supervised controllers by layer and depth", fontsize=11)
    tell(figure, f"Median and quartiles over {controllers.told_base_models(results)}")
    return {"layer_by_depth": figure}


SWEEP = Sweep(
    name="layer_by_depth",
    title="Supervised controllers by layer and depth of the base model",
    runs=runs,
    table=table,
    figures=figures,
    inputs=("collect",),
    captions={
        "layer_by_depth": "Success of supervised controllers against the layer that they act at,"
        " counted from the middle of the base model, for each depth."
    },
)
