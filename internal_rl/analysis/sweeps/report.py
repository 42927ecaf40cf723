"""What sweeps have left in a work directory, and the tables and figures of them.

A sweep writes down its runs in `<workdir>/sweep/<study>/sweep.json` before it begins, so that those
that are missing can be named.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from absl import logging
from matplotlib.figure import Figure

from internal_rl.analysis.drawing import save_figure
from internal_rl.analysis.results import read_run
from internal_rl.analysis.sweeps.sweep import FinishedRun, Sweep, SweepResults, all_sweeps
from internal_rl.errors import ConfigError
from internal_rl.files import read_json, storage_faults, write_atomically, write_json
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
        and, as `bases`, for every seed of that the base model that it stands on.

    Raises:
      StorageError: the file cannot be written.
    """
    folder = folder_of(workdir, study)
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / LIST, {"study": study, "runs": list(runs)})


def studies_in(workdir: str | os.PathLike) -> list[str]:
    """Names of the sweeps that a work directory holds."""
    with storage_faults(workdir):
        return sorted(path.parent.name for path in as_path(workdir).glob(f"sweep/*/{LIST}"))


def read_sweep(workdir: str | os.PathLike, study: str) -> SweepResults:
    """Reads the finished runs of a sweep; a run counts once all of its seeds are finished.

    Raises:
      ConfigError: the sweep has not been begun.
      StorageError: files cannot be read.
    """
    if study not in studies_in(workdir):
        raise ConfigError(f"{workdir}: the study {study} has not been begun there")
    folder = folder_of(workdir, study)
    finished, missing = [], []
    with storage_faults(folder):
        for listed in read_json(folder / LIST)["runs"]:
            name, stage, bases = (listed[key] for key in ("name", "stage", "bases"))
            place = folder / name
            if not all(StageDirectory(place, stage, seed).finished for seed in map(int, bases)):
                missing.append(name)
                continue
            seeds = [
                dataclasses.replace(results, base=bases[str(results.seed)])
                for results in read_run(place)[stage]
                if str(results.seed) in bases
            ]
            finished.append(FinishedRun(name, listed["labels"], listed["fields"], seeds))
    return SweepResults(finished, missing)


def sweep_figures(workdir: str | os.PathLike) -> dict[str, Figure]:
    """Figures of all sweeps of a work directory that are known here, by file name."""
    found = {}
    for sweep in _known(workdir):
        found |= sweep.figures(read_sweep(workdir, sweep.name))
    return found


def write_sweeps(workdir: str | os.PathLike) -> list[str]:
    """Writes tables and figures of all sweeps of a work directory into `<workdir>/report/`.

    Returns:
      A line of Markdown for each.
    """
    lines = []
    for sweep in _known(workdir):
        write_sweep(workdir, sweep)
        lines.append(f"- {sweep.title}: [{sweep.name}.md]({sweep.name}.md)\n")
    return lines


def _known(workdir: str | os.PathLike) -> list[Sweep]:
    sweeps, found = all_sweeps(), []
    for study in studies_in(workdir):
        if study in sweeps:
            found.append(sweeps[study])
        else:
            logging.warning("sweep %s is left out: nobody has registered it here", study)
    return found


def write_sweep(workdir: str | os.PathLike, sweep: Sweep) -> str:
    """Writes `<study>.md`, `<study>.csv` and the figures of one sweep into `<workdir>/report/`.

    Returns:
      The table as Markdown, with what is missing.

    Raises:
      ConfigError: the sweep has not been begun.
      StorageError: files cannot be read or written.
    """
    results = read_sweep(workdir, sweep.name)
    table = sweep.table(results)
    text = f"# {sweep.title}\n\n{_count(results)}\n\n{table.markdown()}"
    folder = as_path(workdir) / "report"
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{sweep.name}.md", text)
        write_atomically(folder / f"{sweep.name}.csv", table.csv())
        for name, content in (sweep.files(results) if sweep.files else {}).items():
            write_atomically(folder / name, content)
        for name, figure in sweep.figures(results).items():
            save_figure(figure, folder / f"{name}.png")
    return text


def _count(results: SweepResults) -> str:
    whole = len(results.runs) + len(results.missing)
    text = f"{len(results.runs)} of {whole} runs are finished."
    return f"{text} Missing: {', '.join(results.missing)}." if results.missing else text
