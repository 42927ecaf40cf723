"""Pairs of paths from above, without and with an injected code (method §5, figure A4)."""

from collections.abc import Mapping

import numpy as np
from flax import struct
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from internal_rl.analysis.drawing import palette, panels
from internal_rl.analysis.paths import draw_cells
from internal_rl.analysis.sampled_codes import Rollouts
from internal_rl.types import Scene

NUM_PAIRS = 3
_TITLES = ("without the code", "with the code")


@struct.dataclass
class Pairs:
    """`E` episodes of up to `T` steps, each without and with a code.

    Attributes:
      place: `(2, E, T, 2)` where the agent is before each step, in cells; without the code first.
      visit: `(2, E, T)` int32 place that each step entered, -1 for none.
      active: `(2, E, T)` bool, steps that belong to the episode; its leading steps.
      colours: `(E, O, 2)` places that can be visited.
      walls: `(E, W, 2)` walls.
      step: `(E,)` int32 step of the injection.
      target: `(E,)` int32 place that the code means.
    """

    place: np.ndarray
    visit: np.ndarray
    active: np.ndarray
    colours: np.ndarray
    walls: np.ndarray
    step: np.ndarray
    target: np.ndarray


def pairs_of(
    arms: Mapping[str, Rollouts], moment: tuple[np.ndarray, np.ndarray], scene: Scene
) -> Pairs:
    """The first episodes in which the code alone decides, up to `NUM_PAIRS` of them.

    In these its place is the next one visited with the code, and not without it; others follow
    where there are too few.

    Args:
      arms: rollouts by arm.
      moment: `(B,)` step of the injection and place aimed at, -1 for none.
      scene: of `B` first observations.
    """
    step, target = moment
    reached = {
        arm: next_visit(np.asarray(rollouts.visit), step) == target
        for arm, rollouts in arms.items()
    }
    order = np.argsort(~(reached["with"] & ~reached["without"]), kind="stable")
    chosen = order[target[order] >= 0][:NUM_PAIRS]

    def both(name):
        return np.stack([np.asarray(getattr(arms[a], name))[chosen] for a in ("without", "with")])

    return Pairs(
        place=both("place"),
        visit=both("visit"),
        active=both("active"),
        colours=np.asarray(scene.colours)[chosen],
        walls=np.asarray(scene.walls)[chosen],
        step=step[chosen],
        target=target[chosen],
    )


def next_visit(visit: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Place visited first from a step on, `(B,)`, -1 for none.

    Args:
      visit: `(B, T)` place that each step entered, -1 for none.
      step: `(B,)`.
    """
    after = (visit >= 0) & (np.arange(visit.shape[1]) >= step[:, None])
    found = np.take_along_axis(visit, np.argmax(after, axis=1)[:, None], axis=1)[:, 0]
    return np.where(after.any(axis=1), found, -1)


def draw_pairs(shown: Pairs, grid_size: int) -> Figure | None:
    """Episodes from above: grey up to the injection, then in the colour of the code.

    Paths end at the first visit after the injection. None without any episode.

    Args:
      shown: what happened.
      grid_size: side of the plane in cells.
    """
    count = len(shown.target)
    if not count:
        return None
    figure, axes = panels(2, count, (max(2.6 * count + 0.4, 4.8), 6.4))
    for arm, title in enumerate(_TITLES):
        after = next_visit(shown.visit[arm], shown.step)
        for i, panel in enumerate(axes[arm]):
            draw_cells(panel, shown.colours[i], shown.walls[i], grid_size)
            _draw_path(panel, shown, arm, i)
            panel.set_title(f"{title}\nnext visit: {'none' if after[i] < 0 else after[i]}")
            panel.set_xlabel(f"code of {shown.target[i]} at step {shown.step[i]}")
    without, with_code = (next_visit(visit, shown.step) == shown.target for visit in shown.visit)
    decided = int(np.sum(with_code & ~without))
    told = (
        "chosen where the code decides"
        if decided == count
        else f"the code decides in {decided} of {count}"
    )
    figure.suptitle(
        f"Paths up to the next visit (disc: start, star: injection), {told}", fontsize=11
    )
    return figure


def _draw_path(panel: Axes, shown: Pairs, arm: int, episode: int) -> None:
    place, visit = shown.place[arm, episode], shown.visit[arm, episode]
    step, length = shown.step[episode], int(shown.active[arm, episode].sum())
    later = np.flatnonzero(visit[step:] >= 0)
    # The step of a visit leads to the place before the next one.
    end = min(step + later[0] + 2, length) if len(later) else length
    colour = palette(len(shown.colours[episode]))[shown.target[episode]]
    panel.plot(*place[: step + 1].T, color="0.6", linewidth=1.6)
    panel.plot(*place[step:end].T, color=colour, linewidth=2.4)
    panel.plot(*place[0], "o", color="black", markersize=6)
    panel.plot(*place[step], "*", color="black", markersize=10)
    panel.plot(*place[end - 1], "s", color=colour, markersize=6)
