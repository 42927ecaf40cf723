"""Gathers the stages of a work directory into `<workdir>/report/`.

Whatever is there is shown: the report of an unfinished or partial run leaves out the figures and
rows that it has no data for. Written are the figures as PNG, `table.md` and `table.csv` with one row
per quantity, and `summary.json` with its medians over seeds.
"""

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from internal_rl.analysis import figures
from internal_rl.analysis.rate_distortion import Solution, summarise_sweep
from internal_rl.analysis.switching import SWITCH_THRESHOLD
from internal_rl.errors import StorageError
from internal_rl.training.files import read_json, storage_faults, write_atomically, write_json
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_directory import load_artifacts

RL_STAGES = {
    "internal_rl": "internal RL",
    "internal_rl_forced": "forced switching",
    "internal_rl_unaligned": "unaligned switching",
    "raw_rl": "raw actions",
}
REFERENCES = ("bayes", "goal_blind", "goal_given")


@dataclasses.dataclass(frozen=True)
class SeedRun:
    """What one seed of one stage left behind.

    Attributes:
      stage: name of the stage.
      seed: its seed.
      config: its configuration, nested dictionaries.
      metrics: lines of `metrics.jsonl`.
      artifacts: arrays by name; empty without any.
    """

    stage: str
    seed: int
    config: Mapping
    metrics: Sequence[Mapping]
    artifacts: Mapping[str, np.ndarray]

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a metric, where it was written and finite."""
        lines = [line for line in self.metrics if line.get(name) is not None]
        return np.array([line["step"] for line in lines]), np.array([line[name] for line in lines])

    def last(self, name: str) -> float:
        """Last value of a metric, NaN without one."""
        values = self.curve(name)[1]
        return float(values[-1]) if len(values) else math.nan

    def scalar(self, name: str) -> float:
        """An artifact of shape `()`, NaN without it."""
        return float(self.artifacts[name]) if name in self.artifacts else math.nan


Run = Mapping[str, Sequence[SeedRun]]


def read_run(workdir: str | os.PathLike) -> dict[str, list[SeedRun]]:
    """Reads all stages of a work directory, by name.

    Raises:
      StorageError: files cannot be read.
    """
    run: dict[str, list[SeedRun]] = {}
    with storage_faults(workdir):
        for path in sorted(pathlib.Path(workdir).glob("*/seed_*/config.json")):
            stage, seed = path.parent.parent.name, int(path.parent.name.removeprefix("seed_"))
            has_artifacts = (path.parent / "artifacts.npz").exists()
            artifacts = load_artifacts(workdir, stage, seed) if has_artifacts else {}
            run.setdefault(stage, []).append(
                SeedRun(
                    stage,
                    seed,
                    read_json(path)["config"],
                    read_metrics(path.parent),
                    artifacts,
                )
            )
    return {stage: sorted(seeds, key=lambda s: s.seed) for stage, seeds in run.items()}


def write_report(
    workdir: str | os.PathLike, wall_seconds: float = math.nan
) -> dict[str, float | None]:
    """Writes the report.

    Args:
      workdir: work directory of the run.
      wall_seconds: duration of the whole run; if unknown, the sum over the stages.

    Returns:
      What `summary.json` holds: medians over seeds, None where there is no data.

    Raises:
      StorageError: nothing to report is there, or files cannot be read or written.
    """
    run = read_run(workdir)
    if not run:
        raise StorageError(f"{workdir}: holds no stage of a run, nothing to report")
    folder = pathlib.Path(workdir) / "report"
    rows = table_rows(run)
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in run_figures(run).items():
            figures.save_figure(figure, folder / f"{name}.png")
        write_atomically(folder / "table.md", format_markdown(rows).encode())
        write_atomically(folder / "table.csv", format_csv(rows).encode())
        summary = {row.key: _finite(row.median) for row in rows}
        if not math.isfinite(wall_seconds):
            wall_seconds = sum(s.last("seconds") for seeds in run.values() for s in seeds[:1])
        summary["wall_seconds"] = _finite(wall_seconds)
        write_json(folder / "summary.json", summary)
    return summary


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
