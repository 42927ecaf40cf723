"""Records of a run: what its finished stages have measured, without parameters.

They are small enough to be kept in a repository or brought from another machine. A folder of
records is read like a work directory by everything that shows results; nothing is trained in it.
"""

import os
from collections.abc import Iterator

from absl import logging

from internal_rl.analysis.sweeps.report import LIST
from internal_rl.checksums import read_checked, write_checked
from internal_rl.errors import ConfigError, StorageError
from internal_rl.files import storage_faults
from internal_rl.paths import AnyPath, as_path
from internal_rl.training.stage_copies import copy_record
from internal_rl.training.stage_directory import StageDirectory, seed_of

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
      StageConflictError: a stage has been run in the folder.
      StorageError: nothing is finished, or files are damaged, cannot be read or written.
    """
    source, target = as_path(workdir), as_path(folder, "--records")
    if source.resolve() == target.resolve():
        raise ConfigError(
            f"--records: '{folder}' given, which is the work directory; allowed is another folder"
        )
    kept = []
    with storage_faults(folder):
        for seed in _finished_seeds(source):
            kept.append(copy_record(seed, target / seed.relative_to(source)))
        for listed in sorted(source.glob(f"sweep/*/{LIST}")):
            copied = target / listed.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            write_checked(copied, read_checked(listed))
    if not kept:
        raise StorageError(f"{workdir}: holds no finished stage, nothing to record")
    return f"{len(kept)} records in {folder}, {sum(kept)} of them new or changed"


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
