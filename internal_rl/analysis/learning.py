"""Success of reinforcement learning: curves, and what the final policy reaches (method §6)."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import starmap

import chex
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from internal_rl.analysis.drawing import draw_band, palette, panels, tell
from internal_rl.analysis.results import (
    RunResults,
    SeedResults,
    stacked_curves,
    standing,
    success_of_expert,
    with_curve,
)
from internal_rl.analysis.study import Study, StudyContext
from internal_rl.analysis.table import Row, format_number, make_row
from internal_rl.methods.reinforcement.trainer import POLICY_STAGES
from internal_rl.training.stage_directory import stage_of

SUCCESS_TO_REACH = (0.3, 0.5, 0.8)
"""Speed is told as the number of episodes until these."""

DIVIDED = "Divided by the expert's success on the post-training task, {} (mean actions)"
"""What a figure says whose success is relative to the expert's (method §2)."""

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
    section = stage_of(stage, POLICY_STAGES)
    variant = stage.removeprefix(section).strip("_").replace("_", " ")
    return f"{_LABELS.get(section, section)}{f', {variant}' if variant else ''}"


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """Means over sampled episodes of the final policy, and `deterministic_success`."""
    # First, so that never the episodes of two rollouts are held at a time.
    deterministic = jnp.mean(context.play(deterministic=True).success, dtype=jnp.float32)
    metrics = context.method.metrics(context.episodes)
    return metrics | {"deterministic_success": deterministic}


def episodes_to(results: SeedResults, success: float) -> float:
    """Episodes until the mean success of the batches of a line of metrics reaches a value.

    Infinite if it never did, NaN if nothing was written.
    """
    episodes = dict(zip(*results.curve("episodes"), strict=True))
    lines = list(zip(*results.curve("success"), strict=True))
    reached = [step for step, value in lines if value >= success]
    if not reached:
        return math.inf if lines else math.nan
    return float(episodes.get(reached[0], math.nan))


def first_success(results: SeedResults) -> float:
    """Mean success of the batches of the first line of metrics, NaN without one."""
    values = results.curve("success")[1]
    return float(values[0]) if len(values) else math.nan


def first_episodes(results: SeedResults) -> int:
    """Episodes that `first_success` is the mean of."""
    values = results.curve("episodes")[1]
    return int(values[0]) if len(values) else 0


def solvable_episodes(results: SeedResults) -> int:
    """Episodes of an evaluation in layouts that allow a success; 0 where that is not told."""
    share = results.scalar("solvable")
    return 0 if math.isnan(share) else round(share * results.evaluation_episodes)


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """Success of an evaluation and of the first batches, the number of episodes, and the speed."""
    label = label_of(stage)

    def evaluated(key, text):
        return make_row(
            f"{stage}_{key}",
            f"{label}, {text}",
            seeds,
            lambda s: s.scalar(key),
            lambda s: s.evaluation_episodes,
        )

    in_solvable = make_row(
        f"{stage}_solvable_success",
        f"{label}, success on the task where the layout allows it",
        seeds,
        lambda s: s.scalar("solvable_success"),
        solvable_episodes,
    )
    at_first = f"{label}, success at first (mean of the first batches)"
    total = make_row(f"{stage}_episodes", f"{label}, episodes", seeds, lambda s: s.last("episodes"))
    speed = [
        make_row(
            f"{stage}_episodes_to_{success:g}",
            f"{label}, episodes to success {success:g}",
            seeds,
            lambda s, success=success: episodes_to(s, success),
        )
        for success in SUCCESS_TO_REACH
    ]
    return [
        evaluated("success", "success on the task"),
        in_solvable,
        evaluated("deterministic_success", "success without sampling"),
        make_row(f"{stage}_success_at_first", at_first, seeds, first_success, first_episodes),
        total,
        *speed,
    ]


def text(run: RunResults) -> str:
    """Who begins with the highest success, as a line of Markdown; empty without two ways."""
    found = []
    for stage in filter(STUDY.looks_at, run):
        row = make_row(stage, label_of(stage), run[stage], first_success)
        if not math.isnan(row.median):
            found.append(row)
    if len(found) < 2:
        return ""
    found.sort(key=lambda row: -row.median)
    told = ", ".join(f"{row.label} {format_number(row.median)}" for row in found)
    if found[0].median == 0:
        return f"Highest success at first: none, all medians over runs are 0 ({told}).\n"
    return f"Highest success at first: {found[0].label} (medians over runs: {told}).\n"


@dataclasses.dataclass(frozen=True)
class Curve:
    """One way to learn.

    Attributes:
      episodes: `(N,)` episodes that a run has learnt from.
      success: `(runs, N)` share of these batches.
      standing: on how many runs and base models it stands, in words; empty to count the runs.
      evaluated: success of an evaluation at the end, median over runs; NaN if there was none.
      tasks: that its runs are trained on, as text, each once; empty text is the world's
        post-training task.
      cut: runs differ in length, and it ends with the shortest one.
    """

    episodes: np.ndarray
    success: np.ndarray
    standing: str = ""
    evaluated: float = math.nan
    tasks: tuple[str, ...] = ("",)
    cut: bool = False

    @property
    def label(self) -> str:
        """What the legend says behind its name."""
        standing = self.standing or f"{len(self.success)} runs"
        success = format_number(self.evaluated)
        return f", {standing}: " + ("not evaluated" if success == "–" else f"evaluated {success}")

    @property
    def num_episodes(self) -> float:
        """Episodes of all runs together."""
        return len(self.success) * float(np.max(self.episodes, initial=1.0))


def curve_of(seeds: Sequence[SeedResults]) -> Curve:
    """The curve of a stage, cut to its shortest seed; of the seeds that have one."""
    seeds = with_curve(seeds, "success")
    evaluated = make_row("", "", seeds, lambda s: s.scalar("success")).median
    episodes, success = stacked_curves(seeds, "success", against="episodes")
    cut = len({results.curve("success")[0][-1] for results in seeds}) > 1
    return Curve(episodes, success, standing(seeds), evaluated, tasks_of(seeds), cut)


def tasks_of(seeds: Sequence[SeedResults]) -> tuple[str, ...]:
    """Tasks that runs are trained on, each once; empty text is the post-training task."""
    return tuple(sorted({results.task for results in seeds}))


def told_tasks(tasks: Iterable[str]) -> str:
    """On which tasks, in words, such as "on the post-training task"."""
    named = ", ".join(filter(None, tasks))
    found = [f"task {named}"] if named else []
    return "on " + " and ".join(["the post-training task"] * ("" in tasks) + found)


def told_cut(label: str, curve: Curve) -> str:
    """That a curve ends before some of its runs do, in words; empty where it does not."""
    if not curve.cut:
        return ""
    return f"{label}: drawn to the shortest run, {curve.episodes[-1]:,.0f} episodes."


def divisor(tasks: Collection[str], expert: float) -> float:
    """By what success is divided; NaN where it is not.

    The expert's is known on the post-training task alone: where any run is trained on another one,
    nothing is divided.

    Args:
      tasks: of all runs that are drawn, see `tasks_of`.
      expert: success of the expert on the post-training task; NaN or 0 where it is not known.
    """
    return expert if expert > 0 and not any(tasks) else math.nan


def told_division(tasks: Collection[str], expert: float) -> str:
    """What a figure says of `divisor`; empty where no expert is known."""
    if not expert > 0:
        return ""
    if any(tasks):
        return "Not divided by the expert's success: on another task it is not known."
    return f"{DIVIDED.format(format_number(expert))}; the legend's is not divided."


def figures(run: RunResults) -> dict[str, Figure | None]:
    """Success against episodes, of all ways to learn."""
    stages = filter(STUDY.looks_at, run)
    curves = {label_of(stage): curve_of(run[stage]) for stage in stages}
    curves = {label: curve for label, curve in curves.items() if len(curve.episodes)}
    if not curves:
        return {}
    return {"reinforcement_learning": rl_curves(curves, success_of_expert(run))}


def rl_curves(curves: Mapping[str, Curve], expert: float = math.nan) -> Figure:
    """Success against episodes, linear and logarithmic, median and quartiles over runs.

    The logarithmic axis ends at one success in all episodes of the way that ran the most of them:
    nothing smaller can have been seen. Less, zero included, is drawn there.

    Args:
      curves: by label.
      expert: success of the expert on the post-training task, by which all curves are divided if
        all are on it; NaN or 0 divides by nothing.
    """
    tasks = {task for curve in curves.values() for task in curve.tasks}
    divided = divisor(tasks, expert) > 0
    scale = expert if divided else 1.0
    most = max(curve.num_episodes for curve in curves.values())
    floor = 1.0 / most / scale
    figure, axes = panels(1, 2, (10.5, 4.6))
    for i, ((label, curve), colour) in enumerate(
        zip(curves.items(), palette(len(curves)), strict=True)
    ):
        success = np.atleast_2d(curve.success) / scale
        # Curves that lie on each other, at zero for instance, show through each other's gaps.
        dashes = (2.5 * (i - 1), (2.5, 2.5 * (len(curves) - 1))) if i > 0 else "-"
        on_its_own = f" {told_tasks(curve.tasks)}" if len(tasks) > 1 else ""
        whole = f"{label}{on_its_own}{curve.label}"
        style = {"label": whole, "colour": colour, "dashes": dashes}
        for panel, values in zip(axes[0], (success, np.maximum(success, floor)), strict=True):
            draw_band(panel, curve.episodes, values, **style)
    of = f"success {told_tasks(tasks)}" if len(tasks) == 1 else "success, each on its task"
    if divided:
        of = "success over that of the expert"
    top = max(1.0, 1.0 / scale)
    axes[0, 0].set(ylim=(-0.02 * top, 1.02 * top), ylabel=of)
    axes[0, 1].set(yscale="log", ylim=(floor * 0.7, 1.5 * top), ylabel=f"{of} (log)")
    axes[0, 1].axhline(floor, color="0.35", linestyle=":", linewidth=1.0)
    for panel in axes[0]:
        panel.set_xlabel("episodes")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    handles = axes[0, 0].get_legend_handles_labels()
    columns = 1 + (len(curves) > 2)
    style = {"frameon": False, "fontsize": 9, "handlelength": 4}
    figure.legend(*handles, loc="outside lower center", ncols=columns, **style)
    figure.suptitle("Reinforcement learning: median and quartiles over runs", fontsize=11)
    ends = f"Right: the dotted line is one success in {EngFormatter(sep='')(most)} episodes"
    notes = [f"{ends}, the most that any of them ran; zeros lie on it."]
    notes += filter(None, [told_division(tasks, expert), *starmap(told_cut, curves.items())])
    tell(figure, "\n".join(notes))
    return figure


STUDY = Study(
    name="learning",
    stages=lambda: tuple(POLICY_STAGES),
    measure=measure,
    rows=rows,
    figures=figures,
    text=text,
    order=10,
    title="Reinforcement learning",
    captions={
        "reinforcement_learning": "Success against episodes of every way to learn, on a linear "
        "and on a logarithmic axis: median over runs as a line, quartiles as a band.",
    },
)
