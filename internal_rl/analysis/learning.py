"""Success of reinforcement learning: curves, and what the final policy reaches (method §6)."""

import math
from collections.abc import Mapping, Sequence

import chex
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from internal_rl.analysis.drawing import draw_band, legend, palette, panels
from internal_rl.analysis.results import RunResults, SeedResults, stacked_curves
from internal_rl.analysis.study import Study, StudyContext
from internal_rl.analysis.table import Row, make_row

SUCCESS_TO_REACH = 0.3
"""Speed is told as the number of episodes until this success."""

_LABELS = {
    "internal_rl": "internal RL",
    "internal_rl_forced": "forced switching",
    "internal_rl_unaligned": "unaligned switching",
    "internal_rl_cotrained": "co-training",
    "internal_rl_compile": "CompILE",
    "raw_rl": "raw actions",
}


def label_of(stage: str) -> str:
    """What readers call a stage of reinforcement learning."""
    if stage in _LABELS:
        return _LABELS[stage]
    section = next(name for name in ("internal_rl", "raw_rl") if stage.startswith(name))
    return f"{_LABELS[section]}, {stage.removeprefix(section).strip('_').replace('_', ' ')}"


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """Means over sampled episodes of the final policy, and `deterministic_success`."""
    # First, so that never the episodes of two rollouts are held at a time.
    deterministic = jnp.mean(context.play(deterministic=True).success, dtype=jnp.float32)
    metrics = context.method.metrics(context.episodes)
    return metrics | {"deterministic_success": deterministic}


def final_success(results: SeedResults) -> float:
    """Success of an RL stage: its own evaluation at the end, or that of its last updates."""
    evaluated = results.scalar("success")
    return results.last("success") if math.isnan(evaluated) else evaluated


def episodes_to(results: SeedResults, success: float) -> float:
    """Episodes until the mean success of an update's batch reaches a value, NaN if never."""
    reached = [s for s, value in zip(*results.curve("success"), strict=True) if value >= success]
    episodes = dict(zip(*results.curve("episodes"), strict=True))
    return float(episodes.get(reached[0], math.nan)) if reached else math.nan


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """Success, the number of episodes, and the speed."""
    label = label_of(stage)
    deterministic = "deterministic_success"
    return [
        make_row(f"{stage}_success", f"{label}, success on the task", seeds, final_success),
        make_row(
            f"{stage}_{deterministic}",
            f"{label}, success without sampling",
            seeds,
            lambda s: s.scalar(deterministic),
        ),
        make_row(f"{stage}_episodes", f"{label}, episodes", seeds, lambda s: s.last("episodes")),
        make_row(
            f"{stage}_episodes_to_{SUCCESS_TO_REACH:g}",
            f"{label}, episodes to success {SUCCESS_TO_REACH:g}",
            seeds,
            lambda s: episodes_to(s, SUCCESS_TO_REACH),
        ),
    ]


def figures(runs: Sequence[RunResults]) -> dict[str, Figure | None]:
    """Success against episodes, of all ways to learn."""
    curves = {}
    for stage in filter(STUDY.looks_at, runs[0]):
        episodes, success = stacked_curves(runs[0][stage], "success", against="episodes")
        if len(episodes):
            curves[label_of(stage)] = (episodes, success)
    return {"reinforcement_learning": rl_curves(curves)} if curves else {}


def rl_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], floor: float = 1e-4) -> Figure:
    """Success against episodes, linear and logarithmic, median and quartiles over runs.

    Args:
      curves: episodes `(N,)` and success `(runs, N)` by label.
      floor: lower end of the logarithmic axis; smaller values, zero included, are drawn there.
    """
    figure, axes = panels(1, 2, (9.5, 3.8))
    for i, ((label, (episodes, success)), colour) in enumerate(
        zip(curves.items(), palette(len(curves)), strict=True)
    ):
        success = np.atleast_2d(success)
        runs = "1 run" if len(success) == 1 else f"{len(success)} runs"
        label = f"{label} ({runs}): {np.nanmedian(success[:, -1]):.2g}"
        # Curves that lie on each other, at zero for instance, show through each other's gaps.
        gap = 2.5 * (len(curves) - 2)
        dashes = (2.5 * (i - 1), (2.5, gap)) if i > 0 and gap > 0 else "-"
        for panel, values in zip(axes[0], (success, np.maximum(success, floor)), strict=True):
            draw_band(panel, episodes, values, label=label, colour=colour, dashes=dashes)
    axes[0, 0].set(ylim=(-0.02, 1.02), ylabel="success on the post-training task")
    axes[0, 1].set(yscale="log", ylim=(floor * 0.8, 1.3), ylabel=f"success, at least {floor:g}")
    for panel in axes[0]:
        panel.set_xlabel("episodes")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    legend(axes[0, 0])
    figure.suptitle("Reinforcement learning: median and quartiles over runs", fontsize=11)
    return figure


STUDY = Study(
    name="learning",
    stages=("internal_rl", "raw_rl"),
    measure=measure,
    rows=rows,
    figures=figures,
    order=10,
)
