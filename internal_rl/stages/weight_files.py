"""Stages of a work directory as a few files of limited size, to be carried from machine to machine.

What is needed to use the stages and to train them further goes along: settings, parameters, curves
and the newest checkpoint of each; snapshots and events do not.
"""

import hashlib
import io
import os
import pathlib
import shutil
import tarfile
from collections.abc import Iterator, Sequence

from internal_rl.errors import StorageError

MAX_BYTES = 16 * 2**20
"""Size of a file, at most."""

_NAME = "stages.tar"
_LEFT_OUT = ("events", "snapshots", "checkpoints", ".lock")


def pack(
    workdir: str | os.PathLike,
    folder: str | os.PathLike,
    stages: Sequence[str],
    max_bytes: int = MAX_BYTES,
) -> dict[str, str]:
    """Writes stages to `<folder>/stages.tar.00`, `.01`, ..., in place of earlier ones.

    Args:
      workdir: work directory of the run.
      folder: where to; it is made if need be.
      stages: folders of stages in `workdir`; those that are not there are left out.
      max_bytes: size of a file, at most.

    Returns:
      SHA-256 of every file by its name.
    """
    folder = pathlib.Path(folder)
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pieces = _Pieces(partial, max_bytes)
    with tarfile.open(fileobj=pieces, mode="w|") as archive:
        for stage in stages:
            for seed in sorted(pathlib.Path(workdir, stage).glob("seed_*")):
                for path in _files_of(seed):
                    archive.add(path, path.relative_to(workdir))
    pieces.close()
    for path in folder.glob(f"{_NAME}.*"):
        path.unlink()
    for path in sorted(partial.iterdir()):
        path.rename(folder / path.name)
    partial.rmdir()
    return {path.name: _checksum(path) for path in packed(folder)}


def packed(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Files that `pack` left in a folder, in order."""
    return sorted(pathlib.Path(folder).glob(f"{_NAME}.*"))


def unpack(
    folder: str | os.PathLike, workdir: str | os.PathLike, checksums: dict[str, str]
) -> list[str]:
    """Puts packed stages into a work directory; those that are there already stay as they are.

    Args:
      folder: what `pack` wrote.
      workdir: work directory of the run.
      checksums: as `pack` returned them.

    Returns:
      Folders of the seeds that were added, such as `"pretrain/seed_0"`.

    Raises:
      StorageError: a file is missing or altered; nothing has been added.
    """
    paths = packed(folder)
    for name in sorted({path.name for path in paths} ^ set(checksums)):
        state = "is missing" if name in checksums else "is one too many"
        raise StorageError(
            f"{folder}/{name}: {state}, allowed is a fresh copy of {', '.join(checksums)}"
        )
    for path in paths:
        if not path.is_file() or _checksum(path) != checksums[path.name]:
            raise StorageError(f"{path}: altered since it was written, allowed is a fresh copy")
    workdir = pathlib.Path(workdir)
    partial = workdir / ".unpacked"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with tarfile.open(fileobj=_Joined(paths), mode="r|") as archive:
        archive.extractall(partial, filter="data")
    added = []
    for seed in sorted(partial.glob("*/seed_*")):
        target = workdir / seed.relative_to(partial)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            seed.rename(target)
            added.append(str(seed.relative_to(partial)))
    shutil.rmtree(partial)
    return added


def _files_of(seed: pathlib.Path) -> Iterator[pathlib.Path]:
    """Files of a stage directory that go along; of its checkpoints the newest alone."""
    for path in sorted(seed.iterdir()):
        if path.name not in _LEFT_OUT and not path.name.endswith(".partial"):
            yield path
    steps = [path for path in seed.glob("checkpoints/*") if path.name.isdigit()]
    if steps:
        yield max(steps, key=lambda path: int(path.name))


def _checksum(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Pieces:
    """What is written goes to one file after the other."""

    def __init__(self, folder: pathlib.Path, max_bytes: int):
        self._folder, self._max_bytes = folder, max_bytes
        self._count, self._file = 0, None

    def write(self, data: bytes) -> int:
        """Appends; tar files are written in blocks, of which one may span two files."""
        view = memoryview(data)
        while view:
            if self._file is None or self._file.tell() == self._max_bytes:
                self.close()
                self._file = (self._folder / f"{_NAME}.{self._count:02}").open("wb")
                self._count += 1
            fits = self._max_bytes - self._file.tell()
            self._file.write(view[:fits])
            view = view[fits:]
        return len(data)

    def close(self) -> None:
        """Closes the last file."""
        if self._file is not None:
            self._file.close()


class _Joined(io.RawIOBase):
    """Files read as one."""

    def __init__(self, paths: Sequence[pathlib.Path]):
        self._left = list(paths)
        self._file = io.BytesIO()

    def readable(self) -> bool:
        """It can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer only at the end."""
        found = []
        while size:
            data = self._file.read(size)
            if not data:
                self._file.close()
                if not self._left:
                    break
                self._file = self._left.pop(0).open("rb")
                continue
            found.append(data)
            size -= len(data) if size > 0 else 0
        return b"".join(found)

    def close(self) -> None:
        """Closes the file that is being read."""
        self._file.close()
        super().close()
