"""Datasets whose manifest or shards are damaged: refused, and mended by the advice."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internal_rl.checksums import write_checked_json
from internal_rl.errors import StorageError
from internal_rl.experts import shards
from tests.experts.test_shards import SETTINGS, make_shard, write


def manifest_of(folder):
    return json.loads((folder / shards.MANIFEST).read_text())


def test_the_advice_for_a_damaged_shard_works(tmp_path):
    paths = write(tmp_path)
    before = [path.read_bytes() for path in paths]
    paths[1].write_bytes(before[1][:-1] + b"?")
    with pytest.raises(StorageError, match=f"{paths[1]}: .*; remove it and run the stage collect"):
        shards.check_dataset(tmp_path, 4)
    assert shards.missing(tmp_path, 4) == []
    paths[1].unlink()
    assert shards.missing(tmp_path, 4) == [1]
    assert [path.read_bytes() for path in write(tmp_path)] == before


def test_the_advice_for_a_damaged_manifest_works(tmp_path):
    before = [path.read_bytes() for path in write(tmp_path)]
    (tmp_path / shards.MANIFEST).write_text("{")
    with pytest.raises(StorageError, match="manifest.json: damaged, .*; remove it and run"):
        shards.check_dataset(tmp_path, 4)
    (tmp_path / shards.MANIFEST).unlink()
    assert shards.missing(tmp_path, 4) == [0, 1, 2, 3]
    assert [path.read_bytes() for path in write(tmp_path)] == before


def one_shard_three_times(entries):
    return [dict(entries[0]) for _ in range(3)]


def one_checksum_twice(entries):
    return [entries[0], entries[1] | {"sha256": entries[0]["sha256"]}, *entries[2:]]


def renamed(name):
    return lambda entries: [entries[0] | {"name": name}, *entries[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_shard_three_times, r"shard 1 is called 'episodes-00000.array_record', allowed is"),
        (one_checksum_twice, "shard 1 has the checksum of another one"),
        (renamed("../secret"), r"shard 0 is called '../secret', allowed is episodes-00000"),
        (renamed("/etc/passwd"), "shard 0 is called '/etc/passwd'"),
        (lambda entries: [entries[1], entries[0], *entries[2:]], "shard 0 is called"),
        (lambda entries: [3, *entries[1:]], "shard 0 is no object of JSON"),
        (lambda entries: [entries[0] | {"sha256": 7}, *entries[1:]], "shard 0 has no SHA-256"),
        (lambda entries: [entries[0] | {"tokens": -1}, *entries[1:]], "shard 0 has no number of"),
    ],
)
def test_a_manifest_names_its_shards_and_nothing_else(change, message, tmp_path):
    write(tmp_path)
    manifest = manifest_of(tmp_path)
    manifest["shards"] = change(manifest["shards"])
    write_checked_json(tmp_path / shards.MANIFEST, manifest)
    for call in (
        lambda: shards.check_dataset(tmp_path, 3),
        lambda: shards.write_dataset(tmp_path, SETTINGS, 4, make_shard),
    ):
        with pytest.raises(StorageError, match=f"manifest.json: damaged, {message}"):
            call()


@settings(max_examples=100, deadline=None)
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["settings", "shards", "name", "sha256"]), inner)
        ),
    )
)
def test_a_manifest_of_any_structure_is_read_or_named(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("manifest")
    (folder / shards.MANIFEST).write_text(json.dumps(content))
    try:
        found = shards.read_manifest(folder)
    except StorageError as error:
        assert re.search("manifest.json: damaged", str(error)) and "\n" not in str(error)
    else:
        assert isinstance(found["settings"], dict) and found["shards"] == []
