"""Tables of sweeps: a line for each point, for readers and as CSV.

What is told of the values of several runs is one cell, a `Summary`, which is written in several
columns: median and quartiles, as in the paper, and beside them the interquartile mean with the
interval of its bootstrap over base models.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence

from internal_rl.analysis import statistics
from internal_rl.analysis.statistics import Summary
from internal_rl.analysis.table import format_number, format_span

Cell = str | int | float | Summary

SUMMARY_HEADS = ("quartiles", "interquartile mean", "95 % interval")
"""What stands for readers behind the median of a summary."""

SUMMARY_CSV_HEADS = (
    *("lower quartile", "upper quartile"),
    *("interquartile mean", "interval from", "interval to"),
)
"""The same for programs."""


@dataclasses.dataclass(frozen=True)
class SweepTable:
    """A table.

    Attributes:
      columns: heading of every cell.
      rows: cells of every row; numbers are written with four digits, NaN as a dash. What is a
        summary in one row is one in all.
      notes: lines below it.

    Raises:
      ValueError: a row has more or fewer cells than there are columns, or a summary where the first
        row has none, or none where that has one.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row of {len(row)} cells given, allowed are {len(self.columns)}: {row}"
                )
            for name, cell, first in zip(self.columns, row, self.rows[0], strict=True):
                if isinstance(cell, Summary) != isinstance(first, Summary):
                    raise ValueError(
                        f"column '{name}' mixes summaries with other cells, allowed is one of both"
                    )

    def markdown(self) -> str:
        """For readers, notes included."""
        if not self.rows:
            return "\n".join([*self.notes, ""])
        heads = self._heads(SUMMARY_HEADS)
        texts = [[text for cell in row for text in _texts(cell)] for row in self.rows]
        lines = ["| " + " | ".join(heads) + " |"]
        lines.append("|" + "|".join("---:" if right else "---" for right in self._numeric()) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in texts]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Columns and rows as CSV, numbers with six digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._heads(SUMMARY_CSV_HEADS))
        for row in self.rows:
            writer.writerow([number for cell in row for number in _numbers(cell)])
        return text.getvalue()

    def _heads(self, of_summary: Sequence[str]) -> list[str]:
        """Headings, with those of a summary behind its own."""
        heads = []
        for name, cell in zip(
            self.columns, self.rows[0] if self.rows else self.columns, strict=True
        ):
            heads.append(name)
            if isinstance(cell, Summary):
                heads += [f"{name}: {head}" for head in of_summary]
        return heads

    def _numeric(self) -> list[bool]:
        """Of every column for readers, whether it holds numbers."""
        found = []
        for index, cell in enumerate(self.rows[0]):
            number = all(not isinstance(row[index], str) for row in self.rows)
            found += [number] * (1 + len(SUMMARY_HEADS) * isinstance(cell, Summary))
        return found


def _texts(cell: Cell) -> list[str]:
    """A cell for readers."""
    if isinstance(cell, Summary):
        spans = format_span(cell.lower, cell.upper), format_span(*cell.interval)
        return [format_number(cell.median), spans[0], format_number(cell.mean), spans[1]]
    return [format_number(cell) if isinstance(cell, float) else str(cell)]


def _numbers(cell: Cell) -> list[str | int]:
    """A cell for programs."""
    if isinstance(cell, Summary):
        numbers = (cell.median, cell.lower, cell.upper, cell.mean, *cell.interval)
        return [f"{number:.6g}" for number in numbers]
    return [f"{cell:.6g}" if isinstance(cell, float) else cell]


def told_rates(rates: Sequence[tuple[float, int]]) -> list[str]:
    """A note on how sure success rates of single runs are; none without a rate.

    Args:
      rates: of every run the share of successes and of how many episodes it is that.
    """
    known = [(rate, number) for rate, number in rates if number and not math.isnan(rate)]
    if not known:
        return []
    ends = [statistics.wilson(*pair) for pair in known]
    numbers = " or ".join(f"{number:,}" for number in sorted({number for _, number in known}))
    width = max(high - low for low, high in ends)
    return [
        f"Success of a run is the share of {numbers} episodes: its 95 % interval over episodes"
        f" (Wilson) is at most {format_number(width)} wide."
    ]
