"""Datasets of episodes on disk: ArrayRecord shards with a manifest of checksums.

`<folder>/manifest.json` names every finished shard with its SHA-256, its episodes and their tokens;
a shard is written under another name and enters the manifest once it is whole, so that a collection
that was cut off goes on with the next shard; one that is missing is written again. One record is
one episode, a dictionary of arrays in msgpack.

ArrayRecord reads and writes files of this machine alone. A dataset on a store is made here shard by
shard and copied; to be read, its shards are brought to `downloads()`, where they stay under the
name of their checksum for the next stage.
"""

import hashlib
import math
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO

import numpy as np
from flax import serialization

from internal_rl.checksums import read_checked_record, write_checked_json
from internal_rl.errors import StorageError
from internal_rl.extras import needs_extra
from internal_rl.paths import AnyPath, as_path, is_remote

Episode = Mapping[str, np.ndarray]

MANIFEST = "manifest.json"
_STAGE = "collect"


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"episodes-{index:05d}.array_record"


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: str | os.PathLike) -> dict:
    """Settings and finished shards of a dataset; no shards where there is none yet.

    Returns:
      `{"settings": ..., "shards": [{"name", "sha256", "episodes", "tokens"}, ...]}`.

    Raises:
      StorageError: the manifest is damaged, or names something else than its shards in their order.
    """
    file = as_path(folder) / MANIFEST
    if not file.exists():
        return {"settings": None, "shards": []}
    remedy = f"remove it and run the stage {_STAGE} again, which collects anew"
    manifest = read_checked_record(file, {"settings": dict, "shards": list}, remedy)
    sums = set()
    for index, entry in enumerate(manifest["shards"]):
        fault = _fault_of(entry, index)
        if fault is None and entry["sha256"] in sums:
            fault = "has the checksum of another one"
        if fault is not None:
            raise StorageError(f"{file}: damaged, shard {index} {fault}; {remedy}")
        sums.add(entry["sha256"])
    return manifest


def _fault_of(entry: object, index: int) -> str | None:
    """What is wrong with the entry of a shard."""
    if not isinstance(entry, dict):
        return "is no object of JSON"
    if entry.get("name") != shard_name(index):
        return f"is called {entry.get('name')!r}, allowed is {shard_name(index)}"
    if not re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256"))):
        return "has no SHA-256"
    for name in ("episodes", "tokens"):
        if type(entry.get(name)) is not int or entry[name] < 0:
            return f"has no number of {name}"
    return None


def missing(folder: str | os.PathLike, num_shards: int) -> list[int]:
    """Shards that are not in the manifest or not there.

    Raises:
      StorageError: the manifest is damaged.
    """
    folder = as_path(folder)
    known = len(read_manifest(folder)["shards"])
    # One question: on a store every single one takes its time.
    there = {path.name for path in folder.iterdir()} if known else set()
    return [i for i in range(num_shards) if i >= known or shard_name(i) not in there]


def write_dataset(
    folder: str | os.PathLike,
    settings: Mapping,
    num_shards: int,
    make_shard: Callable[[int], Iterable[Episode]],
    report: Callable[[int], None] = lambda finished: None,
) -> None:
    """Writes the shards that are still missing.

    Args:
      folder: of the dataset.
      settings: plain dictionary of what the episodes depend on; a folder that was begun with other
        settings is refused.
      num_shards: of the whole dataset.
      make_shard: episodes of a shard by its number; a function of that number alone, so that a
        dataset written in several goes equals one written in one.
      report: called with the number of finished shards.

    Raises:
      StorageError: the folder was begun with other settings.
      OSError: the folder cannot be written.
    """
    with needs_extra("ant", "a dataset in shards"):
        from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    folder = as_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(folder)
    if manifest["settings"] not in (None, dict(settings)):
        raise StorageError(
            f"{folder}: holds episodes of {manifest['settings']}, asked for are {dict(settings)};"
            " allowed are the same settings, or another --workdir"
        )
    manifest["settings"] = dict(settings)
    for index in missing(folder, num_shards):
        part = _part(folder, index)
        writer = ArrayRecordWriter(str(part), "group_size:1")
        episodes = tokens = 0
        for episode in make_shard(index):
            writer.write(serialization.msgpack_serialize(dict(episode)))
            episodes += 1
            tokens += len(episode["action"])
        writer.close()
        if ArrayRecordReader(str(part)).num_records() != episodes:
            raise StorageError(f"{part}: cannot be written whole; is the disk full?")
        entry = {"sha256": _sha256(part), "episodes": episodes, "tokens": tokens}
        if is_remote(folder):
            part.replace(_downloaded(entry["sha256"]))
            with open(_downloaded(entry["sha256"]), "rb") as file:
                _copy(file, folder / shard_name(index))
        else:
            os.replace(part, folder / shard_name(index))
        # In their order: one that was missing takes its own place again.
        manifest["shards"][index : index + 1] = [{"name": shard_name(index), **entry}]
        write_checked_json(folder / MANIFEST, manifest)
        report(index + 1)


def downloads() -> pathlib.Path:
    """Where shards of stores are kept on this machine: `TMPDIR` chooses the disk."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"internal_rl_shards_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _part(folder: AnyPath, index: int) -> pathlib.Path:
    """The file of this machine in which a shard is written."""
    if is_remote(folder):
        return downloads() / f"{shard_name(index)}.{os.getpid()}.part"
    return folder / f".{shard_name(index)}.part"


def _downloaded(sha256: str) -> pathlib.Path:
    return downloads() / f"{sha256}.array_record"


def _download(shard: AnyPath, sha256: str) -> pathlib.Path:
    """A shard of a store on this machine; taken as it is where it has been brought before."""
    local = _downloaded(sha256)
    if not local.exists():
        part = local.with_name(f"{local.name}.{os.getpid()}.part")
        with shard.open("rb") as file:
            _copy(file, part)
        part.replace(local)
    return local


def _copy(file: BinaryIO, target: AnyPath) -> None:
    with target.open("wb") as copied:
        shutil.copyfileobj(file, copied, 1 << 20)


def check_dataset(folder: str | os.PathLike, num_shards: int) -> list[pathlib.Path]:
    """Paths of all shards on this machine, each compared with its checksum.

    Raises:
      StorageError: names the shard that is missing, cut off or altered, and what mends it.
    """
    folder = as_path(folder)
    shards = read_manifest(folder)["shards"]
    if len(shards) < num_shards:
        raise StorageError(
            f"{folder}: {len(shards)} of {num_shards} shards are there; run the stage {_STAGE}"
            " again, which goes on with the next shard"
        )
    paths = []
    for entry in shards[:num_shards]:
        path = folder / entry["name"]
        if not path.exists():
            raise StorageError(
                f"{path}: is missing; run the stage {_STAGE} again, which writes it again"
            )
        local = _download(path, entry["sha256"]) if is_remote(path) else path
        if _sha256(local) != entry["sha256"]:
            if local is not path:
                local.unlink()
            raise StorageError(
                f"{path}: is cut off or altered (its SHA-256 is not that of the manifest); remove"
                f" it and run the stage {_STAGE} again, which writes it again"
            )
        paths.append(local)
    return paths


def load_rows(
    paths: Sequence[pathlib.Path],
    sequence_length: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> dict[str, np.ndarray]:
    """All episodes in random order, packed into rows by grain.

    Args:
      paths: shards, as `check_dataset` gives them.
      sequence_length: `S`, tokens of a row; longer episodes are left out.
      seed: of the order.
      shard_index: which of `shard_count` hosts this is; each reads every `shard_count`-th episode.
      shard_count: number of hosts.

    Returns:
      For every array `name` of the episodes the packed rows, `(N, S, ...)`, and as `segment_ids`
      `(N, S)` the number of the episode in its row from 1 on, 0 at padding.

    Raises:
      StorageError: no episode fits.
    """
    with needs_extra("ant", "a dataset in shards"):
        import grain

    source = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
    dataset = grain.MapDataset.source(source).shuffle(seed=seed)[shard_index::shard_count]
    dataset = dataset.map(serialization.msgpack_restore)
    dataset = dataset.filter(lambda episode: len(episode["action"]) <= sequence_length)
    first = next(iter(dataset.to_iter_dataset()), None)
    if first is None:
        raise StorageError(f"{paths[0].parent}: no episode of up to {sequence_length} tokens")
    packed = grain.experimental.FirstFitPackIterDataset(
        dataset.to_iter_dataset(),
        length_struct=dict.fromkeys(first, sequence_length),
        num_packing_bins=64,
        shuffle_bins=False,
    )
    # As many rows as episodes, cut at the end: what was never written takes no memory, and the
    # rows are nowhere twice.
    keys = {name: name for name in first} | {"segment_ids": f"{next(iter(first))}_segment_ids"}
    shape = (len(dataset), sequence_length)
    rows = {name: _empty((*shape, *x.shape[1:]), x.dtype) for name, x in first.items()}
    rows["segment_ids"] = _empty(shape, np.dtype(np.int32))
    num_rows = 0
    for row in packed:
        for name, key in keys.items():
            rows[name][num_rows] = row[key]
        num_rows += 1
    return {name: array[:num_rows] for name, array in rows.items()}


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`np.empty` at a multiple of 64 bytes, from where JAX takes an array on a CPU uncopied."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
