"""The figures of merit of a run as rows: what they are over runs, and how sure that is."""

import csv
import dataclasses
import functools
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.statistics import Summary, summarise, wilson


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity.

    Attributes:
      key: its name in `summary.json`.
      label: the same for readers, with its unit.
      values: one per seed; NaN where a seed has none, infinite for what never happened.
      episodes: of a success rate, of how many episodes each value is the share; else empty.
      bases: name of the base model on which each value stands, None where that is not known; empty
        where nothing of the kind is.
    """

    key: str
    label: str
    values: tuple[float, ...]
    episodes: tuple[int, ...] = ()
    bases: tuple[str | None, ...] = ()

    @property
    def base_models(self) -> int:
        """How many base models the values stand on; 0 where that is not known of all."""
        pairs = zip(self.values, self.bases, strict=False)
        found = {base for value, base in pairs if not math.isnan(value)}
        return 0 if None in found else len(found)

    @functools.cached_property
    def summary(self) -> Summary:
        """Statistics over the seeds that have a value."""
        return summarise(self.values, bases=self.bases)

    @property
    def median(self) -> float:
        """Median over the seeds that have a value; NaN without any."""
        return self.summary.median

    @property
    def rates(self) -> list[tuple[float, int, tuple[float, float]]]:
        """Of a success rate: rate, episodes and Wilson's interval of every seed that has one."""
        pairs = zip(self.values, self.episodes, strict=False)
        return [(x, n, wilson(x, n)) for x, n in pairs if not math.isnan(x) and n]

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
    key: str,
    label: str,
    seeds: Iterable[SeedResults],
    value: Callable[[SeedResults], float],
    episodes: Callable[[SeedResults], int] | None = None,
) -> Row:
    """A row of the value of every seed.

    Args:
      key: of the row.
      label: of the row.
      seeds: of one stage.
      value: of a seed; NaN where it has none.
      episodes: of how many episodes the value is the share, of a success rate.
    """
    seeds = list(seeds)
    values = tuple(value(results) for results in seeds)
    bases = tuple(results.base for results in seeds)
    shares = tuple(map(episodes, seeds)) if episodes is not None else ()
    return Row(key, label, values or (math.nan,), shares, bases)


def best_layer_rows(
    seeds: Sequence[SeedResults],
    artifact: str,
    key: str,
    label: str,
    episodes: Callable[[SeedResults], int] | None = None,
) -> list[Row]:
    """Best layer against input and output, of an artifact of shape `(L + 1,)`; see `make_row`.

    A seed that does not have it yet keeps its place.
    """

    def of(function):
        def value(s):
            return float(function(s.artifacts[artifact])) if artifact in s.artifacts else math.nan

        return value

    def at(layer):
        return of(lambda layers: layers[layer])

    best, which = of(np.max), of(np.argmax)
    return [
        make_row(f"{key}_best", f"{label}, best layer", seeds, best, episodes),
        make_row(f"{key}_best_layer", f"{label}, which layer", seeds, which),
        make_row(f"{key}_input", f"{label}, input layer", seeds, at(0), episodes),
        make_row(f"{key}_output", f"{label}, output layer", seeds, at(-1), episodes),
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
    """Four digits, whole numbers from a thousand on with all of theirs; a dash for NaN, and "never"
    for what is infinite."""
    if math.isinf(value):
        return "never"
    if value >= 1_000 and value == round(value):
        return f"{value:,.0f}"
    return "–" if math.isnan(value) else f"{value:.4g}"


def format_span(low: float, high: float) -> str:
    """Two numbers from low to high; a dash where they are NaN."""
    return "–" if math.isnan(low) else f"{format_number(low)} to {format_number(high)}"


HEADS = ("median", "quartiles", "interquartile mean", "95 % interval", "runs", "base models")
"""What `cells` gives."""

OVER_RUNS = 4
"""The first of these are statistics over runs, the others what they stand on."""


def cells(row: Row) -> list[str]:
    """What a table shows of a row behind its label."""
    found, whole = row.summary, len(row.values)
    return [
        format_number(found.median),
        format_span(found.lower, found.upper),
        format_number(found.mean),
        format_span(*found.interval),
        f"{found.count}" if found.count == whole else f"{found.count} of {whole}",
        f"{row.base_models or '–'}",
    ]


def rate_cells(row: Row) -> list[str]:
    """Of a success rate: every run's with Wilson's interval, and their episodes."""
    episodes = sorted({n for _, n, _ in row.rates})
    rates = ", ".join(f"{format_number(x)} ({format_span(*ends)})" for x, _, ends in row.rates)
    return [rates, " or ".join(f"{n:,}" for n in episodes)]


RATES = (
    "Success rates run by run, in brackets the 95 % interval over the episodes of a run (Wilson)"
)
"""Heading of the second table."""


def format_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown, and a second one of single success rates."""
    lines = [f"| quantity | {' | '.join(HEADS)} |", f"|---|{'---:|' * len(HEADS)}"]
    lines += [f"| {' | '.join([row.label, *cells(row)])} |" for row in rows]
    rated = rate_lines(rows)
    return "\n".join([*lines, "", *rated] if rated else lines) + "\n"


def rate_lines(rows: Sequence[Row]) -> list[str]:
    """A table in Markdown of single success rates under its heading, by lines; empty without."""
    rated = [row for row in rows if row.rates]
    if not rated:
        return []
    lines = [f"{RATES}:", "", "| quantity | rates | episodes |", "|---|---|---:|"]
    return lines + [f"| {' | '.join([row.label, *rate_cells(row)])} |" for row in rated]


CSV_HEADS = (
    *("key", "quantity", "median", "lower quartile", "upper quartile", "lowest", "highest"),
    *("interquartile mean", "interval from", "interval to", "runs", "base models"),
    *("values by seed", "base model by seed", "episodes by seed", "intervals by seed"),
)


def format_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, the value of every seed at the end of its row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    for row in rows:
        found = row.summary
        over_runs = (found.median, found.lower, found.upper, row.lowest, row.highest, found.mean)
        numbers = [f"{x:.6g}" for x in (*over_runs, *found.interval)]
        values = " ".join(f"{value:.6g}" for value in row.values)
        bases = " ".join("–" if base is None else base for base in row.bases)
        episodes = " ".join(map(str, row.episodes))
        ends = (wilson(x, n) for x, n in zip(row.values, row.episodes, strict=False))
        intervals = " ".join(f"{low:.6g}:{high:.6g}" for low, high in ends)
        counts = [found.count, row.base_models or ""]
        told = (values, bases, episodes, intervals)
        writer.writerow([row.key, row.label, *numbers, *counts, *told])
    return text.getvalue()
