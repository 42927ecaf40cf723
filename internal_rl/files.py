"""Files that are either whole or not there."""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Iterator, Mapping

from internal_rl.errors import StorageError
from internal_rl.paths import as_path, is_remote

PUT_BACK = "put back what it was, or choose another --workdir"
"""Remedy where a file tells what others mean, and cannot be made again."""


def shipped_folders(name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Where a folder that is shipped lies: inside of the package in a wheel, else beside it."""
    package = pathlib.Path(__file__).parent
    return package / name, package.parent / name


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes a file so that a kill or a full disk leaves the old content or none.

    Raises:
      OSError: the file cannot be written.
    """
    path = as_path(path)
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        # An object of a store appears whole, once its upload has ended.
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def as_json(content: object) -> str:
    """JSON as files hold it."""
    return json.dumps(content, indent=2) + "\n"


def write_json(path: str | os.PathLike, content: object) -> None:
    """Writes JSON atomically, see `write_atomically`."""
    write_atomically(path, as_json(content))


def read_json(path: str | os.PathLike) -> object:
    """Reads a JSON file.

    Raises:
      StorageError: the file is not JSON.
      OSError: the file cannot be read.
    """
    return _parsed(path, as_path(path).read_bytes())


def _parsed(path: str | os.PathLike, content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path}: damaged, not JSON") from error


def read_record(
    path: str | os.PathLike, fields: Mapping[str, type | tuple[type, ...]], remedy: str = ""
) -> dict:
    """Reads a JSON file that holds an object.

    Args:
      path: of the file.
      fields: what it has to hold by name; it may hold more.
      remedy: what mends the file, for the message.

    Raises:
      StorageError: the file is not JSON, no object, or a field is missing or of another kind.
      OSError: the file cannot be read.
    """
    return parse_record(path, as_path(path).read_bytes(), fields, remedy)


def parse_record(
    path: str | os.PathLike,
    content: bytes,
    fields: Mapping[str, type | tuple[type, ...]],
    remedy: str = "",
) -> dict:
    """The object that the content of a JSON file holds; arguments and errors as `read_record`."""
    remedy = f"; {remedy}" if remedy else ""
    try:
        record = _parsed(path, content)
    except StorageError as error:
        raise StorageError(f"{error}{remedy}") from error
    if not isinstance(record, dict):
        raise StorageError(f"{path}: damaged, no object of JSON{remedy}")
    for name, kind in fields.items():
        if not isinstance(record.get(name), kind):
            state = "of another kind" if name in record else "missing"
            raise StorageError(f"{path}: damaged, '{name}' is {state}{remedy}")
    return record


@contextlib.contextmanager
def storage_faults(path: str | os.PathLike, remedy: str = "") -> Iterator[None]:
    """Turns faults of the file system into one line that names the path.

    Args:
      path: what is read or written.
      remedy: what mends it, for the message; empty for what suits a work directory.

    Raises:
      StorageError: in place of any OSError of the body.
    """
    try:
        yield
    except OSError as error:
        where = _in_the_way(error.filename2 or error.filename or path, error)
        raise StorageError(
            f"{where}: {error.strerror or error}; {remedy or _remedy(error, where, path)}"
        ) from error


_OTHER_THAN_EXPECTED = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""A folder where a file is looked for, or the other way round."""


def _in_the_way(where: str | os.PathLike, error: OSError) -> str | os.PathLike:
    """What a fault is about; a file that is taken for a folder is named before what is in it."""
    if error.errno == errno.ENOTDIR and not is_remote(where):
        for path in (as_path(where), *as_path(where).parents):
            if path.exists():
                return path
    return where


def _remedy(error: OSError, where: str | os.PathLike, folder: str | os.PathLike) -> str:
    """What mends a fault of a file in a folder."""
    if error.errno == errno.ENOENT:
        return "it has been removed: run the same command again, which goes on with what is left"
    folder, where = as_path(folder).absolute(), as_path(where).absolute()
    if error.errno in _OTHER_THAN_EXPECTED and folder in where.parents:
        return "it is in the way: remove it and run the same command again"
    return "--workdir must be a writable folder with free space"
