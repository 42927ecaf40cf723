"""The figures of merit of a run as rows: medians over seeds, and their range."""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from internal_rl.analysis.results import SeedResults


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity.

    Attributes:
      key: its name in `summary.json`.
      label: the same for readers, with its unit.
      values: one per seed; NaN where a seed has none.
      base_models: seed of the base model on which each of them stands; empty unless all tell.
    """

    key: str
    label: str
    values: tuple[float, ...]
    base_models: tuple[int, ...] = ()

    @property
    def seeds(self) -> str:
        """How many runs there are, and on how many base models."""
        count, bases = len(self.values), len(set(self.base_models))
        if count == 1 or not bases:
            return str(count)
        return f"{count} on {bases} base model{'s' if bases > 1 else ''}"

    @property
    def median(self) -> float:
        """Median over the seeds that have a value; NaN without any."""
        return self._over_seeds(np.nanmedian)

    @property
    def lowest(self) -> float:
        """Smallest value over seeds."""
        return self._over_seeds(np.nanmin)

    @property
    def highest(self) -> float:
        """Largest value over seeds."""
        return self._over_seeds(np.nanmax)

    def _over_seeds(self, function: Callable) -> float:
        return math.nan if np.all(np.isnan(self.values)) else float(function(self.values))


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows for a notebook, which shows them as Markdown.

    Attributes:
      rows: of the table.
    """

    rows: tuple[Row, ...]

    @classmethod
    def of(cls, values: Mapping[str, float], labels: Mapping[str, str] | None = None) -> "Table":
        """A row for each value; labels are the keys where they are not given."""
        labels = labels or {}
        return cls(tuple(Row(key, labels.get(key, key), (float(x),)) for key, x in values.items()))

    def as_dict(self) -> dict[str, float]:
        """Medians by key."""
        return {row.key: row.median for row in self.rows}

    def __str__(self) -> str:
        return format_markdown(self.rows)

    def _repr_markdown_(self) -> str:
        return str(self)


def make_row(
    key: str, label: str, seeds: Iterable[SeedResults], value: Callable[[SeedResults], float]
) -> Row:
    """A row of the value of every seed."""
    seeds = list(seeds)
    base_models = tuple(results.base_model for results in seeds)
    if None in base_models:
        base_models = ()
    return Row(key, label, tuple(value(results) for results in seeds) or (math.nan,), base_models)


def best_layer_rows(seeds: Sequence[SeedResults], artifact: str, key: str, label: str) -> list[Row]:
    """Best layer against input and output, of an artifact of shape `(L + 1,)`."""
    seeds = [results for results in seeds if artifact in results.artifacts]

    def at(choose):
        return lambda s: float(choose(s.artifacts[artifact]))

    return [
        make_row(f"{key}_best", f"{label}, best layer", seeds, at(np.max)),
        make_row(f"{key}_best_layer", f"{label}, which layer", seeds, at(np.argmax)),
        make_row(f"{key}_input", f"{label}, input layer", seeds, at(lambda values: values[0])),
        make_row(f"{key}_output", f"{label}, output layer", seeds, at(lambda values: values[-1])),
    ]


def variant_of(stage: str) -> str:
    """`metacontroller_forced` to `forced`; the metacontroller without suffix is `discovered`."""
    return stage.removeprefix("metacontroller").removeprefix("_") or "discovered"


def variant_prefixes(stage: str) -> tuple[str, str]:
    """How keys and labels of a stage's rows begin: with the name of the variant, if it is one."""
    variant = variant_of(stage)
    return ("", "") if variant == "discovered" else (f"{variant}_", f"{variant}: ")


def variant_rows(
    stage: str, seeds: Sequence[SeedResults], group: str, labels: Mapping[str, str]
) -> list[Row]:
    """Rows of scalars of a metacontroller, see `variant_prefixes`.

    Args:
      stage: name of the stage.
      seeds: its seeds.
      group: first part of the keys.
      labels: label of each scalar, by its name.
    """
    key_prefix, label_prefix = variant_prefixes(stage)
    return [
        make_row(
            f"{key_prefix}{group}_{name}",
            label_prefix + label,
            seeds,
            lambda s, name=name: s.scalar(name),
        )
        for name, label in labels.items()
    ]


def format_number(value: float) -> str:
    """Four digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.4g}"


def format_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| quantity | median | lowest | highest | seeds |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        values = " | ".join(map(format_number, (row.median, row.lowest, row.highest)))
        lines.append(f"| {row.label} | {values} | {row.seeds} |")
    return "\n".join(lines) + "\n"


def format_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, the value of every seed and its base model at the end of its row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = ["key", "quantity", "median", "lowest", "highest"]
    writer.writerow([*heads, "values by seed", "base model by seed"])
    for row in rows:
        values = " ".join(f"{value:.6g}" for value in row.values)
        numbers = (f"{x:.6g}" for x in (row.median, row.lowest, row.highest))
        base_models = " ".join(map(str, row.base_models))
        writer.writerow([row.key, row.label, *numbers, values, base_models])
    return text.getvalue()
