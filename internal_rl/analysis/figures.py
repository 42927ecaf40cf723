"""Figures of a run (method §7). Arrays in, matplotlib figure out; nothing is computed here.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; where there are more
than eight lines to tell apart, they are drawn from a perceptually uniform map.
"""

import os
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from internal_rl.colours import OKABE_ITO

REFERENCE_STYLES = {
    "bayes": ("-.", "Bayes given the task set"),
    "goal_blind": (":", "goal-blind expert"),
    "goal_given": ("--", "expert, goal given"),
    "constant": (":", "constant Gaussian"),
    "one_step": ("--", "perceptron on one step"),
}
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 150,
}


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as PNG."""
    with matplotlib.rc_context(_STYLE):
        figure.savefig(path, format="png")


def palette(count: int) -> list:
    """`count` colours that can be told apart."""
    if count <= len(OKABE_ITO):
        return list(OKABE_ITO[:count])
    return list(matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count)))


def _panels(rows: int, columns: int, width: float, height: float, **keywords):
    """A figure in the common style and its axes, `(rows, columns)`."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **keywords)
    return figure, axes


def _legend(axes: Axes, **keywords) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, frameon=False, **keywords)


def _draw_band(axes: Axes, x, values, label: str, colour, dashes="-") -> None:
    """Median over the first axis of `(runs, N)` and the band between the quartiles."""
    low, middle, high = np.nanquantile(np.atleast_2d(values), [0.25, 0.5, 0.75], axis=0)
    axes.plot(x, middle, color=colour, label=label, linestyle=dashes)
    if np.atleast_2d(values).shape[0] > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_references(axes: Axes, references: Mapping[str, float]) -> None:
    for name, value in references.items():
        dashes, label = REFERENCE_STYLES.get(name, (":", name))
        axes.axhline(value, color="0.35", linestyle=dashes, linewidth=1.2, label=label)


def pretraining_curve(
    trajectories: np.ndarray,
    cross_entropy: np.ndarray,
    references: Mapping[str, float],
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Next-action NLL of the base model beside exact references, or baselines.

    Args:
      trajectories: `(N,)` expert trajectories seen.
      cross_entropy: `(seeds, N)` on the training stream, nats per action.
      references: value by name, see `REFERENCE_STYLES`.
      held_out: trajectories `(M,)` and cross-entropy `(seeds, M)` on held-out data.
    """
    figure, axes = _panels(1, 2, 9.0, 3.6)
    for panel, scale in zip(axes[0], ("linear", "log"), strict=True):
        _draw_band(panel, trajectories, cross_entropy, "training data", OKABE_ITO[0])
        if held_out is not None:
            _draw_band(panel, *held_out, "held-out data", OKABE_ITO[1])
        _draw_references(panel, references)
        panel.set(xlabel="expert trajectories", xscale=scale)
        if scale == "linear":
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0, 0].set_ylabel("NLL of the next action (nats)")
    _legend(axes[0, 0])
    figure.suptitle("Pretraining of the base model", fontsize=11)
    return figure


def probe_beliefs(belief: np.ndarray, subgoal: np.ndarray) -> Figure:
    """What the probe of every layer believes along one trajectory.

    Args:
      belief: `(L + 1, T, G)` probability of every subgoal.
      subgoal: `(T,)` true subgoal.
    """
    num_layers, num_steps, num_subgoals = belief.shape
    columns = min(num_layers, 5)
    rows = -(-num_layers // columns)
    figure, axes = _panels(rows, columns, 2.1 * columns + 1.0, 2.3 * rows + 0.6, sharey=True)
    for layer, panel in enumerate(axes.flat):
        if layer >= num_layers:
            panel.set_axis_off()
            continue
        image = panel.imshow(
            belief[layer].T, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest"
        )
        panel.step(np.arange(num_steps), subgoal, where="mid", color="white", linewidth=1.4)
        panel.set_title("embedding" if layer == 0 else f"layer {layer}", fontsize=10)
        panel.set_yticks(range(num_subgoals))
        panel.grid(False)
        panel.set_xlabel("step")
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for panel in axes[:, 0]:
        panel.set_ylabel("subgoal")
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01)
    bar.set_label("probe's belief")
    figure.suptitle("Probe beliefs along a trajectory (white: true subgoal)", fontsize=11)
    return figure


def probe_accuracy(
    accuracy: Mapping[str, np.ndarray], accuracy_by_time: np.ndarray, chance: float
) -> Figure:
    """Probe accuracy by layer, for each age of the base model, and by time at the last age.

    Args:
      accuracy: `(seeds, L + 1)` by label of the age, youngest first.
      accuracy_by_time: `(L + 1, T)` of the oldest, NaN where nothing was counted.
      chance: accuracy of naming one of all subgoals at random.
    """
    figure, axes = _panels(1, 2, 9.0, 3.6, sharey=True)
    ages = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(accuracy))[::-1])
    for (label, values), colour in zip(accuracy.items(), ages, strict=True):
        layers = np.arange(np.shape(values)[-1])
        _draw_band(axes[0, 0], layers, values, label, colour)
    axes[0, 0].set(xlabel="layer (0: embedding)", ylabel="probe accuracy (share of steps)")
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    layers = matplotlib.colormaps["viridis"](np.linspace(0.85, 0.1, len(accuracy_by_time)))
    for layer, (values, colour) in enumerate(zip(accuracy_by_time, layers, strict=True)):
        axes[0, 1].plot(values, color=colour, label="embedding" if layer == 0 else f"layer {layer}")
    axes[0, 1].set(xlabel="step in the trajectory")
    axes[0, 1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in axes[0]:
        panel.axhline(chance, color="0.35", linestyle=":", linewidth=1.2, label="chance")
        panel.set_ylim(0, 1)
        _legend(panel, ncols=2)
    figure.suptitle("Linear probes for the subgoal", fontsize=11)
    return figure


def steering_success(success: Mapping[str, np.ndarray]) -> Figure:
    """Success of switched supervised controllers by controlled layer.

    Args:
      success: `(seeds, L + 1)` share of episodes, by label such as the depth of the base model.
    """
    figure, axes = _panels(1, 1, 4.8, 3.6)
    panel = axes[0, 0]
    for (label, values), colour in zip(success.items(), palette(len(success)), strict=True):
        values = np.atleast_2d(values)
        _draw_band(panel, np.arange(values.shape[1]), values, label, colour)
        panel.plot(np.arange(values.shape[1]), np.median(values, axis=0), "o", color=colour)
    panel.set(xlabel="controlled layer (0: embedding)", ylabel="success on the post-training task")
    panel.set_ylim(0, 1.02)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(panel)
    figure.suptitle("Supervised linear controllers", fontsize=11)
    return figure


def gates(beta: np.ndarray, subgoal: np.ndarray, mask: np.ndarray, threshold: float) -> Figure:
    """The learned gate against the ground-truth subgoal on example trajectories.

    Args:
      beta: `(E, T)` gate.
      subgoal: `(E, T)` true subgoal.
      mask: `(E, T)` bool, steps that belong to the trajectory; its leading steps.
      threshold: gate value from which on a step is a switch.
    """
    count, longest = beta.shape[0], int(mask.sum(axis=1).max())
    figure, axes = _panels(count, 1, 8.0, 0.9 * count + 1.5, sharex=True, sharey=True)
    colours = palette(int(subgoal.max()) + 1)
    for panel, gate, goal, valid in zip(axes[:, 0], beta, subgoal, mask, strict=True):
        steps = np.flatnonzero(valid)
        for t in steps:
            panel.axvspan(t - 0.5, t + 0.5, color=colours[goal[t]], alpha=0.3, linewidth=0)
        panel.vlines(steps, 0, gate[steps], color="black", linewidth=1.2)
        panel.plot(steps, gate[steps], "o", color="black", markersize=3.5)
        panel.axhline(threshold, color="0.35", linestyle=":", linewidth=1.0)
        panel.set(ylim=(-0.03, 1.08), xlim=(-0.5, longest - 0.5), yticks=[0, 1])
        panel.grid(False)
    axes[-1, 0].set_xlabel("step")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supylabel(r"gate $\beta$", fontsize=10)
    shown = sorted(set(subgoal[mask].tolist()))
    figure.legend(
        handles=[Patch(color=colours[g], alpha=0.3, label=f"subgoal {g}") for g in shown],
        loc="outside lower center",
        ncols=min(len(shown), 6),
        frameon=False,
        fontsize=9,
    )
    figure.suptitle("Gate against the true subgoal (background)", fontsize=11)
    return figure


def code_colours(codes: np.ndarray) -> np.ndarray:
    """RGB colours `(N, 3)` in which like codes `(N, n_z)` look alike.

    Red, green and blue are the ranks along the three principal components.
    """
    centred = codes - codes.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:3]
    # Without rounding, codes that differ by noise alone would be told apart by rank.
    components = np.round(centred @ directions.T, 2)
    colours = np.full((len(codes), 3), 0.5)
    for i, values in enumerate(components.T):
        levels, index = np.unique(values, return_inverse=True)
        colours[:, i] = np.linspace(0.05, 0.9, max(len(levels), 2))[index]
    return colours


def _draw_cells(axes: Axes, colours: np.ndarray, walls: np.ndarray, grid_size: int) -> None:
    """The plane from above: coloured cells with their numbers, and walls."""
    half = grid_size / 2
    faces = palette(len(colours))
    for number, (x, y) in enumerate(colours):
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=faces[number], alpha=0.3, lw=0))
        axes.text(x - 0.43, y + 0.4, str(number), fontsize=9, va="top", color="0.2")
    for x, y in walls:
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color="0.35", lw=0))
    for line in np.arange(grid_size + 1) - half:
        axes.plot([line, line], [-half, half], color="0.85", linewidth=0.6, zorder=0)
        axes.plot([-half, half], [line, line], color="0.85", linewidth=0.6, zorder=0)
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xticks=[], yticks=[])
    axes.set_xlabel(f"{grid_size} cells")
    axes.grid(False)


def paths(
    place: np.ndarray,
    colours: np.ndarray,
    walls: np.ndarray,
    code: np.ndarray,
    switch: np.ndarray,
    mask: np.ndarray,
    grid_size: int,
) -> Figure:
    """Episodes from above, in the colour of the active code; the first step is a disc.

    Args:
      place: `(E, T, 2)` where the agent is, in cells, see `envs.pinpad.Scene`.
      colours: `(E, O, 2)` coloured cells.
      walls: `(E, W, 2)` walls.
      code: `(E, T, n_z)` active code.
      switch: `(E, T)` bool, a new code was taken at this step: a ring.
      mask: `(E, T)` bool, steps that belong to the episode; its leading steps.
      grid_size: side of the grid in cells.
    """
    count = len(place)
    figure, axes = _panels(1, count, max(2.6 * count + 0.4, 4.8), 3.2)
    shades = np.zeros((*mask.shape, 3))
    shades[mask] = code_colours(code[mask])
    for i, panel in enumerate(axes[0]):
        _draw_cells(panel, colours[i], walls[i], grid_size)
        steps = place[i][mask[i]]
        lines = np.stack([steps[:-1], steps[1:]], axis=1)
        panel.add_collection(LineCollection(lines, colors=shades[i][mask[i]][:-1], linewidths=2.2))
        panel.plot(*steps[0], "o", color="black", markersize=6)
        taken = np.flatnonzero(switch[i] & mask[i])[1:]
        ring = shades[i, taken] if len(taken) else "none"
        panel.scatter(
            *place[i, taken].T, s=48, facecolors="white", edgecolors=ring, linewidths=1.8, zorder=3
        )
    figure.suptitle("Paths in the colour of the active code (ring: new code)", fontsize=11)
    return figure


def rate_distortion(rows: Sequence[Mapping], references: Mapping[str, float]) -> Figure:
    """Rate against distortion over alpha, and the alignment of the switches.

    Args:
      rows: from `rate_distortion.summarise_sweep`.
      references: NLL of references by name, nats per action.
    """
    figure, axes = _panels(1, 2, 9.0, 3.8)
    names = list(dict.fromkeys(row["name"] for row in rows))
    for name, colour in zip(names, palette(len(names)), strict=True):
        chosen = [row for row in rows if row["name"] == name]
        alpha, nll, kl, f1 = ([row[key] for row in chosen] for key in ("alpha", "nll", "kl", "f1"))
        axes[0, 0].plot(nll, kl, "o-", color=colour, label=name)
        for row in chosen:
            axes[0, 0].annotate(
                rf"$\alpha$={row['alpha']:g}",
                (row["nll"], row["kl"]),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=7.5,
                color=colour,
            )
        axes[0, 1].plot(alpha, f1, "o-", color=colour, label=name)
        low, high = ([row[f"f1_{end}"] for row in chosen] for end in ("low", "high"))
        axes[0, 1].fill_between(alpha, low, high, color=colour, alpha=0.2, linewidth=0)
    for name, value in references.items():
        dashes, label = REFERENCE_STYLES.get(name, (":", name))
        axes[0, 0].axvline(value, color="0.35", linestyle=dashes, linewidth=1.2, label=label)
    axes[0, 0].set(
        xlabel="distortion: action NLL (nats per step)", ylabel="rate: KL (nats per step)"
    )
    axes[0, 1].set(xlabel=r"$\alpha$", ylabel="F1 of the switches", ylim=(0, 1.02))
    _legend(axes[0, 0])
    _legend(axes[0, 1])
    figure.suptitle("Rate and distortion", fontsize=11)
    return figure


def rl_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], floor: float = 1e-4) -> Figure:
    """Success against episodes, linear and logarithmic, median and quartiles over runs.

    Args:
      curves: episodes `(N,)` and success `(runs, N)` by label.
      floor: lower end of the logarithmic axis; smaller values, zero included, are drawn there.
    """
    figure, axes = _panels(1, 2, 9.5, 3.8)
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
            _draw_band(panel, episodes, values, label, colour, dashes)
    axes[0, 0].set(ylim=(-0.02, 1.02), ylabel="success on the post-training task")
    axes[0, 1].set(yscale="log", ylim=(floor * 0.8, 1.3), ylabel=f"success, at least {floor:g}")
    for panel in axes[0]:
        panel.set_xlabel("episodes")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    _legend(axes[0, 0])
    figure.suptitle("Reinforcement learning: median and quartiles over runs", fontsize=11)
    return figure


def injected_codes(reach: Mapping[str, Mapping[str, float]]) -> Figure:
    """How often the colour aimed at is visited next, with a collected code and without.

    Args:
      reach: rate by arm (`code_injection.ARMS`), by label of the moment of injection.
    """
    figure, axes = _panels(1, 1, 5.2, 3.6)
    panel = axes[0, 0]
    arms = list(next(iter(reach.values())))
    width = 0.8 / len(arms)
    for i, (arm, colour) in enumerate(zip(arms, palette(len(arms)), strict=True)):
        at = np.arange(len(reach)) + (i - (len(arms) - 1) / 2) * width
        heights = [rates[arm] for rates in reach.values()]
        bars = panel.bar(at, heights, 0.92 * width, color=colour, label=arm)
        panel.bar_label(bars, fmt="%.2f", fontsize=8)
    panel.set_xticks(range(len(reach)), list(reach))
    panel.set(ylim=(0, 1.1), ylabel="next colour is the one aimed at")
    panel.grid(False, axis="x")
    _legend(panel, ncols=len(arms), loc="upper center")
    figure.suptitle("Codes injected into other episodes", fontsize=11)
    return figure


def gradient_variance(curves: Mapping[str, np.ndarray]) -> Figure:
    """Variance of the policy gradient against the number of raw steps, and how much it grows.

    Levels depend on the width of the policy: the score of a code is divided by its variance. The
    growth with the number of raw steps, right, is what code actions save (method §6).

    Args:
      curves: `(T,)` total variance by label, NaN where unknown; entry `n - 1` uses `n` raw steps.
    """
    figure, axes = _panels(1, 2, 7.2, 3.4)
    for (label, values), colour in zip(curves.items(), palette(len(curves)), strict=True):
        steps = np.arange(1, len(values) + 1)
        axes[0, 0].plot(steps, values, color=colour, label=label)
        growth = values / values[0] if values[0] > 0 else np.full_like(values, np.nan)
        axes[0, 1].plot(steps, growth, color=colour, label=label)
    for panel, of in zip(axes[0], ("variance", "variance, as multiple of one step's"), strict=True):
        panel.set(xlabel="raw steps", ylabel=of, yscale="log")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(panel)
    figure.suptitle("Variance of the policy gradient of one episode", fontsize=11)
    return figure
