"""Copies of finished stages, without their checkpoints.

A copy looks as if the stage had been run where it lies. A kill leaves all of it or nothing.
"""

import os
import pathlib
import shutil
import tempfile

from internal_rl.files import write_atomically
from internal_rl.paths import AnyPath, is_remote


def copy_stage(source: AnyPath, target: AnyPath) -> None:
    """Copies the files of a stage directory, unless the target is there already.

    What is read-only in the source is not so in the copy. Folders in it stay behind: checkpoints,
    snapshots and events.

    Args:
      source: `<workdir>/<stage>/seed_<k>` of a finished stage.
      target: the same of another work directory; either may be on a store.

    Raises:
      OSError: files cannot be read or written.
    """
    files = sorted(path for path in source.iterdir() if path.is_file() and path.name != ".lock")
    if is_remote(target):
        _copy_to_store(files, target)
    else:
        _copy(files, target)


def _copy(files: list[AnyPath], target: pathlib.Path) -> None:
    """Several processes may do so at once: one of the copies stays."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.partial_", dir=target.parent))
    try:
        for file in files:
            (partial / file.name).write_bytes(file.read_bytes())
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


def _copy_to_store(files: list[AnyPath], target: AnyPath) -> None:
    """The same where no folder can be renamed: a mark says that a copy was begun."""
    mark = target.with_name(f".{target.name}.partial")
    if target.exists() and not mark.exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, "")
    for file in files:
        write_atomically(target / file.name, file.read_bytes())
    mark.unlink()
