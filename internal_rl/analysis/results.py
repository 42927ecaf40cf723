"""Reads what the stages of a run left in its work directory."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from internal_rl.envs.world import make_from_config
from internal_rl.files import read_json, storage_faults
from internal_rl.paths import as_path
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_directory import load_artifacts
from internal_rl.types import World


@dataclasses.dataclass(frozen=True)
class SeedResults:
    """What one seed of one stage left behind.

    Attributes:
      stage: name of the stage.
      seed: its seed.
      config: its configuration, nested dictionaries.
      metrics: lines of `metrics.jsonl`.
      artifacts: arrays by name; empty without any.
      reads: on which seeds of earlier stages it stands, by stage; empty where it is not told.
    """

    stage: str
    seed: int
    config: Mapping
    metrics: Sequence[Mapping]
    artifacts: Mapping[str, np.ndarray]
    reads: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def base_model(self) -> int | None:
        """Seed of the base model on which it stands; None where there is none or it is not told."""
        return self.reads.get("pretrain")

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a metric, where it was written and finite."""
        lines = [line for line in self.metrics if line.get(name) is not None]
        return np.array([line["step"] for line in lines]), np.array([line[name] for line in lines])

    def last(self, name: str) -> float:
        """Last value of a metric, NaN without one."""
        values = self.curve(name)[1]
        return float(values[-1]) if len(values) else math.nan

    def scalar(self, name: str) -> float:
        """An artifact of shape `()`; without it the last evaluation of that name, or NaN."""
        if name in self.artifacts:
            return float(self.artifacts[name])
        return self.last(f"evaluation/{name}")


RunResults = Mapping[str, Sequence[SeedResults]]
"""Stages of a work directory by name, their seeds in order."""


def with_artifact(run: RunResults, stage: str, name: str) -> list[SeedResults]:
    """Seeds of a stage that have an artifact."""
    return [results for results in run.get(stage, ()) if name in results.artifacts]


def world_of(results: SeedResults) -> World | None:
    """The world that a seed was trained in; None where nobody has registered it here."""
    return _make_world(json.dumps(results.config.get("environment"), sort_keys=True))


@functools.lru_cache(maxsize=4)
def _make_world(environment: str) -> World | None:
    try:
        return make_from_config(json.loads(environment) or {"name": "none"})
    except ValueError as error:
        logging.warning("the world of this run cannot be made: %s", error)
        return None


def read_run(workdir: str | os.PathLike) -> RunResults:
    """Reads all stages of a work directory, finished or not, by name and in order of seeds.

    Raises:
      StorageError: files cannot be read.
    """
    run: dict[str, list[SeedResults]] = {}
    with storage_faults(workdir):
        for file in as_path(workdir).glob("*/seed_*/config.json"):
            stage, seed = file.parent.parent.name, int(file.parent.name.removeprefix("seed_"))
            stored = read_json(file)
            config = stored["config"]
            has_artifacts = (file.parent / "artifacts.npz").exists()
            results = SeedResults(
                stage=stage,
                seed=seed,
                config=config,
                metrics=_with_episodes(read_metrics(file.parent), stage, config),
                artifacts=load_artifacts(workdir, stage, seed) if has_artifacts else {},
                reads=stored.get("reads", {}),
            )
            run.setdefault(stage, []).append(results)
    return {stage: sorted(run[stage], key=lambda results: results.seed) for stage in sorted(run)}


def _with_episodes(metrics: Sequence[Mapping], stage: str, config: Mapping) -> Sequence[Mapping]:
    """Adds the episodes run so far to the lines of a reinforcement-learning stage."""
    section = next((name for name in ("internal_rl", "raw_rl") if stage.startswith(name)), "")
    episodes = config.get(section, {}).get("episodes_per_update")
    if episodes is None:
        return metrics
    return [{**line, "episodes": line["step"] * episodes} for line in metrics]


def read_sweep(workdir: str | os.PathLike) -> list[RunResults]:
    """Reads a work directory and those inside its folder `sweep`, which repeat some stages."""
    others = sorted(path for path in as_path(workdir).glob("sweep/*") if path.is_dir())
    return [read_run(workdir), *(read_run(path) for path in others)]


def stacked_curves(
    seeds: Sequence[SeedResults], name: str, against: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Curves of several seeds, cut to the shortest.

    Args:
      seeds: seeds of one stage.
      name: metric on the vertical axis.
      against: metric on the horizontal axis; empty for steps.

    Returns:
      `(N,)` horizontal values of the first seed, and `(seeds, N)`; seeds without the metric are
      left out.
    """
    seeds = [results for results in seeds if len(results.curve(name)[1])]
    curves = [results.curve(name) for results in seeds]
    length = min((len(values) for _, values in curves), default=0)
    if not length:
        return np.zeros(0), np.zeros((0, 0))
    steps = curves[0][0][:length]
    if against:
        known = dict(zip(*seeds[0].curve(against), strict=True))
        steps = np.array([known.get(step, math.nan) for step in steps])
    return steps, np.stack([values[:length] for _, values in curves])
