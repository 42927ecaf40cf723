"""Copies of finished stages: without their checkpoints, or of what they have measured alone.

A kill leaves all of a copy or nothing.
"""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable

from internal_rl.checksums import CHECKSUMS, known_sums, read_intact
from internal_rl.errors import StageConflictError
from internal_rl.files import as_json, write_atomically
from internal_rl.paths import AnyPath, is_remote
from internal_rl.training.stage_directory import PARAMETERS, RECORD, StageDirectory, seed_of

# What tables, figures and the page are made from.
_MEASURED = (
    *("config.json", "versions.json", "references.json"),
    *("metrics.jsonl", "artifacts.npz", "DONE"),
)


def copy_stage(source: AnyPath, target: AnyPath) -> None:
    """Copies the files of a stage directory, unless the target is there already.

    The copy looks as if the stage had been run where it lies. What is read-only in the source is
    not so in the copy. Folders in it stay behind: checkpoints, snapshots and events.

    Args:
      source: `<workdir>/<stage>/seed_<k>` of a finished stage.
      target: the same of another work directory; either may be on a store.

    Raises:
      OSError: files cannot be read or written.
    """
    files = sorted(path for path in source.iterdir() if path.is_file() and path.name != ".lock")
    _write(((file.name, file.read_bytes()) for file in files), target)


def copy_record(source: AnyPath, target: AnyPath) -> bool:
    """Copies what a finished stage has measured; its parameters stay behind.

    A record that is there already is replaced where it is another one.

    Args:
      source: `<workdir>/<stage>/seed_<k>` of a finished stage, or a record of it.
      target: the same of a folder of records; either may be on a store.

    Returns:
      Whether it is a new one, or another one than before.

    Raises:
      StageConflictError: a stage has been run in the target.
      StorageError: a file has been altered since it was written.
      OSError: files cannot be read or written.
    """
    files = {name: read_intact(source / name) for name in _MEASURED if (source / name).exists()}
    sums = {name: told for name, told in known_sums(source / CHECKSUMS).items() if name in files}
    left_behind = StageDirectory(source.parents[1], source.parent.name, seed_of(source))
    mark = as_json({PARAMETERS: left_behind.parameters_checksum}).encode()
    files = {RECORD: mark} | files | {CHECKSUMS: as_json(sums).encode()}
    if target.exists():
        if not (target / RECORD).exists():
            raise StageConflictError(
                f"{target}: a stage has been run here; allowed is another folder for records"
            )
        if all(_holds(target / name, content) for name, content in files.items()):
            return False
        target.rmtree() if is_remote(target) else shutil.rmtree(target)
    _write(files.items(), target)
    return True


def _holds(file: AnyPath, content: bytes) -> bool:
    return file.exists() and file.read_bytes() == content


def _write(files: Iterable[tuple[str, bytes]], target: AnyPath) -> None:
    if is_remote(target):
        _write_to_store(files, target)
    else:
        _write_here(files, target)


def _write_here(files: Iterable[tuple[str, bytes]], target: pathlib.Path) -> None:
    """Several processes may do so at once: one of the copies stays."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.partial_", dir=target.parent))
    try:
        for name, content in files:
            (partial / name).write_bytes(content)
        partial.chmod(_folder_mode())
        partial.rename(target)
    except OSError:
        # Where another copy has come first, a folder that is not empty is in the way.
        if not target.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _folder_mode() -> int:
    """What a new folder may be used for, here where `tempfile` makes it private."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o777 & ~mask


def _write_to_store(files: Iterable[tuple[str, bytes]], target: AnyPath) -> None:
    """The same where no folder can be renamed: a mark says that a copy was begun."""
    mark = target.with_name(f".{target.name}.partial")
    if target.exists() and not mark.exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, "")
    for name, content in files:
        write_atomically(target / name, content)
    mark.unlink()
