"""Where the subgoal can be read from the residual stream (method §4).

What is measured are the accuracies of trained probes on held-out rows, by layer, by time in the
trajectory and by age of the subgoal, and their beliefs along one row.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import chex
import jax
import matplotlib
import numpy as np
from flax import struct
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from internal_rl.analysis.drawing import draw_band, legend, panels, tell
from internal_rl.analysis.results import RunResults, SeedResults, standing, with_artifact
from internal_rl.analysis.study import LABELS, Study, StudyContext, as_arrays
from internal_rl.analysis.table import Row, best_layer_rows
from internal_rl.methods import probing
from internal_rl.models.steered_model import SteeredModel
from internal_rl.types import Trajectory


@struct.dataclass
class ProbeResult:
    """What the probes of all layers say of held-out rows.

    Attributes:
      accuracy: `(L + 1,)` share of tokens.
      cross_entropy: `(L + 1,)` nats.
      accuracy_by_time: `(L + 1, T)` by step of the trajectory, NaN where few tokens were counted.
      accuracy_by_age: `(L + 1, T)` by steps since the subgoal changed, likewise.
      example_beliefs: `(L + 1, S, G)` probability of every subgoal along the first row.
      example_subgoal: `(S,)` true subgoal of that row.
      example_segment: `(S,)` its trajectories.
    """

    accuracy: chex.Array
    cross_entropy: chex.Array
    accuracy_by_time: chex.Array
    accuracy_by_age: chex.Array
    example_beliefs: chex.Array
    example_subgoal: chex.Array
    example_segment: chex.Array


@partial(jax.jit, static_argnames="max_time")
def examine_probes(
    model: SteeredModel, weights: chex.Array, rows: Trajectory, max_time: int
) -> ProbeResult:
    """Accuracies and beliefs of trained probes.

    Args:
      model: whose base model is read.
      weights: `(L + 1, n_e, G)` a probe for every layer.
      rows: `(B, S)` held-out rows with labels.
      max_time: time bins `T`.
    """
    residuals = probing.residual_streams(model, rows)
    counts = probing.count_correct(weights, residuals, rows, max_time)
    return ProbeResult(
        **probing.probe_metrics(counts),
        example_beliefs=probing.beliefs(weights, residuals[:, :1])[:, 0],
        example_subgoal=rows.subgoal[0],
        example_segment=rows.segment[0],
    )


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`ProbeResult`."""
    weights = context.params["weights"]
    return as_arrays(examine_probes(context.model, weights, context.rows, context.world.time_limit))


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """The accuracy of the best layer against input and output, for the final base model."""
    if stage != "probe":
        return []
    return best_layer_rows(seeds, "accuracy", "probe_accuracy", "probe accuracy")


def figures(run: RunResults) -> dict[str, Figure | None]:
    """Beliefs along a trajectory, and accuracies by layer, age and time."""
    found = {}
    if seeds := with_artifact(run, "probe", "example_beliefs"):
        found["probe_beliefs"] = _draw_beliefs(seeds[0].artifacts)
        tell(found["probe_beliefs"], standing(seeds[:1]))
    if ages := _by_age(run):
        accuracy = {
            label: np.stack([results.artifacts["accuracy"] for results in seeds])
            for label, seeds in ages.items()
        }
        oldest = list(ages.values())[-1][0]
        found["probe_accuracy"] = _draw_accuracy(accuracy, oldest.artifacts)
        by_layer = "; ".join(f"{label}: {standing(seeds)}" for label, seeds in ages.items())
        by_time = standing([oldest])
        tell(
            found["probe_accuracy"],
            f"Left: median and quartiles, {by_layer}. Right: {by_time}",
        )
    return found


def draw_result(result: ProbeResult) -> dict[str, Figure]:
    """The same figures of a single result."""
    arrays = {name: np.asarray(value) for name, value in as_arrays(result).items()}
    accuracy = _draw_accuracy({"final": arrays["accuracy"][None]}, arrays)
    return {"probe_beliefs": _draw_beliefs(arrays), "probe_accuracy": accuracy}


def _draw_beliefs(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Beliefs along the first trajectory of the example."""
    first = arrays["example_segment"] == 0
    return probe_beliefs(arrays["example_beliefs"][:, first], arrays["example_subgoal"][first])


def _draw_accuracy(accuracy: Mapping[str, np.ndarray], oldest: Mapping[str, np.ndarray]) -> Figure:
    """Accuracies by age, and those of the oldest by time, as far as there were tokens."""
    by_time = oldest["accuracy_by_time"]
    known = ~np.all(np.isnan(by_time), axis=0)
    num_subgoals = oldest["example_beliefs"].shape[-1]
    return probe_accuracy(accuracy, by_time[:, known], 1.0 / num_subgoals)


def _by_age(run: RunResults) -> dict[str, list[SeedResults]]:
    """Seeds with probes by label of the age of the base model, youngest first."""
    ages = {}
    for stage in run:
        looks = stage.startswith("probe")
        if seeds := with_artifact(run, stage, "accuracy_by_time") if looks else []:
            # The final parameters, written as age 0, are the oldest.
            ages[seeds[0].config["probe"]["base_step"] or math.inf] = seeds
    return {"final" if math.isinf(age) else f"{age:,} updates": ages[age] for age in sorted(ages)}


def probe_beliefs(belief: np.ndarray, subgoal: np.ndarray) -> Figure:
    """What the probe of every layer believes along one trajectory.

    Args:
      belief: `(L + 1, T, G)` probability of every subgoal.
      subgoal: `(T,)` true subgoal.
    """
    num_layers, num_steps, num_subgoals = belief.shape
    columns = min(num_layers, 5)
    rows = -(-num_layers // columns)
    figure, axes = panels(rows, columns, (2.1 * columns + 1.0, 2.3 * rows + 0.6), sharey=True)
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
    figure, axes = panels(1, 2, (9.0, 3.6), sharey=True)
    ages = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(accuracy))[::-1])
    for (label, values), colour in zip(accuracy.items(), ages, strict=True):
        layers = np.arange(np.shape(values)[-1])
        draw_band(axes[0, 0], layers, values, label=label, colour=colour)
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
        legend(panel, ncols=2)
    figure.suptitle("Linear probes for the subgoal", fontsize=11)
    return figure


STUDY = Study(
    name="probe",
    stages=("probe",),
    needs=frozenset({LABELS}),
    measure=measure,
    rows=rows,
    figures=figures,
    title="Linear probes for the subgoal",
    captions={
        "probe_beliefs": "For the embedding and every layer, how probable each subgoal is to "
        "the probe at each step of one trajectory; the white line is the true subgoal.",
        "probe_accuracy": "Share of steps at which the probe names the subgoal: by layer for "
        "each age of the base model, and by step in the trajectory for each layer; the dotted "
        "line is chance.",
    },
)
