"""Files that are compared with their SHA-256 whenever they are read.

`checksums.json` beside them holds it by name; of a file that grows it holds how many bytes it is
the checksum of. A file that it does not name is read as it is: what was written before there were
checksums stays readable.
"""

import hashlib
import os
from collections.abc import Mapping

from internal_rl.errors import StorageError
from internal_rl.files import as_json, parse_record, write_atomically, write_json
from internal_rl.paths import AnyPath, as_path

CHECKSUMS = "checksums.json"


class ChecksumsError(StorageError):
    """`checksums.json` itself is damaged."""


def write_checked(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes a file and its checksum; a kill in between leaves a file that is not compared.

    Raises:
      OSError: the file cannot be written.
      ChecksumsError: `checksums.json` is damaged.
    """
    path = as_path(path)
    content = content.encode() if isinstance(content, str) else content
    forget(path)
    write_atomically(path, content)
    _note(path, sha256_of(content))


def write_checked_json(path: str | os.PathLike, content: object) -> None:
    """Writes JSON and its checksum, see `write_checked`."""
    write_checked(path, as_json(content))


def read_checked(path: str | os.PathLike) -> bytes:
    """Reads a file that has not changed since it was written.

    Raises:
      StorageError: it has.
      OSError: the file cannot be read.
    """
    path = as_path(path)
    content, known = path.read_bytes(), known_sums(path)
    if path.name in known and known[path.name] != sha256_of(content):
        raise StorageError(altered(path))
    return content


def read_intact(path: str | os.PathLike) -> bytes:
    """As `read_checked`; a file that grows may have grown since it was noted.

    Raises:
      StorageError: what was noted of it has changed.
      OSError: the file cannot be read.
    """
    path = as_path(path)
    if not isinstance(known_sums(path).get(path.name), dict):
        return read_checked(path)
    content = path.read_bytes()
    if not is_grown(path, content):
        raise StorageError(altered(path))
    return content


def read_checked_record(
    path: str | os.PathLike, fields: Mapping[str, type | tuple[type, ...]], remedy: str = ""
) -> dict:
    """Reads a JSON file that holds an object and has not changed since it was written.

    Args:
      path: of the file.
      fields: as in `files.read_record`.
      remedy: what mends the file, for the message.

    Raises:
      StorageError: it has changed, or is not such an object.
      OSError: the file cannot be read.
    """
    try:
        content = read_checked(path)
    except ChecksumsError:
        raise
    except StorageError as error:
        # Where it cannot even be read for what it is, that tells more.
        parse_record(path, as_path(path).read_bytes(), fields, remedy)
        raise StorageError(f"{error}; {remedy}" if remedy else str(error)) from error
    return parse_record(path, content, fields, remedy)


def note_grown(path: str | os.PathLike, size: int, sha256: str) -> None:
    """Notes the checksum of the first `size` bytes of a file that grows.

    Raises:
      OSError: it cannot be written.
      ChecksumsError: `checksums.json` is damaged.
    """
    _note(as_path(path), {"bytes": size, "sha256": sha256})


def is_grown(path: str | os.PathLike, content: bytes) -> bool:
    """Whether what a growing file holds begins with what it was noted with.

    Raises:
      OSError: `checksums.json` cannot be read.
      ChecksumsError: it is damaged.
    """
    told = known_sums(as_path(path)).get(as_path(path).name)
    if told is None:
        return True
    size = told.get("bytes") if isinstance(told, dict) else None
    if type(size) is not int or size > len(content):
        return False
    return told.get("sha256") == sha256_of(content[:size])


def forget(path: str | os.PathLike) -> None:
    """Takes the checksum of a file away: until it is written again it is not compared.

    Raises:
      OSError: it cannot be written.
      ChecksumsError: `checksums.json` is damaged.
    """
    path = as_path(path)
    known = known_sums(path)
    if known.pop(path.name, None) is not None:
        write_json(path.with_name(CHECKSUMS), known)


def known_sums(path: AnyPath) -> dict:
    """Checksums of the files beside a file, by name.

    Raises:
      OSError: they cannot be read.
      ChecksumsError: they are damaged.
    """
    file = path.with_name(CHECKSUMS)
    if not file.exists():
        return {}
    remedy = "remove it: the files beside it are then read without comparing"
    try:
        return parse_record(file, file.read_bytes(), {}, remedy)
    except StorageError as error:
        raise ChecksumsError(str(error)) from error


def checksum_of(path: str | os.PathLike) -> str:
    """The SHA-256 with which a file was written; empty where it is not known.

    Raises:
      OSError: it cannot be read.
      ChecksumsError: it is damaged.
    """
    path = as_path(path)
    told = known_sums(path).get(path.name)
    return told if isinstance(told, str) else ""


def altered(path: AnyPath) -> str:
    """What is wrong with a file that has another checksum."""
    return f"{path}: altered since it was written, see {CHECKSUMS} beside it"


def sha256_of(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _note(path: AnyPath, told: object) -> None:
    write_json(path.with_name(CHECKSUMS), known_sums(path) | {path.name: told})
