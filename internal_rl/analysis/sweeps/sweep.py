"""Sweeps: studies over several runs that share earlier stages.

A sweep is one file. It says which runs there are, as data: stages with changed fields, and what of
other runs they read; and what is made of those that are finished: a table, figures, further files.
`stages.sweeping` runs it, `analysis.sweeps.report` shows it; the report of a work directory shows
all that it holds.

A module of `internal_rl.analysis.sweeps` that defines `SWEEP` is found by itself; others call
`register_sweep`.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure

import internal_rl.analysis.sweeps
from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.statistics import Summary, quartiles, summarise
from internal_rl.analysis.sweeps.table import SweepTable
from internal_rl.arguments import check_registered
from internal_rl.errors import ConfigError

Value = str | int | float


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: of the run and of its folder, `<workdir>/sweep/<study>/<name>`.
      stages: what it runs, in order. The last one is what is measured. What is finished elsewhere
        with the same settings is not run again; what is measured is copied to the run's folder.
      fields: fields of the config that it changes, such as `{"metacontroller.alpha": 0.1}`.
      seeds: by stage, from the first one on, how many seeds it has for each seed of the one before.
      labels: what table and figures know it by; empty for a run that only others read.
      reads: names of other runs of the sweep, in whose folders its earlier stages lie.
    """

    name: str
    stages: tuple[str, ...]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    reads: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run has left.

    Attributes:
      name: of the run.
      labels: as in `Run`.
      fields: as in `Run`.
      seeds: the seeds of its last stage.
    """

    name: str
    labels: Mapping[str, Value]
    fields: Mapping[str, Any]
    seeds: Sequence[SeedResults]

    def values(self, value: Callable[[SeedResults], float]) -> list[float]:
        """A value of every seed."""
        return [value(results) for results in self.seeds]

    def quartiles(self, value: Callable[[SeedResults], float]) -> np.ndarray:
        """Lower quartile, median and upper quartile of a value over the seeds, `(3,)`."""
        return quartiles(np.array(self.values(value), float))

    def median(self, value: Callable[[SeedResults], float]) -> float:
        """Median of a value over the seeds; NaN where no seed has one."""
        return float(self.quartiles(value)[1])

    def summary(self, value: Callable[[SeedResults], float]) -> Summary:
        """Statistics of a value over the seeds, of which some may stand on one base model."""
        return summarise(self.values(value), bases=[results.base for results in self.seeds])


@dataclasses.dataclass(frozen=True)
class SweepResults:
    """What a sweep has left.

    Attributes:
      runs: those that are finished, in the order of the sweep.
      missing: names of the others that are to be measured.
    """

    runs: Sequence[FinishedRun]
    missing: Sequence[str] = ()

    @property
    def standing(self) -> str:
        """How many runs are finished, and which ones are missing, in words."""
        whole = len(self.runs) + len(self.missing)
        text = f"{len(self.runs)} of {whole} runs are finished."
        return f"{text} Missing: {', '.join(self.missing)}." if self.missing else text

    def groups(self, label: str) -> dict[Value, list[FinishedRun]]:
        """Runs by one of their labels, in the order of the sweep."""
        found: dict[Value, list[FinishedRun]] = {}
        for run in self.runs:
            found.setdefault(run.labels[label], []).append(run)
        return found


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A study over several runs.

    Attributes:
      name: of the study.
      title: what it shows, for headings.
      runs: the runs of a config, given as `stages.settings.Settings`; raises ValueError where the
        config does not allow the study.
      table: of what is finished.
      figures: by file name; none where there is no data.
      inputs: stages that have to be finished before, in the work directory or upstream of it.
      files: further files by name, of what is finished.
      captions: of figures, by file name.
      reproduced: part of `experiments.reproduce`, as it makes a figure of the method (§7).
    """

    name: str
    title: str
    runs: Callable[[Any], list[Run]]
    table: Callable[[SweepResults], SweepTable]
    figures: Callable[[SweepResults], Mapping[str, Figure]]
    inputs: tuple[str, ...] = ()
    files: Callable[[SweepResults], Mapping[str, str]] | None = None
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reproduced: bool = True


Values = TypeVar("Values")


def values_of(by_preset: Mapping[str, Values], settings: Any) -> Values:
    """What a sweep goes through for the world and the preset of a config.

    Args:
      by_preset: by `"<world>/<preset>"`, or by `"<preset>"` for all worlds that have none of their
        own; presets that are not there take those of `small`, which has to be.
      settings: the config.
    """
    world, preset = settings.environment["name"], settings.preset
    names = (f"{world}/{preset}", preset, f"{world}/small", "small")
    return by_preset[next(name for name in names if name in by_preset)]


def tag(value: Value) -> str:
    """A value in the name of a run."""
    return value if isinstance(value, str) else f"{value:g}"


_SWEEPS: dict[str, Sweep] = {}


def register_sweep(sweep: Sweep) -> None:
    """Adds a sweep; registering a name again replaces it.

    Raises:
      ValueError: it is none, or one of its functions is none.
    """
    if not isinstance(sweep, Sweep):
        raise ValueError(f"sweep is {sweep!r}, allowed is a Sweep")
    functions = {"runs": sweep.runs, "table": sweep.table, "figures": sweep.figures}
    check_registered("sweep", sweep.name, **functions)
    _SWEEPS[sweep.name] = sweep


@functools.cache
def _find_sweeps() -> None:
    """Registers the sweeps of this package, but for those that have been replaced."""
    package = internal_rl.analysis.sweeps
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        sweep = getattr(importlib.import_module(module.name), "SWEEP", None)
        if sweep is not None:
            _SWEEPS.setdefault(sweep.name, sweep)


def all_sweeps() -> dict[str, Sweep]:
    """All sweeps by name."""
    _find_sweeps()
    return dict(sorted(_SWEEPS.items()))


def sweep_named(name: str | None) -> Sweep:
    """A sweep.

    Raises:
      ConfigError: there is none of that name.
    """
    known = all_sweeps()
    if name not in known:
        given = "not given" if name is None else f"'{name}' given"
        raise ConfigError(f"--study: {given}, allowed are {', '.join(known)}")
    return known[name]
