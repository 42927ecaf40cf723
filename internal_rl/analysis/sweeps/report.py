"""What sweeps have left in a work directory, and the tables and figures of them.

A sweep writes down its runs in `<workdir>/sweep/<study>/sweep.json` before it begins, so that those
that are missing can be named.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from internal_rl.analysis.drawing import Picture, as_png, told
from internal_rl.analysis.results import read_run
from internal_rl.analysis.sweeps.sweep import FinishedRun, Sweep, SweepResults
from internal_rl.checksums import read_checked_record, write_checked_json
from internal_rl.errors import ConfigError, StorageError
from internal_rl.files import storage_faults, write_atomically
from internal_rl.paths import AnyPath, as_path
from internal_rl.training.stage_directory import StageDirectory

LIST = "sweep.json"
"""File with the runs of a sweep."""


def folder_of(workdir: str | os.PathLike, study: str) -> AnyPath:
    """Where the runs of a sweep lie."""
    return as_path(workdir) / "sweep" / study


def write_list(workdir: str | os.PathLike, study: str, runs: Sequence[dict[str, Any]]) -> None:
    """Writes down which runs a sweep has.

    Args:
      workdir: work directory.
      study: name of the sweep.
      runs: of every run that is measured `name`, `labels`, `fields`, the folder of its last `stage`
        and, as `bases`, for every seed of that the name of the base model that it stands on.

    Raises:
      StorageError: the file cannot be written.
    """
    folder = folder_of(workdir, study)
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_checked_json(folder / LIST, {"study": study, "runs": list(runs)})


def studies_in(workdir: str | os.PathLike) -> list[str]:
    """Names of the sweeps that a work directory holds."""
    with storage_faults(workdir):
        return sorted(path.parent.name for path in as_path(workdir).glob(f"sweep/*/{LIST}"))


def read_sweep(
    workdir: str | os.PathLike, study: str, upstream: Sequence[str | os.PathLike] = ()
) -> SweepResults:
    """Reads the finished runs of a sweep; a run counts once all of its seeds are finished.

    Args:
      workdir: in whose folder `sweep` it lies.
      study: its name.
      upstream: other work directories in which its expert may lie.

    Raises:
      ConfigError: the sweep has not been begun.
      StorageError: files cannot be read.
    """
    if study not in studies_in(workdir):
        raise ConfigError(f"{workdir}: the study {study} has not been begun there")
    folder = folder_of(workdir, study)
    finished, missing = [], []
    with storage_faults(folder):
        for listed in _listed(folder / LIST):
            name, stage, bases = (listed[key] for key in ("name", "stage", "bases"))
            place = folder / name
            if not all(StageDirectory(place, stage, seed).finished for seed in map(int, bases)):
                missing.append(name)
                continue
            seeds = [
                dataclasses.replace(results, base=str(bases[str(results.seed)]))
                for results in read_run(place, (workdir, *upstream))[stage]
                if str(results.seed) in bases
            ]
            finished.append(FinishedRun(name, listed["labels"], listed["fields"], seeds))
    return SweepResults(finished, missing)


def _listed(file: AnyPath) -> list[dict]:
    """The runs that a sweep has written down.

    Raises:
      StorageError: the file is damaged.
    """
    remedy = "run the same study again, which writes it anew"
    kinds = {"name": str, "stage": str, "bases": dict, "labels": dict, "fields": dict}
    runs = read_checked_record(file, {"runs": list}, remedy)["runs"]
    for listed in runs:
        for name, kind in kinds.items():
            if not isinstance(listed, dict) or not isinstance(listed.get(name), kind):
                raise StorageError(f"{file}: damaged, '{name}' of a run is missing; {remedy}")
        # Names; numbers in older lists.
        known = all(isinstance(base, (str, int)) for base in listed["bases"].values())
        if not known or not all(seed.isdecimal() for seed in listed["bases"]):
            raise StorageError(f"{file}: damaged, 'bases' of a run is of another kind; {remedy}")
    return runs


@dataclasses.dataclass(frozen=True)
class ShownSweep:
    """What a sweep shows.

    Attributes:
      name: of the study.
      title: for headings.
      text: the table as Markdown, with what is missing and notes.
      table: the table as CSV.
      figures: its figures.
      captions: what they show, by name.
      files: content of further files by name.
      runs: that it stands on.
    """

    name: str
    title: str
    text: str
    table: str
    figures: tuple[Picture, ...]
    captions: Mapping[str, str]
    files: Mapping[str, str]
    runs: tuple[FinishedRun, ...]

    def contents(self) -> dict[str, str | bytes]:
        """What is written of it, by file name: the table, the figures and further files."""
        found: dict[str, str | bytes] = {
            f"{self.name}.md": f"# {self.title}\n\n{self.text}",
            f"{self.name}.csv": self.table,
        }
        figures = {f"{picture.name}.png": picture.content for picture in self.figures}
        return found | dict(self.files) | figures


def show_sweep(
    workdir: str | os.PathLike, sweep: Sweep, upstream: Sequence[str | os.PathLike] = ()
) -> ShownSweep:
    """Reads a sweep and draws what is finished; arguments as of `read_sweep`.

    Raises:
      ConfigError: the sweep has not been begun.
      StorageError: files cannot be read.
    """
    results = read_sweep(workdir, sweep.name, upstream)
    table, figures = sweep.table(results), sweep.figures(results)
    return ShownSweep(
        name=sweep.name,
        title=sweep.title,
        text=f"{results.standing}\n\n{table.markdown()}",
        table=table.csv(),
        figures=tuple(Picture(name, as_png(x), told(x)) for name, x in figures.items()),
        captions=sweep.captions,
        files=sweep.files(results) if sweep.files is not None else {},
        runs=tuple(results.runs),
    )


def write_sweep(
    workdir: str | os.PathLike, sweep: Sweep, upstream: Sequence[str | os.PathLike] = ()
) -> ShownSweep:
    """Writes what a sweep shows into `<workdir>/report/`; arguments and errors as `show_sweep`."""
    shown, folder = show_sweep(workdir, sweep, upstream), as_path(workdir) / "report"
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in shown.contents().items():
            write_atomically(folder / name, content)
    return shown
