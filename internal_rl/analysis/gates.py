"""The learned gate along example trajectories (method §5)."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from internal_rl.analysis.code_stages import Captions, code_stages, of_each_stage
from internal_rl.analysis.drawing import palette, panels, tell
from internal_rl.analysis.examples import examples_of
from internal_rl.analysis.results import RunResults, standing, with_artifact
from internal_rl.analysis.study import Study, StudyContext
from internal_rl.analysis.table import variant_prefixes
from internal_rl.methods.switching import SWITCH_THRESHOLD


def measure(context: StudyContext) -> dict[str, np.ndarray]:
    """`example_beta`, `example_subgoal` where it is known, `example_mask`, `(E, T)` each, and
    `example_code` `(E, T, n_z)`."""
    found = context.discovery
    return examples_of(context, beta=found.beta, subgoal=context.rows.subgoal, code=found.code)


@of_each_stage
def figures(run: RunResults, stage: str) -> dict[str, Figure | None]:
    """Gates of the first seed."""
    seeds = with_artifact(run, stage, "example_beta")
    if not seeds:
        return {}
    artifacts = seeds[0].artifacts
    beta, mask = artifacts["example_beta"], artifacts["example_mask"]
    figure = gates(beta, artifacts.get("example_subgoal"), mask)
    tell(figure, f"{variant_prefixes(stage)[1]}{standing(seeds[:1])}")
    return {"gates": figure}


def gates(
    beta: np.ndarray,
    subgoal: np.ndarray | None,
    mask: np.ndarray,
    threshold: float = SWITCH_THRESHOLD,
) -> Figure:
    """The learned gate, against the true subgoal where that is known.

    Args:
      beta: `(E, T)` gate.
      subgoal: `(E, T)` true subgoal; None without labels.
      mask: `(E, T)` bool, steps that belong to the trajectory; its leading steps.
      threshold: gate value from which on a step is a switch.
    """
    count, longest = beta.shape[0], int(mask.sum(axis=1).max())
    figure, axes = panels(count, 1, (8.0, 0.9 * count + 1.5), sharex=True, sharey=True)
    for i, panel in enumerate(axes[:, 0]):
        steps = np.flatnonzero(mask[i])
        panel.vlines(steps, 0, beta[i][steps], color="black", linewidth=1.2)
        panel.plot(steps, beta[i][steps], "o", color="black", markersize=3.5)
        panel.axhline(threshold, color="0.35", linestyle=":", linewidth=1.0)
        panel.set(ylim=(-0.03, 1.08), xlim=(-0.5, longest - 0.5), yticks=[0, 1])
        panel.grid(False)
    axes[-1, 0].set_xlabel("step")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supylabel(r"gate $\beta$", fontsize=10)
    title = "Gate"
    if subgoal is not None:
        _draw_subgoals(figure, axes[:, 0], subgoal, mask)
        title = "Gate against the true subgoal (background)"
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_subgoals(figure: Figure, axes: np.ndarray, subgoal: np.ndarray, mask: np.ndarray) -> None:
    """Puts the colour of the subgoal behind every step, and a legend below."""
    colours = palette(int(subgoal.max()) + 1)
    for panel, goal, valid in zip(axes, subgoal, mask, strict=True):
        for t in np.flatnonzero(valid & (goal >= 0)):
            panel.axvspan(t - 0.5, t + 0.5, color=colours[goal[t]], alpha=0.3, linewidth=0)
    shown = [goal for goal in sorted(set(subgoal[mask].tolist())) if goal >= 0]
    figure.legend(
        handles=[Patch(color=colours[g], alpha=0.3, label=f"subgoal {g}") for g in shown],
        loc="outside lower center",
        ncols=max(min(len(shown), 6), 1),
        frameon=False,
        fontsize=9,
    )


STUDY = Study(
    name="gates",
    stages=code_stages,
    measure=measure,
    figures=figures,
    title="Gates along trajectories",
    captions=Captions(
        gates="The gate at each step of example trajectories as a black line with a dot; the "
        "dotted line is the threshold, colours in the background are the true subgoals where "
        "they are known.",
    ),
)
