"""Paths from above in the colour of the active code (method §5)."""

import numpy as np
from flax import struct
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from internal_rl.analysis.code_stages import Captions, code_stages, of_each_stage
from internal_rl.analysis.drawing import palette, panels, tell
from internal_rl.analysis.examples import examples_of
from internal_rl.analysis.results import RunResults, standing, with_artifact, world_of
from internal_rl.analysis.study import Study, StudyContext
from internal_rl.analysis.table import variant_prefixes
from internal_rl.methods.switching import SWITCH_THRESHOLD


@struct.dataclass
class Paths:
    """`E` episodes of up to `T` steps, seen from above.

    Where the last step led to is not known of everything that was kept: it is its own end then.

    Attributes:
      place: `(E, T, 2)` where the agent is before each step, in cells, see `types.Scene`.
      last_place: `(E, 2)` where it is after the last one.
      colours: `(E, O, 2)` places that can be visited.
      walls: `(E, W, 2)` walls.
      code: `(E, T, n_z)` active code.
      switch: `(E, T)` bool, a new code was taken at this step.
      mask: `(E, T)` bool, steps that belong to the episode; its leading steps.
    """

    place: np.ndarray
    last_place: np.ndarray
    colours: np.ndarray
    walls: np.ndarray
    code: np.ndarray
    switch: np.ndarray
    mask: np.ndarray


def measure(context: StudyContext) -> dict[str, np.ndarray]:
    """Fields of the world's `Scene` as `example_<field>`, `(E, T, ...)`, and as
    `example_next_place` where each step leads."""
    rows, scene = context.rows, context.world.scene
    arrays = vars(scene(rows.observation)) | {"next_place": scene(rows.next_observation).place}
    examples = examples_of(context, **arrays)
    # The mask is that of the gates.
    del examples["example_mask"]
    return examples


@of_each_stage
def figures(run: RunResults, stage: str) -> dict[str, Figure | None]:
    """Paths of expert trajectories in the codes that were inferred, of the first seed."""
    seeds = with_artifact(run, stage, "example_place")
    world = world_of(seeds[0]) if seeds else None
    if world is None:
        return {}
    found = {
        name: seeds[0].artifacts[f"example_{name}"]
        for name in ("place", "colours", "walls", "code", "beta", "mask")
    }
    led_to = seeds[0].artifacts.get("example_next_place", found["place"])
    shown = Paths(
        place=found["place"],
        last_place=at_last_step(led_to, found["mask"]),
        colours=found["colours"][:, 0],
        walls=found["walls"][:, 0],
        code=found["code"],
        switch=found["beta"] >= SWITCH_THRESHOLD,
        mask=found["mask"],
    )
    figure = draw_paths(shown, world.grid_size)
    tell(figure, f"{variant_prefixes(stage)[1]}{standing(seeds[:1])}")
    return {"paths": figure}


def at_last_step(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`(E, ...)` of `(E, T, ...)`: the values at the last step of each episode.

    Args:
      values: of every step.
      mask: `(E, T)` bool, steps that belong to the episode; its leading steps.
    """
    return values[np.arange(len(values)), mask.sum(axis=1) - 1]


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


def draw_cells(axes: Axes, colours: np.ndarray, walls: np.ndarray, grid_size: int) -> None:
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


def draw_paths(shown: Paths, grid_size: int) -> Figure:
    """Episodes from above; the start is a disc, the end a square, a new code a ring.

    Args:
      shown: what happened.
      grid_size: side of the plane in cells.
    """
    count, mask = len(shown.place), shown.mask
    figure, axes = panels(1, count, (max(2.6 * count + 0.4, 4.8), 3.2))
    shades = np.zeros((*mask.shape, 3))
    shades[mask] = code_colours(shown.code[mask])
    for i, panel in enumerate(axes[0]):
        draw_cells(panel, shown.colours[i], shown.walls[i], grid_size)
        steps = np.concatenate([shown.place[i][mask[i]], shown.last_place[i : i + 1]])
        lines = np.stack([steps[:-1], steps[1:]], axis=1)
        panel.add_collection(LineCollection(lines, colors=shades[i][mask[i]], linewidths=2.2))
        panel.plot(*steps[0], "o", color="black", markersize=6)
        panel.plot(*steps[-1], "s", color="black", markersize=5)
        taken = np.flatnonzero(shown.switch[i] & mask[i])[1:]
        ring = shades[i, taken] if len(taken) else "none"
        panel.scatter(
            *shown.place[i, taken].T,
            s=48,
            facecolors="white",
            edgecolors=ring,
            linewidths=1.8,
            zorder=3,
        )
    figure.suptitle(
        "Paths in the colour of the active code\n(disc: start, square: end, ring: new code)",
        fontsize=10,
    )
    return figure


STUDY = Study(
    name="paths",
    stages=code_stages,
    needs=frozenset({"scene"}),
    measure=measure,
    figures=figures,
    title="Paths of expert trajectories",
    captions=Captions(
        paths="Example trajectories from above, in the colour of the code that was inferred; "
        "like codes have like colours. Disc: start, square: end, ring: a new code.",
    ),
)
