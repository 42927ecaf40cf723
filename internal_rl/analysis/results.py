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
      base: seed of the base model that it stands on; None where none is known.
    """

    stage: str
    seed: int
    config: Mapping
    metrics: Sequence[Mapping]
    artifacts: Mapping[str, np.ndarray]
    base: int | None = None

    @property
    def section(self) -> Mapping:
        """The section of the config that belongs to the stage, or to that of a variant."""
        names = (name for name in self.config if f"{self.stage}_".startswith(f"{name}_"))
        return self.config.get(max(names, key=len, default=""), {})

    @property
    def evaluation_episodes(self) -> int:
        """Episodes of its evaluations; 0 where that is not told."""
        return self.section.get("evaluation_episodes", 0)

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


WITHOUT_BASE = ("expert", "collect")
"""Stages that come before the base model."""

RunResults = Mapping[str, Sequence[SeedResults]]
"""Stages of a work directory by name, their seeds in order."""


def with_artifact(run: RunResults, stage: str, name: str) -> list[SeedResults]:
    """Seeds of a stage that have an artifact."""
    return [results for results in run.get(stage, ()) if name in results.artifacts]


def standing(seeds: Sequence[SeedResults]) -> str:
    """On how many runs and base models a figure stands, in words; a single run by its seed."""
    runs = f"{len(seeds)} runs" if len(seeds) != 1 else f"1 run (seed {seeds[0].seed})"
    count = num_base_models(seeds)
    return f"{runs}, {count} base model{'s' if count > 1 else ''}" if count else runs


def num_base_models(seeds: Sequence[SeedResults]) -> int:
    """How many base models runs stand on; 0 where that is not known of all of them."""
    bases = {results.base for results in seeds}
    return 0 if None in bases else len(bases)


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


def read_run(workdir: str | os.PathLike, upstream: Sequence[str | os.PathLike] = ()) -> RunResults:
    """Reads all stages of a work directory, finished or not, by name and in order of seeds.

    Args:
      workdir: of the run.
      upstream: other work directories in which its base models may lie.

    Raises:
      StorageError: files cannot be read.
    """
    run: dict[str, list[SeedResults]] = {}
    with storage_faults(workdir):
        bases = _base_seeds((workdir, *upstream))
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
                base=_base_of(stage, seed, stored, bases),
            )
            run.setdefault(stage, []).append(results)
    return {stage: sorted(run[stage], key=lambda results: results.seed) for stage in sorted(run)}


def _base_seeds(workdirs: Sequence[str | os.PathLike]) -> list[int]:
    """Seeds of the base models, in order, of the first work directory that has any."""
    for workdir in workdirs:
        folders = as_path(workdir).glob("pretrain/seed_*/config.json")
        seeds = [int(file.parent.name.removeprefix("seed_")) for file in folders]
        if seeds:
            return sorted(seeds)
    return []


def _base_of(stage: str, seed: int, stored: Mapping, bases: Sequence[int]) -> int | None:
    """The base model of a seed, as its `config.json` tells.

    Where that is silent they are dealt out in turn, as in `Settings.seeds_read`; co-training from
    random parameters stands on none.
    """
    if stage == "pretrain":
        return seed
    if told := stored.get("reads", {}):
        return told.get("pretrain")
    drawn = stored["config"].get("metacontroller", {}).get("base_from") == "random"
    if drawn or stage in WITHOUT_BASE or not bases:
        return None
    return bases[(seed - bases[0]) % len(bases)]


def _with_episodes(metrics: Sequence[Mapping], stage: str, config: Mapping) -> Sequence[Mapping]:
    """Adds the episodes run so far to the lines of a reinforcement-learning stage."""
    section = next((name for name in ("internal_rl", "raw_rl") if stage.startswith(name)), "")
    episodes = config.get(section, {}).get("episodes_per_update")
    if episodes is None:
        return metrics
    return [{**line, "episodes": line["step"] * episodes} for line in metrics]


def read_sweep(
    workdir: str | os.PathLike, upstream: Sequence[str | os.PathLike] = ()
) -> list[RunResults]:
    """Reads a work directory and those inside its folder `sweep`, which repeat some stages."""
    others = sorted(path for path in as_path(workdir).glob("sweep/*") if path.is_dir())
    above = (workdir, *upstream)
    return [read_run(workdir, upstream), *(read_run(path, above) for path in others)]


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
