"""Gathers the stages of a work directory into `<workdir>/report/`.

Whatever is there is shown: the report of a partial run leaves out what it has no data for. Written
are the figures as PNG and the animations as GIF of all studies, `table.md` and `table.csv` with one
row per quantity, and `summary.json` with the medians over seeds.
"""

import math
import os
from collections.abc import Sequence

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from internal_rl.analysis.drawing import save_figure
from internal_rl.analysis.results import RunResults, read_sweep
from internal_rl.analysis.study import SKIPPED, Animation, all_studies
from internal_rl.analysis.table import Row, format_csv, format_markdown
from internal_rl.envs.render import save_gif
from internal_rl.errors import StorageError
from internal_rl.files import storage_faults, write_atomically, write_json
from internal_rl.paths import as_path

# Keys that every summary holds, whatever has been run.
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


def write_report(
    workdir: str | os.PathLike,
    wall_seconds: float = math.nan,
    upstream: Sequence[str | os.PathLike] = (),
) -> dict:
    """Writes the report.

    Args:
      workdir: work directory of the run.
      wall_seconds: duration of the whole run; if unknown, the sum over its stages.
      upstream: other work directories in which its base models may lie.

    Returns:
      What `summary.json` holds: medians over seeds by key, None where there is no data, or where
      the median run never came there.

    Raises:
      StorageError: there is nothing to report, or files cannot be read or written.
    """
    runs = read_sweep(workdir, upstream)
    run = runs[0]
    if not run:
        raise StorageError(f"{workdir}: holds no stage of a run, nothing to report")
    rows = table_rows(run)
    summary = dict.fromkeys(EXPECTED)
    summary |= {row.key: row.median if math.isfinite(row.median) else None for row in rows}
    if math.isnan(wall_seconds):
        wall_seconds = float(np.nansum([seeds[0].last("seconds") for seeds in run.values()]))
    summary["wall_seconds"] = wall_seconds
    folder = as_path(workdir) / "report"
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in report_figures(runs).items():
            save_figure(figure, folder / f"{name}.png")
        for name, (frames, seconds) in report_animations(run).items():
            save_gif(folder / f"{name}.gif", frames, seconds)
        write_atomically(folder / "table.md", report_text(run, rows))
        write_atomically(folder / "table.csv", format_csv(rows))
        write_json(folder / "summary.json", summary)
    return summary


def table_rows(run: RunResults) -> list[Row]:
    """All rows that a run has data for, stage by stage."""
    rows = []
    for stage in sorted(run, key=_place_of):
        for study in all_studies():
            if study.rows is not None and study.looks_at(stage):
                rows += study.rows(stage, run[stage])
    return [row for row in rows if not math.isnan(row.median)]


def _place_of(stage: str) -> tuple[int, str]:
    """Sorts stages by `STAGE_ORDER`, variants behind their stage."""
    known = (i for i, name in enumerate(STAGE_ORDER) if f"{stage}_".startswith(f"{name}_"))
    return next(known, len(STAGE_ORDER)), stage


def report_figures(runs: Sequence[RunResults]) -> dict[str, Figure]:
    """All figures that there is data for, by file name.

    Args:
      runs: the run, and runs that repeat its metacontroller with other settings.
    """
    found = {}
    for study in all_studies():
        found |= study.figures(runs) if study.figures is not None else {}
    return {name: figure for name, figure in found.items() if figure is not None}


def report_animations(run: RunResults) -> dict[str, Animation]:
    """All animations that there is data for, by file name."""
    found = {}
    for study in all_studies():
        found |= study.animations(run) if study.animations is not None else {}
    return {name: animation for name, animation in found.items() if animation is not None}


def report_text(run: RunResults, rows: Sequence[Row]) -> str:
    """The table, what studies add to it, and which of them were left out, as Markdown."""
    texts = [study.text(run) for study in all_studies() if study.text is not None]
    return "\n".join([format_markdown(rows), *filter(None, [*texts, _left_out(run)])])


def _left_out(run: RunResults) -> str:
    """One line for every study that a stage has left out; empty without any."""
    lines = []
    for stage in sorted(run, key=_place_of):
        for results in run[stage][:1]:
            for line in results.artifacts.get(SKIPPED, ()):
                logging.info("%s: %s", stage, line)
                lines.append(f"- {stage}: {line}\n")
    return "".join(lines)
