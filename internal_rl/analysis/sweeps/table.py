"""Tables of sweeps: a line for each point, for readers and as CSV."""

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from internal_rl.analysis import statistics
from internal_rl.analysis.table import format_number


@dataclasses.dataclass(frozen=True)
class SweepTable:
    """A table.

    Attributes:
      columns: heading of every column.
      rows: cells of every row; numbers are written with four digits, NaN as a dash.
      notes: lines below it.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str | int | float]]
    notes: Sequence[str] = ()

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row of {len(row)} cells given, allowed are {len(self.columns)}: {row}"
                )

    def markdown(self) -> str:
        """For readers, notes included."""
        if not self.rows:
            return "\n".join([*self.notes, ""])
        texts = [[_text(cell) for cell in row] for row in self.rows]
        numeric = [all(not isinstance(row[i], str) for row in self.rows) for i in range(self.width)]
        lines = ["| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "|".join("---:" if right else "---" for right in numeric) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in texts]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"

    @property
    def width(self) -> int:
        """How many columns there are."""
        return len(self.columns)

    def csv(self) -> str:
        """Columns and rows as CSV, numbers with six digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
        return text.getvalue()


def _text(cell: str | int | float) -> str:
    return format_number(cell) if isinstance(cell, float) else str(cell)


def quartile_columns(name: str) -> tuple[str, str, str]:
    """Headings of what `quartiles` gives."""
    return (name, f"{name}, lower quartile", f"{name}, upper quartile")


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile of the values that are numbers; NaN without any."""
    low, middle, high = statistics.quartiles(np.asarray(values, float))
    return float(middle), float(low), float(high)
