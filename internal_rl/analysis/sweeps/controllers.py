"""What studies of supervised controllers share: runs on base models of their own (method §4, §7).

A point of their figures is the success of controllers at the best layer of one base model, on the
post-training task; lines and bands are the median and the quartiles over base models.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from internal_rl.analysis.drawing import draw_band, legend, palette, panels, tell
from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.sweeps.sweep import (
    FinishedRun,
    Run,
    Sweep,
    SweepResults,
    tag,
    values_of,
)
from internal_rl.analysis.sweeps.table import SweepTable, told_rates
from internal_rl.methods.code_finding import CodeFindingSettings

CAPTION = (
    "Success of supervised controllers at the best layer of each base model, a line for each depth."
)


def depth_fields(settings: Any, depth: int) -> dict[str, int]:
    """Fields for a depth of the base model; layers of other stages are kept inside of it."""
    fields = {"base.depth": depth}
    for stage, section in settings.sections.items():
        if isinstance(section, CodeFindingSettings) and section.layer > depth:
            fields[f"{stage}.layer"] = max(depth // 2, 1)
    return fields


def depths_of(depths: Sequence[int], settings: Any) -> tuple[int, ...]:
    """Depths that a study goes through; without any that of the config."""
    return tuple(depths) or (settings.base.depth,)


@dataclasses.dataclass(frozen=True)
class Values:
    """What an ablation goes through.

    Attributes:
      values: of the field that is changed.
      base_models: seeds of pretraining, for each value.
      depths: see `depths_of`.
    """

    values: tuple[float, ...]
    base_models: int
    depths: tuple[int, ...] = ()


def ablation(
    name: str,
    field: str,
    label: str,
    by_preset: Mapping[str, Values],
    *,
    title: str,
    inputs: tuple[str, ...] = (),
    check: Callable[[Any], None] = lambda settings: None,
) -> Sweep:
    """For every depth and value of a field base models that are trained with it, and controllers.

    Args:
      name: of the study and its figure.
      field: of the config that is changed.
      label: of its values in tables and figures.
      by_preset: what each preset goes through.
      title: of the figure.
      inputs: see `Sweep`.
      check: raises ValueError where a config does not allow the study.
    """

    def runs(settings):
        check(settings)
        chosen = values_of(by_preset, settings)
        return [
            Run(
                name=f"depth{depth}_{field.partition('.')[2]}{tag(value)}",
                stages=("pretrain", "steer"),
                fields={**depth_fields(settings, depth), field: value},
                seeds={"pretrain": chosen.base_models, "steer": 1},
                labels={"depth": depth, label: value},
            )
            for depth in depths_of(chosen.depths, settings)
            for value in chosen.values
        ]

    return Sweep(
        name=name,
        title=title,
        runs=runs,
        table=lambda results: table_of_values(results, label),
        figures=lambda results: draw(name, figure_of_values(results, label, title, even=True)),
        inputs=inputs,
        captions={name: CAPTION},
    )


def success_at_best(results: SeedResults) -> float:
    """Success at the layer where it is highest; NaN where nothing was measured."""
    return float(np.max(success(results)))


def success_at_middle(results: SeedResults) -> float:
    """Success at layer `L/2`."""
    values = success(results)
    return float(values[(len(values) - 1) // 2])


def success(results: SeedResults) -> np.ndarray:
    """`(L + 1,)` success of the controllers of every layer; NaN where nothing was measured."""
    missing = np.full(results.config["base"]["depth"] + 1, math.nan)
    return np.asarray(results.artifacts.get("success", missing), float)


def table_of_values(results: SweepResults, label: str) -> SweepTable:
    """A row for each depth and value: success at the best and at the middle layer."""
    best, middle = "success at the best layer", "success at the middle layer"
    columns = ("depth", label, best, middle, "base models")
    rows = [
        (
            *(run.labels["depth"], tag(run.labels[label])),
            run.summary(success_at_best),
            run.summary(success_at_middle),
            len(run.seeds),
        )
        for run in results.runs
    ]
    return SweepTable(columns, rows, told_success(results))


def told_success(results: SweepResults) -> list[str]:
    """How sure the success of single controllers is, see `told_rates`."""
    seeds = [seed for run in results.runs for seed in run.seeds]
    return told_rates(
        [(float(rate), seed.evaluation_episodes) for seed in seeds for rate in success(seed)]
    )


def figure_of_values(results: SweepResults, label: str, title: str, *, even: bool) -> Figure | None:
    """Success at the best layer against a value, a line for each depth; None without data.

    Args:
      results: of the sweep.
      label: of the value.
      title: of the figure.
      even: values stand side by side in even steps instead of where they lie on a line.
    """
    groups = results.groups("depth")
    if not groups:
        return None
    values = sorted({run.labels[label] for run in results.runs})
    place = {value: index if even else value for index, value in enumerate(values)}
    figure, axes = panels(1, 1, (5.4, 3.8))
    panel = axes[0, 0]
    for (depth, group), colour in zip(groups.items(), palette(len(groups)), strict=True):
        group = sorted(group, key=lambda run: run.labels[label])
        x = [place[run.labels[label]] for run in group]
        draw_band(panel, x, _stacked(group), label=f"{depth} blocks", colour=colour)
        for at, run in zip(x, group, strict=True):
            points = run.values(success_at_best)
            panel.plot([at] * len(points), points, ".", color=colour, markersize=5)
    if even:
        panel.set_xticks(range(len(values)), [tag(value) for value in values])
    else:
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.set(xlabel=label, ylabel="success at the best layer", ylim=(-0.02, 1.02))
    legend(panel)
    figure.suptitle(title, fontsize=11)
    tell(figure, f"Median and quartiles over {told_base_models(results)}; a point is one of them")
    return figure


def told_base_models(results: SweepResults) -> str:
    """How many base models every run has, in words."""
    counts = sorted({len(run.seeds) for run in results.runs})
    return f"{' or '.join(map(str, counts))} base model{'s' if counts[-1] > 1 else ''} each"


def _stacked(group: Sequence[FinishedRun]) -> np.ndarray:
    """`(base models, values)`; NaN where a run has fewer base models than others."""
    most = max(len(run.seeds) for run in group)
    columns = [run.values(success_at_best) for run in group]
    return np.array([column + [math.nan] * (most - len(column)) for column in columns]).T


def draw(name: str, figure: Figure | None) -> Mapping[str, Figure]:
    """The figure under its name, if there is one."""
    return {} if figure is None else {name: figure}
