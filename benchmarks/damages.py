"""Ways in which a file is damaged."""

import io
import json
import pathlib
import random
import shutil
from collections.abc import Callable, Mapping

import numpy as np
from flax import serialization


def _truncated(path: pathlib.Path, other: pathlib.Path | None, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(max(len(content), 1))])


def _flipped(path: pathlib.Path, other: pathlib.Path | None, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _empty(path: pathlib.Path, other: pathlib.Path | None, draw: random.Random) -> None:
    path.write_bytes(b"")


def _text(path: pathlib.Path, other: pathlib.Path | None, draw: random.Random) -> None:
    path.write_bytes(b"\xff\xfe\x00 " + draw.randbytes(64) + b"\n")


def _removed(path: pathlib.Path, other: pathlib.Path | None, draw: random.Random) -> None:
    path.unlink()


def _folder(path: pathlib.Path, other: pathlib.Path | None, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _swapped(path: pathlib.Path, other: pathlib.Path | None, draw: random.Random) -> None:
    if other is not None and other.is_file():
        shutil.copyfile(other, path)


def _structure(path: pathlib.Path, other: pathlib.Path | None, draw: random.Random) -> None:
    """A file that is whole, of the same format, and tells something else."""
    if path.suffix == ".msgpack":
        trees = ({"params": {"a": np.zeros(3)}}, {}, [1, 2], {"a": {"b": np.full(2, np.nan)}})
        path.write_bytes(serialization.msgpack_serialize(draw.choice(trees)))
    elif path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, **draw.choice(({}, {"a": np.zeros((2, 3))}, {"loss": np.array(["x"])})))
        path.write_bytes(buffer.getvalue())
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        place = draw.randrange(max(len(lines), 1))
        lines[place : place + 1] = [json.dumps(_other_json(None, draw))]
        path.write_text("\n".join(lines) + "\n")
    else:
        try:
            content = json.loads(path.read_text())
        except ValueError:
            content = None
        path.write_text(json.dumps(_other_json(content, draw)))


def _other_json(content: object, draw: random.Random) -> object:
    """Another value: of another kind, without a field, or with one of another kind."""
    kinds = ([], {}, 3, None, "text", [[1]], {"a": {"b": []}})
    if not isinstance(content, dict) or not content or draw.random() < 0.4:
        return draw.choice(kinds)
    name = draw.choice(sorted(content))
    if draw.random() < 0.3:
        return {key: value for key, value in content.items() if key != name}
    changed = draw.choice(kinds)
    if isinstance(content[name], dict) and content[name] and draw.random() < 0.7:
        changed = _other_json(content[name], draw)
    return content | {name: changed}


Damage = Callable[[pathlib.Path, pathlib.Path | None, random.Random], None]

DAMAGES: Mapping[str, Damage] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "empty": _empty,
    "structure": _structure,
    "swapped": _swapped,
    "removed": _removed,
    "folder": _folder,
    "text": _text,
}
"""By name: `damage(path, other, draw)`, where `other` is the same file of another run."""


def damage(path: pathlib.Path, other: pathlib.Path | None, name: str, draw: random.Random) -> bool:
    """Damages a file; whether it is another one than before.

    Args:
      path: of the file.
      other: the same file of another seed, run or stage; None where there is none.
      name: how, of `DAMAGES`.
      draw: decides what is left open.
    """
    before = path.read_bytes()
    DAMAGES[name](path, other, draw)
    return not path.is_file() or path.read_bytes() != before
