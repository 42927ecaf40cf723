"""What the trials of a selection came to, which of each method is best, and the flags for it."""

import json
import math
import shlex
from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from internal_rl.analysis.drawing import draw_band, palette, panels, tell
from internal_rl.analysis.learning import (
    curve_of,
    divisor,
    label_of,
    tasks_of,
    told_cut,
    told_division,
    told_tasks,
)
from internal_rl.analysis.results import SeedResults, stacked_curves, standing
from internal_rl.analysis.sweeps.sweep import FinishedRun, SweepResults, tag
from internal_rl.analysis.sweeps.table import SweepTable, told_rates
from internal_rl.analysis.table import format_number


def success(results: SeedResults) -> float:
    """Success of an evaluation at the end."""
    return results.scalar("success")


def label(run: FinishedRun) -> str:
    """What readers call its method."""
    return label_of(run.seeds[0].stage)


def _settings_text(run: FinishedRun) -> str:
    settings = {name: x for name, x in run.labels.items() if name not in ("method", "rate")}
    return ", ".join(f"{name} {tag(value)}" for name, value in settings.items()) or "–"


def best_of(group: list[FinishedRun]) -> FinishedRun:
    """The run with the best median over its seeds; of equal ones that with the best mean, then the
    first."""

    def merit(run):
        values = [value for value in run.values(success) if not math.isnan(value)]
        return (run.median(success), float(np.mean(values))) if values else (-1.0, -1.0)

    return max(group, key=merit)


def best_runs(results: SweepResults) -> dict[str, FinishedRun]:
    """The best run of every method."""
    return {str(way): best_of(group) for way, group in results.groups("method").items()}


def flags_of(run: FinishedRun) -> str:
    """The flags that choose a run's settings."""
    return shlex.join(f"--config.{field}={value}" for field, value in run.fields.items())


def file_of(method: str) -> str:
    """Name of the file with the flags of a method."""
    return f"selection_{method}.flags"


SELECTED = "selection.json"
"""File with the fields of every method's best run, for a whole run."""


def files(results: SweepResults) -> dict[str, str]:
    """For every method a line with the flags of its best run, and `SELECTED`."""
    best = best_runs(results)
    if not best:
        return {}
    chosen = {way: dict(run.fields) for way, run in best.items()}
    lines = {file_of(way): f"{flags_of(run)}\n" for way, run in best.items()}
    return lines | {SELECTED: f"{json.dumps(chosen, indent=1)}\n"}


def table(results: SweepResults) -> SweepTable:
    """A row for each trial, the best of each method marked, and the flags of these."""
    best = best_runs(results)
    columns = ("method", "discovery", "learning rate", "success", "runs", "best")
    rows = []
    for method, group in results.groups("method").items():
        for run in sorted(group, key=lambda run: -run.median(success)):
            cells = (label(run), _settings_text(run), tag(run.labels["rate"]))
            numbers = (run.summary(success), len(run.seeds))
            rows.append((*cells, *numbers, "yes" if run is best[method] else ""))
    seeds = [seed for run in results.runs for seed in run.seeds]
    notes = [_told_trials(results)] if rows else []
    notes += told_rates([(success(seed), seed.evaluation_episodes) for seed in seeds])
    if best:
        notes.append(f"All of them for a whole run: `--selected` with `report/{SELECTED}`.")
    for way, run in best.items():
        notes.append(f"Flags of {label(run)}, also in `{file_of(way)}`: `{flags_of(run)}`")
    return SweepTable(columns, rows, notes)


def _told_trials(results: SweepResults) -> str:
    groups = results.groups("method").values()
    counts = {label(group[0]): len(group) for group in groups}
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    text = f"Finished trials: {told}."
    if len(set(counts.values())) > 1:
        text += " Methods were not tried equally often: do not compare them yet."
    elif results.missing:
        text += " Others are missing: the best may change."
    return (
        f"{text} Combinations were drawn with a seed, the same number for each. Best: the highest"
        " median over runs of the success of an evaluation at the end; of equal ones the highest"
        " mean, then the first."
    )


def figures(results: SweepResults) -> dict[str, Figure]:
    """Every trial of every method, and the learning curves of the best of each."""
    groups = results.groups("method")
    if not groups:
        return {}
    best = best_runs(results)
    figure, axes = panels(1, 2, (11.0, 4.2))
    colours = dict(zip(groups, palette(len(groups)), strict=True))
    seeds = [seed for run in results.runs for seed in run.seeds]
    tasks, expert = tasks_of(seeds), seeds[0].expert
    divided = divisor(tasks, expert) > 0
    scale = expert if divided else 1.0
    _draw_trials(axes[0, 0], groups, best, scale)
    _draw_curves(axes[0, 1], best, colours, scale)
    top = max(1.0, 1.0 / scale)
    behind = f" {told_tasks(tasks)}" if any(tasks) and len(tasks) == 1 else ""
    if divided:
        behind = " over that of the expert"
    for panel in axes[0]:
        panel.set(ylim=(-0.03 * top, 1.03 * top), ylabel=f"{panel.get_ylabel()}{behind}")
    handles = [
        Line2D([], [], color=colours[way], label=f"{_named(run, tasks)}: {_told(run)}")
        for way, run in best.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    notes = [f"Trials: {standing(seeds)}", told_division(tasks, expert)]
    notes += [told_cut(label(run), curve_of(run.seeds)) for run in best.values()]
    tell(figure, "\n".join(filter(None, notes)))
    return {"selection": figure}


def _named(run: FinishedRun, tasks: Collection[str]) -> str:
    """Its method, and where there are several tasks on which one."""
    return f"{label(run)} {told_tasks(tasks_of(run.seeds))}" if len(tasks) > 1 else label(run)


def _told(run: FinishedRun) -> str:
    settings = _settings_text(run)
    settings = "" if settings == "–" else f"{settings}, "
    middle = format_number(run.median(success))
    return f"{settings}rate {tag(run.labels['rate'])} ({middle})"


def _draw_trials(
    panel: Axes, groups: Mapping, best: Mapping[str, FinishedRun], scale: float
) -> None:
    """The median of every trial by rate, side by side method by method; the best one ringed."""
    rates = sorted({run.labels["rate"] for group in groups.values() for run in group})
    shades = dict(zip(rates, palette(9)[:: max(9 // len(rates), 1)], strict=False))
    if len(rates) > len(shades):
        shades = dict(zip(rates, palette(len(rates)), strict=True))
    for index, (way, group) in enumerate(groups.items()):
        ordered = sorted(group, key=lambda run: (run.labels["rate"], run.name))
        offsets = np.linspace(-0.3, 0.3, len(ordered)) if len(ordered) > 1 else [0.0]
        for offset, run in zip(offsets, ordered, strict=True):
            low, middle, high = run.quartiles(success) / scale
            colour = shades[run.labels["rate"]]
            panel.plot([index + offset] * 2, [low, high], color=colour, linewidth=1.0)
            panel.plot(index + offset, middle, "o", color=colour, markersize=5)
            if run is best[way]:
                panel.plot(
                    index + offset, middle, "o", color="0.1", markersize=11, fillstyle="none"
                )
    names = [label(run).replace(" ", "\n") for run in best.values()]
    panel.set_xticks(range(len(groups)), names, fontsize=8.5)
    panel.set_ylabel("success of an evaluation at the end")
    panel.set_title("every trial (median, quartiles); ringed: the best")
    handles = [
        Line2D([], [], linestyle="", marker="o", color=shades[rate], label=f"rate {tag(rate)}")
        for rate in rates
    ]
    panel.legend(handles=handles, fontsize=7.5, frameon=False, loc="upper right")


def _draw_curves(
    panel: Axes, best: Mapping[str, FinishedRun], colours: Mapping, scale: float
) -> None:
    """Success of the batches that are learnt from against episodes."""
    for index, (way, run) in enumerate(best.items()):
        episodes, values = stacked_curves(run.seeds, "success", against="episodes")
        if len(episodes):
            # Lines on each other, at zero for instance, show through each other's gaps.
            gap = 2.5 * (len(best) - 1)
            dashes = (2.5 * index, (2.5, gap)) if index and gap else "-"
            style = {"label": label(run), "colour": colours[way], "dashes": dashes}
            draw_band(panel, episodes, values / scale, **style)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.set(xlabel="episodes", ylabel="success of the batches")
    panel.set_title("the best of each method (median, quartiles)")
