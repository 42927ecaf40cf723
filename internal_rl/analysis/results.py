"""Reads what the stages of a run left in its work directory."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from absl import logging

from internal_rl.arguments import entries_of
from internal_rl.checksums import known_sums, read_checked_record
from internal_rl.envs.world import make_from_config
from internal_rl.errors import StorageError
from internal_rl.files import PUT_BACK, storage_faults
from internal_rl.paths import AnyPath, as_path
from internal_rl.training.curves import with_episodes
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_directory import seed_of, stage_of
from internal_rl.training.stage_results import load_artifacts
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
      reads: on which seeds of earlier stages it stands, by stage; empty where that is not told.
      base: name of the base model that it stands on, see `base_name`; None where none is known.
      expert: success on the post-training task of the expert whose data it learns from, see
        `EXPERT_SUCCESS`; NaN where there is none or it is not known.
      together: names of the seeds that one program has trained together, its own included; empty
        where that is not told.
    """

    stage: str
    seed: int
    config: Mapping
    metrics: Sequence[Mapping]
    artifacts: Mapping[str, np.ndarray]
    reads: Mapping[str, int] = dataclasses.field(default_factory=dict)
    base: str | None = None
    expert: float = math.nan
    together: tuple[str, ...] = ()

    @property
    def section(self) -> Mapping:
        """The section of the config that belongs to the stage, or to that of a variant."""
        return self.config.get(stage_of(self.stage, self.config), {})

    @property
    def task(self) -> str:
        """Task of a policy as text; empty for the post-training task of its world."""
        return self.section.get("task", "")

    @property
    def evaluation_episodes(self) -> int:
        """Episodes of its evaluations; 0 where that is not told."""
        return self.section.get("evaluation_episodes", 0)

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a metric, where it was written and finite."""
        lines = [line for line in self.metrics if line.get(name) is not None]
        return np.array([line["step"] for line in lines]), np.array([line[name] for line in lines])

    def last(self, name: str) -> float:
        """Value of a metric in the last line that has it; NaN where there is none, or none finite.

        What became infinite or NaN has no value at the end, whatever it was before.
        """
        values = (line[name] for line in reversed(self.metrics) if name in line)
        value = next(values, None)
        return math.nan if value is None else float(value)

    def scalar(self, name: str) -> float:
        """An artifact of shape `()`; without it the last evaluation of that name, or NaN."""
        if name in self.artifacts:
            return float(self.artifacts[name])
        return self.last(f"evaluation/{name}")


def sorted_by_stage(folders: Iterable[str], stages: Iterable[str]) -> list[str]:
    """Folders in the order of some stages, variants behind their stage, those of none last."""
    order = list(stages)

    def place(folder: str) -> tuple[int, str]:
        stage = stage_of(folder, order)
        return order.index(stage) if stage in order else len(order), folder

    return sorted(folders, key=place)


WITHOUT_BASE = ("expert", "collect")
"""Stages that come before the base model."""

EXPERT_SUCCESS = "post_training/success"
"""What the expert reaches with its mean actions, of its stage."""

COTRAINED = "metacontroller_cotrained"
"""The stage whose base model may have begun with random parameters, and is one of its own then."""

WITHOUT_LINES = ("collect",)
"""Stages that write no metrics."""

RunResults = Mapping[str, Sequence[SeedResults]]
"""Stages of a work directory by name, their seeds in order."""


def with_artifact(run: RunResults, stage: str, name: str) -> list[SeedResults]:
    """Seeds of a stage that have an artifact."""
    return [results for results in run.get(stage, ()) if name in results.artifacts]


def with_curve(seeds: Sequence[SeedResults], name: str) -> list[SeedResults]:
    """Seeds that have a curve of a metric."""
    return [results for results in seeds if len(results.curve(name)[0])]


def seconds_of_programs(seeds: Sequence[SeedResults]) -> list[float]:
    """How long each program ran that has trained seeds of one stage; NaN where that is not told.

    Seeds that one program has trained together took it once, and each of them tells all of it.
    """
    found: dict[tuple, float] = {}
    for results in seeds:
        found.setdefault(results.together or (results.seed,), results.last("seconds"))
    return list(found.values())


def standing(seeds: Sequence[SeedResults]) -> str:
    """On how many runs and base models a figure stands, in words; a single run by its seed."""
    runs = f"{len(seeds)} runs" if len(seeds) != 1 else f"1 run (seed {seeds[0].seed})"
    count = num_base_models(seeds)
    return f"{runs}, {count} base model{'s' if count > 1 else ''}" if count else runs


def base_name(stage: str, seed: int) -> str:
    """Name of the base model that a seed of a stage has made, within one work directory."""
    return f"cotrained/{seed}" if stage == COTRAINED else str(seed)


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


def read_run(
    workdir: str | os.PathLike,
    upstream: Sequence[str | os.PathLike] = (),
    faults: list[str] | None = None,
) -> RunResults:
    """Reads all stages of a work directory, finished or not, by name and in order of seeds.

    Args:
      workdir: of the run.
      upstream: other work directories in which its base models and its expert may lie.
      faults: takes a message about everything that is damaged, which is left out then.

    Raises:
      ConfigError: `upstream` is no list.
      StorageError: files cannot be read, or something is damaged and `faults` is None.
    """
    upstream = entries_of("upstream", upstream, "work directories")
    run: dict[str, list[SeedResults]] = {}
    with storage_faults(workdir):
        places = (workdir, *upstream)
        bases = {stage: _base_seeds(places, stage) for stage in ("pretrain", COTRAINED)}
        expert = _success_of_expert(places)
        for folder in sorted(as_path(workdir).glob("*/seed_*")):
            results = _read_or_leave_out(folder, faults) if folder.is_dir() else None
            if results is not None:
                base = _base_of(results, bases)
                results = dataclasses.replace(results, base=base, expert=expert)
                run.setdefault(results.stage, []).append(results)
    return {stage: sorted(run[stage], key=lambda results: results.seed) for stage in sorted(run)}


def _read_or_leave_out(folder: AnyPath, faults: list[str] | None) -> SeedResults | None:
    """As `_read_seed`; what the file system does not give is a fault too, and not of the others."""
    try:
        return _read_seed(folder, faults)
    except OSError as error:
        if faults is None:
            raise
        faults.append(f"{error.filename or folder}: {error.strerror}; the seed is left out")
        return None


def _read_seed(folder: AnyPath, faults: list[str] | None) -> SeedResults | None:
    """What lies in `<stage>/seed_<k>`; None, and a fault, where that cannot be told."""
    stage, seed = folder.parent.name, seed_of(folder)
    if seed is None:
        return _refuse(faults, f"{folder}: left out, allowed are folders seed_0, seed_1, ...")
    if not (folder / "config.json").exists():
        if (folder / "DONE").exists():
            message = f"is missing, though the stage is finished; {PUT_BACK}"
            _refuse(faults, f"{folder / 'config.json'}: {message}")
        return None
    try:
        stored = read_checked_record(folder / "config.json", {"config": dict}, PUT_BACK)
    except StorageError as error:
        return _refuse(faults, str(error))
    config = stored["config"]
    if not all(isinstance(x, dict) for x in config.values()):
        message = f"has another structure, allowed are sections under config; {PUT_BACK}"
        return _refuse(faults, f"{folder / 'config.json'}: {message}")
    _check_objects(folder, faults)
    lines = read_metrics(folder, faults)
    if not lines and (folder / "DONE").exists() and stage not in WITHOUT_LINES:
        message = f"holds no line, though the stage is finished; {PUT_BACK}"
        _refuse(faults, f"{folder / 'metrics.jsonl'}: {message}")
    metrics = with_episodes(lines, stage, config)
    reads = stored.get("reads", {})
    if not isinstance(reads, dict):
        _refuse(faults, f"{folder / 'config.json'}: 'reads' is of another kind; {PUT_BACK}")
        reads = {}
    together = stored.get("seeds", [])
    together = tuple(map(str, together)) if isinstance(together, list) else ()
    artifacts = _read_artifacts(folder, faults)
    return SeedResults(stage, seed, config, metrics, artifacts, reads, together=together)


def _check_objects(folder: AnyPath, faults: list[str] | None) -> None:
    """Names files that tell how a stage was made and are damaged, and files that are missing."""
    for name, kinds in (("versions.json", {}), ("DONE", {"steps": int})):
        file = folder / name
        try:
            if file.exists():
                read_checked_record(file, kinds, PUT_BACK)
        except StorageError as error:
            _refuse(faults, str(error))
        except IsADirectoryError as error:
            _refuse(faults, f"{file}: {error.strerror}; {PUT_BACK}")
    try:
        known = known_sums(folder / "DONE") if (folder / "DONE").exists() else {}
    except StorageError as error:
        _refuse(faults, str(error))
        known = {}
    for name in known:
        if not (folder / name).exists():
            _refuse(faults, f"{folder / name}: is missing; {PUT_BACK}")


def _refuse(faults: list[str] | None, message: str) -> None:
    """Notes a fault, or raises it where nobody takes notes."""
    if faults is None:
        raise StorageError(message)
    faults.append(message)


def _read_artifacts(folder: AnyPath, faults: list[str] | None) -> dict[str, np.ndarray]:
    """Arrays by name; none where there is no file or it is damaged."""
    if not (folder / "artifacts.npz").exists():
        return {}
    try:
        return load_artifacts(folder.parents[1], folder.parent.name, seed_of(folder))
    except StorageError as error:
        _refuse(faults, f"{error}; what rests on its arrays is left out")
        return {}


def _base_seeds(workdirs: Sequence[str | os.PathLike], stage: str) -> list[int]:
    """Seeds of a stage that makes base models, in order, of the first work directory with any."""
    for workdir in workdirs:
        files = as_path(workdir).glob(f"{stage}/seed_*/config.json")
        seeds = [seed_of(file.parent) for file in files]
        if seeds := sorted(seed for seed in seeds if seed is not None):
            return seeds
    return []


def _success_of_expert(workdirs: Sequence[str | os.PathLike]) -> float:
    """That of the lowest seed, of the first work directory in which any was judged; else NaN.

    Data are collected with that one, whatever others were trained.
    """
    for workdir in workdirs:
        found = {}
        for file in as_path(workdir).glob("expert/seed_*/metrics.jsonl"):
            lines = read_metrics(file.parent, [])
            judged = [line[EXPERT_SUCCESS] for line in lines if EXPERT_SUCCESS in line]
            if (seed := seed_of(file.parent)) is not None and judged and judged[-1] is not None:
                found[seed] = judged[-1]
        if found:
            return float(found[min(found)])
    return math.nan


def success_of_expert(run: RunResults) -> float:
    """Success by which a run's curves are divided (method §2, §6); NaN where it is not known."""
    return next((results.expert for seeds in run.values() for results in seeds), math.nan)


def _base_of(results: SeedResults, bases: Mapping[str, Sequence[int]]) -> str | None:
    """The base model of a seed, as its `config.json` tells.

    Where that is silent they are dealt out in turn, as in `Settings.seeds_read`.
    """
    codes = results.config.get("metacontroller", {})
    own = codes.get("variant") == "cotrained" and codes.get("base_from") == "random"
    maker = COTRAINED if own else "pretrain"
    seeds = bases[maker]
    if results.stage in WITHOUT_BASE or not seeds:
        return None
    in_turn = seeds[(results.seed - seeds[0]) % len(seeds)]
    base = results.reads.get("metacontroller" if own else "pretrain", in_turn)
    return base_name(maker, base)


def stacked_curves(
    seeds: Sequence[SeedResults], name: str, against: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Curves of several seeds, at the steps that all of them have.

    Args:
      seeds: seeds of one stage.
      name: metric on the vertical axis.
      against: metric on the horizontal axis; empty for steps.

    Returns:
      `(N,)` horizontal values of the first seed, and `(seeds, N)`; seeds without the metric are
      left out.
    """
    curves = [dict(zip(*results.curve(name), strict=True)) for results in seeds]
    known = [(results, curve) for results, curve in zip(seeds, curves, strict=True) if curve]
    if not known:
        return np.zeros(0), np.zeros((0, 0))
    steps = sorted(set.intersection(*(set(curve) for _, curve in known)))
    values = np.array([[curve[step] for step in steps] for _, curve in known])
    if not against:
        return np.array(steps), values
    across = dict(zip(*known[0][0].curve(against), strict=True))
    return np.array([across.get(step, math.nan) for step in steps]), values
