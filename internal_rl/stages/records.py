"""Records of a run: what its finished stages have measured, without parameters.

They are small enough to be kept in a repository or brought from another machine. A folder of
records is read like a work directory by everything that shows results; nothing is trained in it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from absl import logging

from internal_rl.analysis.sweeps.report import LIST
from internal_rl.checksums import read_checked, write_checked
from internal_rl.errors import ConfigError, StageConflictError, StorageError
from internal_rl.files import storage_faults
from internal_rl.paths import AnyPath, as_path
from internal_rl.stages.catalogue import STAGES
from internal_rl.training.stage_copies import copy_record
from internal_rl.training.stage_directory import RECORD, StageDirectory, seed_of, stage_of

_SEEDS = ("*/seed_*", "sweep/*/*/*/seed_*")
"""Where seeds of stages lie in a work directory, those of studies over several runs included."""


def keep_records(workdir: str | os.PathLike, folder: str | os.PathLike) -> str:
    """Copies the record of every finished stage of a work directory into a folder of records.

    Records that the folder holds already stay, but for those of the same stages and seeds.

    Args:
      workdir: of the run; what is not finished is left out.
      folder: in which records are laid out as in the work directory.

    Returns:
      How many there are, in words.

    Raises:
      ConfigError: the folder is the work directory.
      StageConflictError: a stage has been run in the folder, or records would stand on other
        parameters of the same base model than others, or of another stage than lie beside them.
      StorageError: nothing is finished, or files are damaged, cannot be read or written.
    """
    source, target = as_path(workdir), as_path(folder, "--records")
    if source.resolve() == target.resolve():
        raise ConfigError(
            f"--records: '{folder}' given, which is the work directory; allowed is another folder"
        )
    with storage_faults(workdir):
        seeds = {seed.relative_to(source): seed for seed in _finished_seeds(source)}
        if not seeds:
            raise StorageError(f"{workdir}: holds no finished stage, nothing to record")
        there = {seed.relative_to(target): seed for seed in _finished_seeds(target)}
        _check_base_models((there | seeds).values())
        _check_neighbours(there | seeds)
    with storage_faults(folder, "--records must be a writable folder with free space"):
        kept = [copy_record(seed, target / place) for place, seed in seeds.items()]
        for listed in sorted(source.glob(f"sweep/*/{LIST}")):
            copied = target / listed.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            write_checked(copied, read_checked(listed))
    return f"{len(kept)} records in {folder}, {sum(kept)} of them new or changed"


def holds_records(workdir: str | os.PathLike) -> bool:
    """Whether a folder is one of records."""
    return any(True for pattern in _SEEDS for _ in as_path(workdir).glob(f"{pattern}/{RECORD}"))


def _finished_seeds(source: AnyPath) -> Iterator[AnyPath]:
    for pattern in _SEEDS:
        for path in sorted(source.glob(pattern)):
            seed = seed_of(path)
            if seed is None:
                continue
            if StageDirectory(path.parents[1], path.parent.name, seed).finished:
                yield path
            else:
                logging.warning("%s: not finished, left out", path)


def _check_base_models(seeds: Iterable[AnyPath]) -> None:
    """Compares on which parameters of a base model stages stand, as far as they tell it.

    Raises:
      StageConflictError: two of them on others, where settings and seed are the same.
      StorageError: files are damaged.
    """
    known: dict[tuple, tuple[str, AnyPath]] = {}
    for path in seeds:
        directory = StageDirectory(path.parents[1], path.parent.name, seed_of(path))
        stored = directory.read_config()
        if path.parent.name == "pretrain":
            seed, told = directory.seed, directory.parameters_checksum
        else:
            seed = stored.get("reads", {}).get("pretrain")
            told = stored.get("parameters_read", {}).get("pretrain", "")
        if not told or seed is None:
            continue
        sections = stored["config"]
        base = {name: sections.get(name) for name in STAGES["pretrain"].depends_on}
        ages = [sections.get(stage, {}).get("base_step", 0) for stage in ("probe", "steer")]
        which = (seed, *ages, json.dumps(base, sort_keys=True))
        first, other = known.setdefault(which, (told, path))
        if told != first:
            raise StageConflictError(
                f"{path}: stands on other parameters of pretrain, seed {seed}, than {other};"
                " allowed is a folder of records for each"
            )


def _check_neighbours(seeds: Mapping[AnyPath, AnyPath]) -> None:
    """Compares the parameters that stages were made with and those recorded in the same folder.

    A policy would else be shown beside a metacontroller that it never stood on, as one of another
    machine, or one that has been trained further or with other settings since. Base models are
    compared by their settings, see `_check_base_models`: they may be read at an age, or lie
    elsewhere.

    Args:
      seeds: where each seed of a stage lies, by its place within the folder of records.

    Raises:
      StageConflictError: a stage was made with others.
      StorageError: files are damaged.
    """
    recorded: dict[tuple, dict[str, AnyPath]] = {}
    told = []
    for place, path in seeds.items():
        directory = StageDirectory(path.parents[1], path.parent.name, seed_of(path))
        stored, folder = directory.read_config(), place.parents[1]
        stage, reads = stage_of(path.parent.name, STAGES), stored.get("reads", {})
        which = (folder, stage, directory.seed, _variant_of(stored, stage))
        recorded.setdefault(which, {})[directory.parameters_checksum] = path
        for earlier, checksum in stored.get("parameters_read", {}).items():
            if earlier != "pretrain":
                which = (folder, earlier, reads.get(earlier), _variant_of(stored, earlier))
                told.append((path, which, checksum))
    for path, which, checksum in told:
        known = recorded.get(which, {})
        # A stage that does not tell its parameters may be the one that was read.
        if known and not {checksum, ""} & known.keys():
            _, stage, seed, _ = which
            raise StageConflictError(
                f"{path}: stands on other parameters of {stage}, seed {seed}, than"
                f" {next(iter(known.values()))}; allowed is a folder of records for each"
            )


def _variant_of(stored: Mapping[str, Any], stage: str) -> str:
    """Which variant of a stage a configuration holds; empty for stages without variants."""
    return stored["config"].get(stage, {}).get("variant", "")
