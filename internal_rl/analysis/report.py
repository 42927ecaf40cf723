"""Gathers the stages of a work directory into `<workdir>/report/`.

Whatever is there is shown: the report of a partial run leaves out what it has no data for, and what
is damaged is named while the rest is shown. Written are the figures as PNG and the animations as
GIF of all studies, `table.md` and `table.csv` with one row per quantity, `summary.json` with the
medians over seeds, tables and figures of the studies over several runs in `<workdir>/sweep/`, and
perhaps a page that holds all of it (`internal_rl.stages.page`). A report of some studies alone is
written to `<workdir>/report/only/`, in the place of the one before it.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from internal_rl.analysis.drawing import Picture, as_png, told
from internal_rl.analysis.results import (
    RunResults,
    read_run,
    seconds_of_programs,
    sorted_by_stage,
)
from internal_rl.analysis.study import SKIPPED, Study, all_studies
from internal_rl.analysis.sweeps.report import ShownSweep, show_sweep, studies_in
from internal_rl.analysis.sweeps.sweep import all_sweeps
from internal_rl.analysis.table import Row, format_csv, format_markdown
from internal_rl.envs.render import as_gif
from internal_rl.errors import ConfigError, StorageError
from internal_rl.files import storage_faults, write_atomically, write_json
from internal_rl.paths import AnyPath, as_path

FILES = "files.json"
"""Names of the files of a report, beside them."""

# Keys that a summary of all studies holds, whatever has been run.
EXPECTED = ("internal_rl_success", "raw_rl_success", "switching_f1")

# In which order the stages of a run are reported; others come behind them.
STAGE_ORDER = (
    "expert",
    "pretrain",
    "probe",
    "steer",
    "metacontroller",
    "compile",
    "internal_rl",
    "raw_rl",
)


@dataclasses.dataclass(frozen=True)
class Chapter:
    """What one study shows of a run.

    Attributes:
      study: which one.
      stages: stages of the run that it looks at, variants included.
      figures: its figures.
      animations: its animations.
      text: Markdown; empty without any.
    """

    study: Study
    stages: tuple[str, ...]
    figures: tuple[Picture, ...]
    animations: tuple[Picture, ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All that there is to show of a work directory.

    Attributes:
      workdir: of the run.
      run: its stages.
      rows: of the table, stage by stage.
      chapters: of all studies that look at a stage of the run or have something to show.
      sweeps: studies over several runs that have been begun.
      left_out: `<stage>: <reason>` of every study that a stage has left out.
      faults: what is damaged or could not be shown, a line each.
      only: names of the studies that were asked for; empty for all.
    """

    workdir: str
    run: RunResults
    rows: tuple[Row, ...]
    chapters: tuple[Chapter, ...]
    sweeps: tuple[ShownSweep, ...]
    left_out: tuple[str, ...]
    faults: tuple[str, ...]
    only: tuple[str, ...] = ()


def report_folder(workdir: str | os.PathLike, only: Collection[str] = ()) -> AnyPath:
    """Where a report is written: that of some studies leaves the whole one as it is."""
    folder = as_path(workdir) / "report"
    return folder / "only" if only else folder


def choose_studies(only: Collection[str] = ()) -> list[Study]:
    """Studies by name in the order of the report; all of them where none is named.

    Raises:
      ConfigError: there is no study of that name.
    """
    studies = all_studies()
    known = list(dict.fromkeys([*(study.name for study in studies), *all_sweeps()]))
    for name in only:
        if name not in known:
            raise ConfigError(f"--only: '{name}' given, allowed are {', '.join(known)}")
    return [study for study in studies if not only or study.name in only]


def gather(
    workdir: str | os.PathLike,
    upstream: Sequence[str | os.PathLike] = (),
    only: Collection[str] = (),
) -> Report:
    """Reads a work directory and draws what there is.

    Args:
      workdir: work directory of the run.
      upstream: other work directories in which its base models and its expert may lie.
      only: names of studies; empty for all.

    Raises:
      ConfigError: there is no study of that name.
      StorageError: files cannot be read.
    """
    faults: list[str] = []
    studies = choose_studies(only)
    run = read_run(workdir, upstream, faults)
    rows = table_rows(run, studies, faults)
    chapters = [_chapter(study, run, faults) for study in studies]
    return Report(
        workdir=str(workdir),
        run=run,
        rows=tuple(rows),
        chapters=tuple(x for x in chapters if x.stages or x.figures or x.animations or x.text),
        sweeps=tuple(_sweeps(workdir, upstream, only, faults)),
        left_out=tuple(_left_out(run)),
        faults=tuple(faults),
        only=tuple(only),
    )


def _sweeps(
    workdir: str | os.PathLike,
    upstream: Sequence[str | os.PathLike],
    only: Collection[str],
    faults: list[str],
) -> list[ShownSweep]:
    """Studies over several runs; one that nobody has registered here is named."""
    known, found = all_sweeps(), []
    for name in studies_in(workdir):
        if only and name not in only:
            continue
        if name not in known:
            faults.append(f"sweep/{name}: left out, allowed are studies {', '.join(known)}")
            continue
        what = f"study {name} over several runs"
        shown = _guarded(
            faults, what, lambda name=name: show_sweep(workdir, known[name], upstream), None
        )
        found += [] if shown is None else [shown]
    return found


def _chapter(study: Study, run: RunResults, faults: list[str]) -> Chapter:
    def draw(function, argument, draw_one):
        name = f"study {study.name}"
        if function is None:
            return ()
        found = _guarded(faults, name, lambda: function(argument), {})
        pictures = (
            _guarded(faults, f"{name}, {key}", lambda key=key, x=x: draw_one(key, x), None)
            for key, x in found.items()
            if x is not None
        )
        return tuple(picture for picture in pictures if picture is not None)

    def text():
        return study.text(run) if study.text is not None else ""

    return Chapter(
        study=study,
        stages=tuple(stage for stage in sorted_by_stage(run, STAGE_ORDER) if study.looks_at(stage)),
        figures=draw(study.figures, run, lambda key, x: Picture(key, as_png(x), told(x))),
        animations=draw(study.animations, run, lambda key, x: Picture(key, as_gif(*x))),
        text=_guarded(faults, f"study {study.name}", text, ""),
    )


def _guarded(faults: list[str] | None, what: str, action: Callable[[], Any], otherwise: Any) -> Any:
    """What an action returns; where it fails, `otherwise`, and a fault.

    Arrays of another shape or kind than a study expects fail in as many ways as there are studies.
    """
    if faults is None:
        return action()
    try:
        return action()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        faults.append(f"{what}: cannot be shown, its data do not fit ({reason})")
        return otherwise


def write_report(
    workdir: str | os.PathLike,
    wall_seconds: float = math.nan,
    upstream: Sequence[str | os.PathLike] = (),
    only: Collection[str] = (),
    page: Callable[[Report], str] | None = None,
) -> dict:
    """Writes the report.

    Args:
      workdir: work directory of the run.
      wall_seconds: duration of the whole run; if unknown, the sum over its stages, seeds that one
        program has trained together counted once.
      upstream: other work directories in which its base models and its expert may lie.
      only: names of studies; empty for all.
      page: makes the content of `index.html`; None writes none.

    Returns:
      What `summary.json` holds: medians over seeds by key, None where there is no data (of a whole
        report; of some studies alone what is not there is left out), or where
      the median run never came there.

    Raises:
      ConfigError: there is no study of that name.
      StorageError: there is nothing to report, or files cannot be read or written.
    """
    report = gather(workdir, upstream, only)
    if not report.run and not report.sweeps:
        reasons = "".join(f"; {fault}" for fault in report.faults)
        raise StorageError(f"{workdir}: holds no stage of a run, nothing to report{reasons}")
    for fault in report.faults:
        logging.warning("%s", fault)
    for line in report.left_out:
        logging.info("%s", line)
    summary = {} if only else dict.fromkeys(EXPECTED)
    summary |= {row.key: row.median if math.isfinite(row.median) else None for row in report.rows}
    if math.isnan(wall_seconds):
        seconds = (x for seeds in report.run.values() for x in seconds_of_programs(seeds))
        wall_seconds = float(np.nansum(list(seconds)))
    summary["wall_seconds"] = wall_seconds
    contents = {"table.md": report_text(report), "table.csv": format_csv(report.rows)}
    for chapter in report.chapters:
        contents |= {f"{picture.name}.png": picture.content for picture in chapter.figures}
        contents |= {f"{picture.name}.gif": picture.content for picture in chapter.animations}
    for shown in report.sweeps:
        contents |= shown.contents()
    if page is not None:
        contents["index.html"] = page(report)
    folder = report_folder(workdir, only)
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder, contents)
        for name, content in contents.items():
            write_atomically(folder / name, content)
        write_json(folder / "summary.json", summary)
    return summary


def _remove_stale(folder: AnyPath, contents: Collection[str]) -> None:
    """Removes files that an earlier report has left and this one does not hold.

    `selection.json`, say, would be taken for that of the runs that are there. `FILES` tells what
    reports have written; what else lies in the folder stays.
    """
    file = folder / FILES
    earlier = _names_in(file) if file.exists() else []
    write_json(file, sorted({*contents, *earlier}))
    for name in set(earlier) - set(contents):
        (folder / name).unlink(missing_ok=True)
    write_json(file, sorted(contents))


def _names_in(file: AnyPath) -> list[str]:
    """Names that an earlier report has left; none where the list is damaged."""
    try:
        found = json.loads(file.read_bytes())
    except ValueError:
        return []
    names = found if isinstance(found, list) else []
    return [x for x in names if isinstance(x, str) and re.fullmatch(r"\w[\w.-]*", x)]


def table_rows(
    run: RunResults, studies: Sequence[Study] | None = None, faults: list[str] | None = None
) -> list[Row]:
    """All rows that a run has data for, stage by stage.

    Args:
      run: the run.
      studies: which ones; None for all.
      faults: takes a message about every study whose data do not fit; None raises what it raised.
    """
    rows = []
    for stage in sorted_by_stage(run, STAGE_ORDER):
        for study in all_studies() if studies is None else studies:
            if study.rows is not None and study.looks_at(stage):
                what = f"study {study.name}, rows of {stage}"
                found = _guarded(
                    faults, what, lambda study=study, stage=stage: study.rows(stage, run[stage]), []
                )
                rows += found
    return [row for row in rows if not math.isnan(row.median)]


def report_figures(run: RunResults) -> dict[str, Figure]:
    """All figures of studies of one run that there is data for, by file name."""
    found: dict[str, Figure | None] = {}
    for study in all_studies():
        found |= study.figures(run) if study.figures is not None else {}
    return {name: figure for name, figure in found.items() if figure is not None}


def report_text(report: Report) -> str:
    """The table, what studies add to it, and what was left out or is damaged, as Markdown."""
    lines = [*report.left_out, *report.faults]
    listed = "".join(f"- {line}\n" for line in lines)
    texts = [chapter.text for chapter in report.chapters]
    texts += [f"- {shown.title}: [{shown.name}.md]({shown.name}.md)\n" for shown in report.sweeps]
    return "\n".join([format_markdown(report.rows), *filter(None, [*texts, listed])])


def _left_out(run: RunResults) -> list[str]:
    """`<stage>: <reason>` for every study that a stage has left out."""
    return [
        f"{stage}: {line}"
        for stage in sorted_by_stage(run, STAGE_ORDER)
        for results in run[stage][:1]
        for line in np.atleast_1d(results.artifacts.get(SKIPPED, np.array([], str))).astype(str)
    ]
