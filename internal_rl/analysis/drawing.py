"""The common style of all figures, and what several of them draw.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; where there are more
than eight lines to tell apart, they are drawn from a perceptually uniform map.
"""

import dataclasses
import io
import textwrap
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from internal_rl.analysis.statistics import quartiles
from internal_rl.colours import OKABE_ITO

REFERENCE_STYLES = {
    "bayes": ("-.", "Bayes given the task set"),
    "goal_blind": (":", "goal-blind expert"),
    "goal_given": ("--", "expert, goal given"),
    "constant": (":", "constant distribution"),
    "one_step": ("--", "perceptron on one step"),
}
# Of text of size 8, so that it fits between the borders of a figure.
_LETTERS_PER_INCH = 15
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


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure or an animation, as it is written to a file.

    Attributes:
      name: of the file, without its ending.
      content: of the file, PNG or GIF.
      told: on what it stands, as it says itself; empty for animations.
    """

    name: str
    content: bytes
    told: str = ""


def as_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(content, format="png")
    return content.getvalue()


def palette(count: int) -> list:
    """`count` colours that can be told apart."""
    if count <= len(OKABE_ITO):
        return list(OKABE_ITO[:count])
    return list(matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count)))


def panels(
    rows: int, columns: int, size: tuple[float, float], **keywords
) -> tuple[Figure, np.ndarray]:
    """A figure in the common style, of width and height `size` in inches, and its axes.

    Args:
      rows: of axes.
      columns: of axes.
      size: of the figure.
      **keywords: those of `Figure.subplots`.

    Returns:
      The figure and an array `(rows, columns)` of axes.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **keywords)
    return figure, axes


def tell(figure: Figure, text: str) -> None:
    """Writes below a figure what it stands on: runs, base models, denominators."""
    per_line = int(figure.get_figwidth() * _LETTERS_PER_INCH)
    text = "\n".join(textwrap.fill(line, per_line) for line in text.splitlines())
    if not figure.legends:
        figure.supxlabel(text, fontsize=8, color="0.3")
        return
    # Matplotlib would put a line of text and a legend of the figure on the same place.
    figure.legends[-1].set_title(text, prop={"size": 8})


def told(figure: Figure) -> str:
    """What `tell` has written, and the legend below the figure; empty without."""
    found = [figure.get_supxlabel()]
    for legend in figure.legends:
        labels = "; ".join(text.get_text() for text in legend.get_texts())
        found += [legend.get_title().get_text(), labels]
    parts = (" ".join(part.split()) for part in found)
    return " ".join(part if part.endswith(".") else f"{part}." for part in parts if part)


def legend(axes: Axes, **keywords) -> None:
    """A legend, where something has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, frameon=False, **keywords)


def draw_band(axes: Axes, x, values, *, label: str, colour, dashes="-") -> None:
    """Median over the first axis of `(runs, N)` and the band between the quartiles.

    Lines that lie on each other all show with dashes that leave each other room; a thin line below
    keeps together the dashes of one that lies alone.
    """
    low, middle, high = quartiles(np.atleast_2d(values))
    axes.plot(x, middle, color=colour, label=label, linestyle=dashes)
    if dashes != "-":
        axes.plot(x, middle, color=colour, linewidth=0.8, zorder=1.9)
    if np.atleast_2d(values).shape[0] > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def draw_references(axes: Axes, references: Mapping[str, float], across: str = "y") -> None:
    """Lines at known values, labelled with their names.

    Args:
      axes: where to draw.
      references: value by name, see `REFERENCE_STYLES`.
      across: the axis that the values belong to, `"y"` for level lines or `"x"` for upright ones.
    """
    draw = axes.axhline if across == "y" else axes.axvline
    for name, value in references.items():
        dashes, label = REFERENCE_STYLES.get(name, (":", name))
        draw(value, color="0.35", linestyle=dashes, linewidth=1.2, label=label)
