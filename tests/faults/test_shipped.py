"""Shipped stages: compared with their checksums, and copied by many at once."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys
import time

import pytest

import internal_rl as irl
from internal_rl import pretrained
from internal_rl.checksums import CHECKSUMS
from internal_rl.errors import StorageError
from internal_rl.files import read_record
from internal_rl.training.stage_results import load_stage

SEEDS = sorted(pathlib.Path(pretrained.__file__).parent.glob("*/*/*/seed_*"))
ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_every_shipped_file_has_the_checksum_that_it_is_shipped_with(seed):
    named = set(read_record(seed / CHECKSUMS, {}))
    assert named == {path.name for path in seed.iterdir()} - {CHECKSUMS}
    pretrained.check(seed)


@pytest.mark.parametrize("name", ["params.msgpack", "config.json", "metrics.jsonl", "DONE"])
@pytest.mark.parametrize("damage", ["altered", "removed", "longer"])
def test_a_package_that_was_damaged_is_not_copied(name, damage, tmp_path, monkeypatch):
    package = tmp_path / "package"
    shutil.copytree(SEEDS[0].parents[3] / "gridworld-pinpad", package / "gridworld-pinpad")
    monkeypatch.setattr(pretrained, "_FOLDER", package)
    file = package / "gridworld-pinpad" / "small" / "pretrain" / "seed_0" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    if damage != "removed":
        file.write_bytes(content if damage == "altered" else file.name.encode() + content)
    message = f"{file}: .*; install the package again"
    with pytest.raises(StorageError, match=message):
        pretrained.install("gridworld-pinpad", "small", tmp_path / "run", "pretrain")
    with pytest.raises(StorageError, match=message):
        irl.load("gridworld-pinpad/small")
    assert not (tmp_path / "run" / "pretrain" / "seed_0").exists()


def test_a_shipped_file_that_was_altered_is_refused_and_the_advice_works(tmp_path):
    world, preset = "gridworld-pinpad", "small"
    pretrained.install(world, preset, tmp_path)
    params = tmp_path / "pretrain" / "seed_0" / "params.msgpack"
    content = bytearray(params.read_bytes())
    content[len(content) // 2] ^= 1
    params.write_bytes(content)
    with pytest.raises(StorageError, match=f"altered .*; remove {params.parent} and run"):
        load_stage(tmp_path, "pretrain", 0)
    shutil.rmtree(params.parent)
    pretrained.install(world, preset, tmp_path)
    load_stage(tmp_path, "pretrain", 0)


def test_copies_of_a_read_only_package_can_be_written(tmp_path, monkeypatch):
    package = tmp_path / "package" / "gridworld-pinpad"
    shutil.copytree(SEEDS[0].parents[3] / "gridworld-pinpad", package)
    for path in (package, *package.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(pretrained, "_FOLDER", package.parent)
    pretrained.install("gridworld-pinpad", "small", tmp_path / "run")
    copied = list((tmp_path / "run").rglob("*"))
    assert copied and all(path.stat().st_mode & stat.S_IWUSR for path in copied)
    for path in package.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)


def test_many_processes_may_copy_into_one_folder(tmp_path):
    program = (
        "import sys, time; from internal_rl import pretrained; "
        "time.sleep(max(0, float(sys.argv[2]) - time.time())); "
        "pretrained.install('gridworld-pinpad', 'small', sys.argv[1])"
    )
    start = str(time.time() + 8)
    command = [sys.executable, "-c", program, str(tmp_path / "run"), start]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        _, told = process.communicate()
        assert process.returncode == 0, told
    for stage in ("pretrain", "metacontroller"):
        assert [path.name for path in (tmp_path / "run" / stage).iterdir()] == ["seed_0"]
        load_stage(tmp_path / "run", stage, 0)
