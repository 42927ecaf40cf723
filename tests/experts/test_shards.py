"""Datasets on disk: whole or refused, resumable, packed without loss."""

import json

import numpy as np
import pytest

from internal_rl.errors import StorageError
from internal_rl.experts import shards
from tests.stores import store

SETTINGS = {"tasks": "some", "episodes": 5}


def make_shard(index):
    rng = np.random.default_rng(index)
    for number in range(5):
        length = int(rng.integers(3, 12))
        yield {
            "observation": rng.normal(size=(length, 2)).astype(np.float32),
            "action": np.full((length, 1), 10.0 * index + number, np.float32),
            "step": np.arange(length, dtype=np.int32),
        }


def write(folder, num_shards=4, **keywords):
    shards.write_dataset(folder, SETTINGS, num_shards, make_shard, **keywords)
    return shards.check_dataset(folder, num_shards)


def test_a_collection_that_was_cut_off_goes_on_to_the_same_bytes(tmp_path):
    whole = write(tmp_path / "whole")

    def stop(finished):
        if finished == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "parts", report=stop)
    (tmp_path / "parts" / f".{shards.shard_name(2)}.part").write_bytes(b"torn")
    parts = write(tmp_path / "parts")
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in parts]
    assert (tmp_path / "whole" / shards.MANIFEST).read_text() == (
        tmp_path / "parts" / shards.MANIFEST
    ).read_text()


def test_every_episode_comes_back_once_and_whole(tmp_path):
    paths = write(tmp_path)
    rows = shards.load_rows(paths, 16, seed=3)
    segment = rows["segment_ids"]
    assert rows["observation"].shape == (*segment.shape, 2) and segment.shape[1] == 16
    found = {}
    for row in range(len(segment)):
        for number in range(1, segment[row].max() + 1):
            own = segment[row] == number
            found[float(rows["action"][row, own][0, 0])] = rows["observation"][row, own]
            np.testing.assert_array_equal(rows["step"][row, own], np.arange(own.sum()))
    expected = {
        float(episode["action"][0, 0]): episode["observation"]
        for index in range(4)
        for episode in make_shard(index)
    }
    assert found.keys() == expected.keys()
    for name, observation in expected.items():
        np.testing.assert_array_equal(found[name], observation)
    tokens = sum(
        e["tokens"] for e in json.loads((tmp_path / "manifest.json").read_text())["shards"]
    )
    assert (segment > 0).sum() == tokens


def test_order_depends_on_the_seed_alone_and_hosts_share_the_episodes(tmp_path):
    paths = write(tmp_path)
    one, again, other = (shards.load_rows(paths, 16, seed)["action"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or (one != other).any()
    hosts = [shards.load_rows(paths, 16, 0, host, 2) for host in range(2)]
    seen = [set(rows["action"][rows["segment_ids"] > 0, 0].tolist()) for rows in hosts]
    assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 20


def test_long_episodes_are_left_out_and_nothing_left_is_said(tmp_path):
    paths = write(tmp_path)
    rows = shards.load_rows(paths, 6, seed=0)
    assert rows["step"].max() < 6
    with pytest.raises(StorageError, match="no episode of up to 2 tokens"):
        shards.load_rows(paths, 2, seed=0)


def test_a_truncated_or_altered_shard_is_named(tmp_path):
    path = write(tmp_path)[1]
    content = path.read_bytes()
    for damaged in (content[:-10], content[:50] + b"?" + content[51:]):
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=f"{path.name}: is cut off or altered"):
            shards.check_dataset(tmp_path, 4)
    path.unlink()
    with pytest.raises(StorageError, match=f"{path.name}: is missing"):
        shards.check_dataset(tmp_path, 4)


def test_an_unfinished_or_foreign_dataset_is_refused(tmp_path):
    write(tmp_path, num_shards=2)
    with pytest.raises(StorageError, match="2 of 4 shards are there"):
        shards.check_dataset(tmp_path, 4)
    with pytest.raises(StorageError, match="other settings|asked for are"):
        shards.write_dataset(tmp_path, {"tasks": "others"}, 4, make_shard)


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """The folder of this machine to which shards are brought."""
    monkeypatch.setattr(shards.tempfile, "gettempdir", lambda: str(tmp_path))
    return shards.downloads()


def test_a_dataset_on_a_store_holds_the_same_bytes(tmp_path, monkeypatch, downloads):
    here = write(tmp_path / "here")
    with store(monkeypatch, "gs") as objects:
        folder = "gs://bucket/run/collect"
        there = write(folder)
        assert [path.read_bytes() for path in there] == [path.read_bytes() for path in here]
        assert [objects[f"{folder}/{path.name}"] for path in here] == [
            path.read_bytes() for path in here
        ]
        np.testing.assert_array_equal(
            shards.load_rows(there, 16, seed=3)["action"],
            shards.load_rows(here, 16, seed=3)["action"],
        )
        # Another machine begins with nothing.
        for path in downloads.iterdir():
            path.unlink()
        assert shards.check_dataset(folder, 4) == there
        assert sorted(downloads.iterdir()) == sorted(there)


def test_a_shard_that_was_altered_on_a_store_is_refused(monkeypatch, downloads):
    with store(monkeypatch, "gs") as objects:
        write("gs://bucket/run")
        name = f"gs://bucket/run/{shards.shard_name(1)}"
        objects[name] = objects[name][:-1]
        for path in downloads.iterdir():
            path.unlink()
        with pytest.raises(StorageError, match=f"{name}: is cut off or altered"):
            shards.check_dataset("gs://bucket/run", 4)
        assert len(list(downloads.iterdir())) == 1
