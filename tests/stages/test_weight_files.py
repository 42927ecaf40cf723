"""Stages as files of limited size."""

import pytest

from internal_rl.errors import StorageError
from internal_rl.stages.weight_files import MAX_BYTES, pack, packed, unpack


def make_stage(workdir, stage, seed=0, checkpoints=(3, 10)):
    folder = workdir / stage / f"seed_{seed}"
    for step in checkpoints:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
        (folder / "checkpoints" / str(step) / "state").write_bytes(bytes([step]) * 5000)
    for name in ("events", "snapshots"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("left out")
    (folder / "params.msgpack").write_bytes(bytes(range(256)) * 40)
    (folder / ".lock").write_text("")


def files_in(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def left(tmp_path):
    make_stage(tmp_path / "work", "pretrain")
    make_stage(tmp_path / "work", "metacontroller", seed=1, checkpoints=())
    stages = ["pretrain", "metacontroller", "internal_rl"]
    return pack(tmp_path / "work", tmp_path / "out", stages, max_bytes=4_000)


def test_what_is_needed_comes_back_whole_from_files_of_limited_size(tmp_path, left):
    paths = packed(tmp_path / "out")
    assert len(paths) > 5 and [path.name for path in paths] == sorted(left)
    assert all(path.stat().st_size <= 4_000 for path in paths)
    added = unpack(tmp_path / "out", tmp_path / "again", left)
    assert added == ["metacontroller/seed_1", "pretrain/seed_0"]
    before, after = files_in(tmp_path / "work"), files_in(tmp_path / "again")
    assert set(after) == {
        "pretrain/seed_0/params.msgpack",
        "pretrain/seed_0/checkpoints/10/state",
        "metacontroller/seed_1/params.msgpack",
    }
    assert all(before[name] == content for name, content in after.items())


def test_stages_that_are_there_stay_as_they_are(tmp_path, left):
    mine = tmp_path / "again" / "pretrain" / "seed_0"
    mine.mkdir(parents=True)
    (mine / "params.msgpack").write_text("mine")
    assert unpack(tmp_path / "out", tmp_path / "again", left) == ["metacontroller/seed_1"]
    assert files_in(mine) == {"params.msgpack": b"mine"}


def test_packing_again_replaces_what_was_there(tmp_path, left):
    del left
    checksums = pack(tmp_path / "work", tmp_path / "out", ["metacontroller"])
    assert list(checksums) == ["stages.tar.00"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["stages.tar.00"]
    assert unpack(tmp_path / "out", tmp_path / "again", checksums) == ["metacontroller/seed_1"]
    assert MAX_BYTES == 16 * 2**20


def test_altered_and_missing_files_are_named_and_nothing_is_added(tmp_path, left):
    path = packed(tmp_path / "out")[2]
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(StorageError, match=r"stages.tar.02: altered"):
        unpack(tmp_path / "out", tmp_path / "again", left)
    path.unlink()
    with pytest.raises(StorageError, match=r"stages.tar.02: is missing"):
        unpack(tmp_path / "out", tmp_path / "again", left)
    path.write_bytes(content)
    (tmp_path / "out" / "stages.tar.99").write_text("")
    with pytest.raises(StorageError, match=r"stages.tar.99: is one too many"):
        unpack(tmp_path / "out", tmp_path / "again", left)
    assert not (tmp_path / "again").exists()


def test_nothing_to_pack_is_no_fault(tmp_path):
    checksums = pack(tmp_path, tmp_path / "out", ["pretrain"])
    assert unpack(tmp_path / "out", tmp_path / "again", checksums) == []
