"""Files that are compared with their SHA-256 whenever they are read.

`checksums.json` beside them holds it by name. A file that it does not name is read as it is: what
was written before there were checksums stays readable.
"""

import hashlib
import os

from internal_rl.errors import StorageError
from internal_rl.files import read_record, write_atomically, write_json
from internal_rl.paths import AnyPath, as_path

CHECKSUMS = "checksums.json"


def write_checked(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file and its checksum; a kill in between leaves a file that is not compared.

    Raises:
      OSError: the file cannot be written.
    """
    path = as_path(path)
    known = _known(path)
    if known.pop(path.name, None) is not None:
        write_json(path.with_name(CHECKSUMS), known)
    write_atomically(path, content)
    write_json(path.with_name(CHECKSUMS), known | {path.name: _sha256(content)})


def read_checked(path: str | os.PathLike) -> bytes:
    """Reads a file that has not changed since it was written.

    Raises:
      StorageError: it has.
      OSError: the file cannot be read.
    """
    path = as_path(path)
    content, known = path.read_bytes(), _known(path)
    if path.name in known and known[path.name] != _sha256(content):
        raise StorageError(f"{path}: altered since it was written, see {CHECKSUMS} beside it")
    return content


def _known(path: AnyPath) -> dict[str, str]:
    file = path.with_name(CHECKSUMS)
    if not file.exists():
        return {}
    return read_record(file, {}, "remove it: the files beside it are then read without comparing")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
