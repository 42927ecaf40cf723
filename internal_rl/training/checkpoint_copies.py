"""Checkpoints on stores that Orbax cannot write itself: kept on this machine and copied."""

import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from internal_rl.paths import AnyPath, scheme_of

_WRITTEN_BY_ORBAX = ("", "gs")
# Written last: a step without it was cut off on its way to the store.
_WHOLE = "WHOLE"


def needs_copies(directory: AnyPath) -> bool:
    """Whether Orbax cannot write to a place: its arrays go to file systems and to `gs://` alone."""
    return scheme_of(directory) not in _WRITTEN_BY_ORBAX


def _files(folder: AnyPath) -> Iterator[AnyPath]:
    """All files below a folder."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


class CheckpointCopies:
    """The checkpoints of one seed: a local folder that is copied to the store after every save.

    Attributes:
      local: the folder, in which the checkpoints of the store are found at the beginning.
    """

    def __init__(self, store: AnyPath):
        self._store = store
        self.local = pathlib.Path(tempfile.mkdtemp(prefix="internal_rl_checkpoints_"))
        for step in self._whole_steps():
            for file in _files(store / step):
                target = self.local / file.relative_to(store)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
            (self.local / step / _WHOLE).unlink()

    def _whole_steps(self) -> list[str]:
        if not self._store.is_dir():
            return []
        names = [path.name for path in self._store.iterdir()]
        return [name for name in names if (self._store / name / _WHOLE).exists()]

    def copy(self) -> None:
        """Brings the store up to what is in the local folder; called when a save has ended."""
        here = {path.name for path in self.local.iterdir() if path.name.isdigit()}
        there = set(self._whole_steps())
        for step in sorted(here - there, key=int):
            for file in _files(self.local / step):
                target = self._store / file.relative_to(self.local).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
            (self._store / step / _WHOLE).write_bytes(b"")
        for step in there - here:
            (self._store / step / _WHOLE).unlink()
            (self._store / step).rmtree()

    def set_aside(self, step: int, target: AnyPath) -> None:
        """Moves a checkpoint of the store elsewhere, and forgets it here."""
        for file in _files(self.local / str(step)):
            moved = target / file.relative_to(self.local / str(step)).as_posix()
            moved.parent.mkdir(parents=True, exist_ok=True)
            moved.write_bytes(file.read_bytes())
        shutil.rmtree(self.local / str(step))
        self.copy()

    def close(self) -> None:
        """Removes the local folder."""
        shutil.rmtree(self.local, ignore_errors=True)
