"""Rate against distortion over α, with a frozen and with a co-trained base model (method §5, §7).

A point is one metacontroller: its action NLL against the KL of its codes, in nats per step, on
held-out rows. The gap of the curve is measured, not looked for, in three ways: as the difference of
NLL between neighbouring values of α on the frozen curve; as the part of it that is horizontal, see
`horizontal_gap`; and as the difference between both curves where their KL is the same, with an
interval from bootstrapping over seeds, which the values of α share.

NLL and KL are those of the loss, with the noise of a Gumbel-sigmoid gate; switches and F1 are those
of the gate without noise, which acts.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.interpolate import PchipInterpolator

from internal_rl.analysis.drawing import draw_references, legend, panels, tell
from internal_rl.analysis.results import SeedResults, standing
from internal_rl.analysis.statistics import NOTHING, bootstrap_interval
from internal_rl.analysis.sweeps.sweep import FinishedRun, Run, Sweep, SweepResults, tag, values_of
from internal_rl.analysis.sweeps.table import SweepTable
from internal_rl.analysis.table import format_number, format_span

ARMS: Mapping[str, Mapping[str, Any]] = {
    "frozen": {"metacontroller.variant": "discovered"},
    "co-trained": {"metacontroller.variant": "cotrained"},
}
"""What each arm of the study changes; co-training starts from `metacontroller.base_from`."""

GATES = {"gridworld-pinpad": "gumbel"}
"""Gate by world (appendix C.6); other worlds keep that of their config."""

MARKERS = {0.8: ("*", 90), 0.5: ("o", 34), -math.inf: ("X", 34)}
"""Shape and size of a point by the least F1 that it stands for."""


@dataclasses.dataclass(frozen=True)
class Values:
    """What the study goes through.

    Attributes:
      alphas: weights of the KL.
      seeds: metacontrollers for each, all on one base model.
    """

    alphas: tuple[float, ...]
    seeds: int


VALUES = {
    # The first one is that of the preset, whose metacontrollers need not be trained again.
    "smoke": Values((0.17, 1.0), 1),
    "small": Values((0.0, 0.05, 0.1, 0.17, 0.3, 0.5, 1.0), 3),
    # Around the ant's alpha of 0.8.
    "ant-pinpad/small": Values((0.1, 0.3, 0.8, 3.0), 2),
    "paper": Values((0.0, 0.05, 0.1, 0.17, 0.3, 0.5, 1.0), 10),
}


def alpha_fields(settings: Any, alpha: float) -> dict[str, float]:
    """Fields for a weight of the KL, which may not start above where it ends."""
    fields = {"metacontroller.alpha": alpha}
    if settings.metacontroller.alpha_start > alpha:
        fields["metacontroller.alpha_start"] = alpha
    return fields


def runs(settings: Any, values: Values | None = None) -> list[Run]:
    """Every arm at every α."""
    values = values or values_of(VALUES, settings)
    gate = GATES.get(settings.environment["name"], settings.metacontroller.gate)
    return [
        Run(
            name=f"{arm.replace('-', '')}_alpha{tag(alpha)}",
            stages=("metacontroller",),
            fields={**fields, "metacontroller.gate": gate, **alpha_fields(settings, alpha)},
            seeds={"pretrain": 1, "metacontroller": values.seeds},
            labels={"arm": arm, "alpha": alpha},
        )
        for arm, fields in ARMS.items()
        for alpha in values.alphas
    ]


@dataclasses.dataclass(frozen=True)
class Point:
    """Both ends of the trade at one α, medians over seeds in nats per step.

    Attributes:
      alpha: weight of the KL.
      nll: of the actions.
      kl: of the codes.
    """

    alpha: float
    nll: float
    kl: float


def curve_of(results: SweepResults, arm: str) -> list[Point]:
    """The points of an arm, α ascending."""
    found = [
        Point(float(run.labels["alpha"]), run.median(nll), run.median(kl))
        for run in results.groups("arm").get(arm, ())
    ]
    return sorted(found, key=lambda point: point.alpha)


def nll(results: SeedResults) -> float:
    """NLL of the actions on held-out rows, nats per step."""
    return results.scalar("action_nll")


def kl(results: SeedResults) -> float:
    """KL of the codes on held-out rows, nats per step."""
    return results.scalar("kl")


def switches(results: SeedResults) -> float:
    """Steps of a trajectory with `β >= 0.5`, in the mean; the first one, which always has, too."""
    return results.scalar("switches_per_trajectory") + 1.0


def widest_gap(curve: Sequence[Point]) -> tuple[Point, Point] | None:
    """Neighbours in α whose NLL is furthest apart; None with fewer than two points."""
    pairs = list(zip(curve, curve[1:], strict=False))
    return max(pairs, key=lambda pair: pair[1].nll - pair[0].nll, default=None)


def horizontal_gap(curve: Sequence[Point]) -> tuple[float, Point, Point] | None:
    """The most by which NLL rises between neighbours in α without KL that is saved for it.

    Of two points that minimise `NLL + α KL`, each at its own α, that of the higher one has at most
    α times as much NLL more as it has KL less. What is beyond that is horizontal: the solution of
    the lower α would be better at the higher one too, but is not found there.

    Returns:
      Nats per step, and the neighbours; None where no step has any.
    """
    found = [
        (high.nll - low.nll - high.alpha * (low.kl - high.kl), low, high)
        for low, high in zip(curve, curve[1:], strict=False)
    ]
    widest = max(found, key=lambda gap: gap[0], default=None)
    return widest if widest and widest[0] > 0 else None


def nll_at(curve: Sequence[Point], rates: Sequence[float]) -> np.ndarray:
    """NLL of a curve where its KL has some values, `(N,)`; NaN outside of its own.

    Between points lies a monotone cubic: a curve of rate and distortion is convex, and straight
    lines would lie above it throughout.
    """
    # Points of one KL count as their mean.
    own = np.unique([point.kl for point in curve])
    nlls = [np.mean([point.nll for point in curve if point.kl == rate]) for rate in own]
    rates = np.asarray(rates, float)
    if len(own) < 2:
        return np.where(np.isin(rates, own), nlls[0] if nlls else math.nan, math.nan)
    return PchipInterpolator(own, nlls, extrapolate=False)(rates)


def distances(frozen: Sequence[Point], other: Sequence[Point]) -> dict[float, float]:
    """For every α of the frozen curve how much higher the other one's NLL is at the same KL.

    Returns:
      Nats per step by α; NaN where the other curve has no point of so much and of so little KL.
    """
    there = nll_at(other, [point.kl for point in frozen])
    return {point.alpha: float(x) - point.nll for point, x in zip(frozen, there, strict=True)}


def mean_distance(frozen: Sequence[Point], other: Sequence[Point]) -> float:
    """Mean of `distances` over the values of α of which they are known; NaN for none."""
    known = [value for value in distances(frozen, other).values() if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def distance_interval(results: SweepResults) -> tuple[float, float]:
    """Interval of `mean_distance`, the seeds of every arm drawn again.

    A seed has the same initialisation and the same data at every α, so that the runs of an arm
    share what a seed brings along: those drawn stand for all of its values of α. Each arm draws its
    own.

    Returns:
      Lower and upper end, nats per step; NaN where an arm has fewer than two seeds with a value at
      all of its values of α. Others are left out.
    """
    if math.isnan(mean_distance(*(curve_of(results, arm) for arm in ARMS))):
        return NOTHING
    ends = {arm: _ends_by_seed(results.groups("arm")[arm]) for arm in ARMS}
    if min(values.shape[-1] for _, values in ends.values()) < 2:
        return NOTHING

    def again(*chosen):
        curves = []
        for (alphas, values), indices in zip(ends.values(), chosen, strict=True):
            medians = np.median(values[..., indices], axis=-1)
            points = zip(alphas, medians.tolist(), strict=True)
            curves.append([Point(alpha, *both) for alpha, both in points])
        return mean_distance(*curves)

    return bootstrap_interval([np.arange(values.shape[-1]) for _, values in ends.values()], again)


def _ends_by_seed(runs: Sequence[FinishedRun]) -> tuple[list[float], np.ndarray]:
    """The values of α of an arm, `A`, and of its seeds `(A, 2, seeds)` NLL and KL.

    The seeds are those that have both at every α, in the same order everywhere.
    """
    found = [{seed.seed: (nll(seed), kl(seed)) for seed in run.seeds} for run in runs]
    known = [{seed for seed, ends in of.items() if np.isfinite(ends).all()} for of in found]
    shared = sorted(set.intersection(*known))
    values = np.array([[of[seed] for seed in shared] for of in found]).reshape(len(runs), -1, 2)
    return [float(run.labels["alpha"]) for run in runs], np.moveaxis(values, 1, 2)


def table(results: SweepResults) -> SweepTable:
    """A row for each arm and α, and what the gaps come to."""
    curves = {arm: curve_of(results, arm) for arm in results.groups("arm")}
    columns = (
        *("arm", "α", "NLL", "KL"),
        *("switches per trajectory, the first step included", "F1"),
        *("NLL of the co-trained arm at this KL, less NLL", "seeds"),
    )
    apart = distances(curves.get("frozen", ()), curves.get("co-trained", ()))
    rows = []
    for run in results.runs:
        arm, alpha = run.labels["arm"], float(run.labels["alpha"])
        f1 = run.median(lambda seed: seed.scalar("f1"))
        distance = apart[alpha] if arm == "frozen" else math.nan
        ends = (run.summary(nll), run.summary(kl))
        cells = (*ends, run.median(switches), f1, distance)
        rows.append((arm, tag(alpha), *cells, len(run.seeds)))
    interval = distance_interval(results), min((len(run.seeds) for run in results.runs), default=0)
    return SweepTable(columns, rows, [_told_gap(curves), _told_distance(apart, interval, curves)])


def _told_gap(curves: Mapping[str, Sequence[Point]]) -> str:
    pair = widest_gap(curves.get("frozen", ()))
    if pair is None:
        return "Gap of the frozen curve: needs two values of α."
    low, high = pair
    apart = horizontal_gap(curves["frozen"])
    told = "none"
    if apart is not None:
        told = f"{format_number(apart[0])} from α = {apart[1].alpha:g} to {apart[2].alpha:g}"
    return (
        "Gap of the frozen curve, the largest difference of NLL between neighbouring values of α:"
        f" {format_number(high.nll - low.nll)} nats per step, from α = {low.alpha:g} to"
        f" {high.alpha:g}, where the KL changes by {format_number(high.kl - low.kl)}. Horizontal, "
        f"that is more than α times the KL that is saved: {told}. All are medians over seeds."
    )


def _told_distance(
    apart: Mapping[float, float],
    interval: tuple[tuple[float, float], int],
    arms: Collection[str],
) -> str:
    """Of how far the arms lie apart; `interval` with the number of seeds that it stands on."""
    known = {alpha: value for alpha, value in apart.items() if not math.isnan(value)}
    if len(arms) < len(ARMS):
        return "Distance of the arms at equal KL: needs runs of both arms."
    if not known:
        return "Distance of the arms at equal KL: no point of the frozen arm lies on the other's."
    alpha = max(known, key=lambda alpha: abs(known[alpha]))
    ends, seeds = interval
    told = "" if math.isnan(ends[0]) else f" (95 % over {seeds} seeds: {format_span(*ends)})"
    return (
        "Distance of the arms at equal KL, NLL of the co-trained arm (a monotone cubic through its"
        f" medians) less that of the frozen one: largest at the frozen α = {alpha:g} with"
        f" {format_number(known[alpha])} nats per step, in the mean of {len(known)} points"
        f" {format_number(float(np.mean(list(known.values()))))}{told}."
    )


def figures(results: SweepResults) -> dict[str, Figure]:
    """NLL against KL with a panel for each arm: every seed a point, a line through the medians."""
    arms = results.groups("arm")
    if not arms:
        return {}
    figure, axes = panels(1, len(arms), (4.6 * len(arms) + 1.6, 4.4), sharex=True, sharey=True)
    seeds = [seed for run in results.runs for seed in run.seeds]
    counts = [count for count in map(switches, seeds) if not math.isnan(count)]
    norm = matplotlib.colors.LogNorm(1.0, max([2.0, *counts]))
    rates = [rate for rate in map(kl, seeds) if rate > 0]
    axes[0, 0].set_yscale("symlog", linthresh=max(min(rates, default=0.01), 1e-3))
    axes[0, 0].set_ylim(0.0, 2.0 * max([0.01, *rates]))
    for panel, (arm, group) in zip(axes[0], arms.items(), strict=True):
        for seed in (seed for run in group for seed in run.seeds):
            _draw_seed(panel, seed, norm)
        _draw_curve(panel, curve_of(results, arm))
        draw_references(panel, _references(seeds), across="x")
        panel.set(xlabel="distortion: action NLL (nats per step)", title=f"{arm} base model")
        if arm == "frozen":
            _draw_gap(panel, widest_gap(curve_of(results, arm)))
    axes[0, 0].set_ylabel("rate: KL (nats per step)")
    legend(axes[0, -1])
    shades = matplotlib.cm.ScalarMappable(norm, "viridis")
    label = "switches per trajectory, the first step included"
    bar = figure.colorbar(shades, ax=axes, label=label, format="{x:g}")
    bar.minorticks_off()
    bar.set_ticks([tick for tick in (1, 2, 3, 5, 10, 20, 50, 100, 500) if tick <= norm.vmax])
    _draw_marker_legend(figure)
    tell(figure, f"Points are single runs, the line joins medians; {standing(seeds)}")
    return {"rate_distortion": figure}


def _draw_seed(panel: Axes, seed: SeedResults, norm: Any) -> None:
    f1 = seed.scalar("f1")
    shape, size = next(
        style for least, style in MARKERS.items() if f1 >= least or least == -math.inf
    )
    count = switches(seed)
    colour = "0.6" if math.isnan(count) else matplotlib.colormaps["viridis"](norm(count))
    panel.scatter(
        nll(seed), kl(seed), s=size, marker=shape, color=[colour], linewidth=0.4, edgecolor="0.2"
    )


def _draw_curve(panel: Axes, curve: Sequence[Point]) -> None:
    nlls, kls = [point.nll for point in curve], [point.kl for point in curve]
    panel.plot(nlls, kls, "-", color="0.5", linewidth=1.0, zorder=0)
    for index, point in enumerate(curve):
        panel.annotate(
            rf"$\alpha$={point.alpha:g}",
            (point.nll, point.kl),
            # To either side of a falling curve in turn: where codes are aligned, points are close.
            xytext=((6, 6), (-6, -13))[index % 2],
            ha=("left", "right")[index % 2],
            textcoords="offset points",
            fontsize=7.5,
        )


def _draw_gap(panel: Axes, pair: tuple[Point, Point] | None) -> None:
    if pair is None or pair[1].nll <= pair[0].nll:
        return
    low, high = pair
    panel.axvspan(low.nll, high.nll, color="0.92", zorder=-1)
    panel.text(
        (low.nll + high.nll) / 2,
        0.04,
        f"widest gap\n{high.nll - low.nll:.2g} nats",
        ha="center",
        fontsize=8.5,
        color="0.3",
        transform=panel.get_xaxis_transform(),
    )


def _draw_marker_legend(figure: Figure) -> None:
    least = list(MARKERS)
    names = [f"F1 {value:g} or more" for value in least[:-1]] + [f"F1 below {least[-2]:g}"]
    handles = [
        Line2D([], [], linestyle="", marker=shape, color="0.4", markersize=size**0.5, label=name)
        for name, (shape, size) in zip(names, MARKERS.values(), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def _references(seeds: Sequence[SeedResults]) -> dict[str, float]:
    """Exact NLLs that are known, in nats per action."""
    names = ("bayes", "goal_given")
    values = {name: seed.last(f"reference/{name}") for seed in seeds[:1] for name in names}
    return {name: value for name, value in values.items() if not math.isnan(value)}


SWEEP = Sweep(
    name="rate_distortion",
    title="Rate and distortion",
    runs=runs,
    table=table,
    figures=figures,
    inputs=("pretrain",),
    captions={
        "rate_distortion": "KL of the codes against NLL of the actions, a point for each"
        " metacontroller: its colour tells how often the gate switches, its shape how well switches"
        " follow changes of the subgoal. Grey: the widest gap between neighbouring values of alpha."
    },
)
