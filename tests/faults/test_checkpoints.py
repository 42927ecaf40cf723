"""Checkpoints that are damaged, renamed or foreign: never gone on from, and nothing is lost."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from internal_rl.checksums import write_checked_json
from internal_rl.errors import StageConflictError, StorageError
from internal_rl.training import checkpoints
from internal_rl.training.identity import DamagedError, Identity
from internal_rl.training.loop import run_stage
from internal_rl.training.stage_config import StageConfig
from tests.training.test_loop import (
    assert_same_params,
    checkpoint_steps,
    folder,
    metrics_without_seconds,
)
from tests.training.toy import make_stage


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A stage that has been trained for 16 updates, with checkpoints of 8 and 16."""
    workdir = tmp_path_factory.mktemp("short")
    run_stage(make_stage(16), workdir)
    return workdir


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("long")
    run_stage(make_stage(24), workdir)
    return workdir


@pytest.fixture
def workdir(tmp_path, short):
    shutil.copytree(short, tmp_path / "run")
    return tmp_path / "run"


def checkpoint(workdir, step):
    return folder(workdir) / "checkpoints" / str(step)


def data_files(path):
    """Files in which arrays lie; some hold a copy that nobody reads."""
    return [file for file in path.rglob("*") if file.parent.name == "d" and file.is_file()]


def flip_middle(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def everything(damage):
    def damage_all(path):
        for file in path.rglob("*"):
            if file.is_file():
                damage(file)

    return damage_all


def data(damage):
    def damage_data(path):
        for file in data_files(path):
            damage(file)

    return damage_data


def remove_contents(path):
    for inner in path.iterdir():
        shutil.rmtree(inner) if inner.is_dir() else inner.unlink()


DAMAGES = {
    "a bit of every file": everything(flip_middle),
    "a bit of the arrays": data(flip_middle),
    "arrays cut off": data(cut),
    "arrays empty": data(empty),
    "every file empty": everything(empty),
    "nothing in the folder": remove_contents,
    "metadata gone": lambda path: (path / "default" / "_METADATA").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_taken(
    damage, workdir, long, caplog
):
    DAMAGES[damage](checkpoint(workdir, 16))
    run_stage(make_stage(24), workdir)
    assert_same_params(workdir, long)
    assert metrics_without_seconds(workdir) == metrics_without_seconds(long)
    told = [text for text in caplog.messages if "is damaged" in text]
    assert len(told) == 1 and "goes on from step 8" in told[0]
    assert [path.name for path in (folder(workdir) / "damaged_checkpoints").iterdir()] == ["16_0"]
    assert checkpoint_steps(workdir) == [16, 24]


def test_the_advice_where_no_checkpoint_is_intact_works(workdir, long):
    for step in (8, 16):
        DAMAGES["a bit of the arrays"](checkpoint(workdir, step))
    for _ in range(2):
        with pytest.raises(StorageError, match="no checkpoint is intact .*; remove ") as e:
            run_stage(make_stage(24), workdir)
        assert "\n" not in str(e.value)
    assert checkpoint_steps(workdir) == [8, 16]
    advised = re.search(r"remove (\S+) and run", str(e.value)).group(1)
    assert advised == str(folder(workdir))
    shutil.rmtree(advised)
    run_stage(make_stage(24), workdir)
    assert_same_params(workdir, long)


def test_one_that_another_process_cannot_read_is_passed_over(workdir, long, caplog, monkeypatch):
    answers = iter([True])
    asked = checkpoints.hosts.any_of_all
    monkeypatch.setattr(
        checkpoints.hosts, "any_of_all", lambda flag: next(answers, None) or asked(flag)
    )
    run_stage(make_stage(24), workdir)
    assert_same_params(workdir, long)
    told = [text for text in caplog.messages if "is damaged" in text]
    assert len(told) == 1 and "/16: another process cannot read it" in told[0]
    assert checkpoint_steps(workdir) == [16, 24]


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(workdir, long, caplog):
    checkpoint(workdir, 16).rename(checkpoint(workdir, 20))
    run_stage(make_stage(24), workdir)
    assert_same_params(workdir, long)
    assert any("saved as one of step 16" in text for text in caplog.messages)


def test_a_checkpoint_of_another_configuration_is_refused_by_its_field(workdir, tmp_path):
    run_stage(make_stage(20, learning_rate=0.1, checkpoint_every=20), tmp_path / "other")
    shutil.copytree(checkpoint(tmp_path / "other", 20), checkpoint(workdir, 20))
    told = r"toy.learning_rate: 0.05 asked .*/20 .* 0.1"
    message = rf"/20: is a checkpoint of another run \({told}\); remove it"
    with pytest.raises(StageConflictError, match=message):
        run_stage(make_stage(24), workdir)
    assert checkpoint_steps(workdir) == [8, 16, 20]
    shutil.rmtree(checkpoint(workdir, 20))
    run_stage(make_stage(24), workdir)


def test_a_checkpoint_of_another_seed_is_refused(workdir, tmp_path):
    run_stage(make_stage(20, seeds=(3,), checkpoint_every=20), tmp_path / "other")
    found = folder(tmp_path / "other", 3) / "checkpoints" / "20"
    shutil.copytree(found, checkpoint(workdir, 20))
    message = "checkpoint of seed 3; allowed are those .* 0 .*: remove it"
    with pytest.raises(StageConflictError, match=message):
        run_stage(make_stage(24), workdir)
    shutil.rmtree(checkpoint(workdir, 20))
    run_stage(make_stage(24), workdir)


def test_a_lost_config_does_not_mix_two_runs(workdir):
    (folder(workdir) / "config.json").unlink()
    before = sorted(folder(workdir).rglob("*"))
    for stage in (make_stage(24), make_stage(24, learning_rate=0.1)):
        with pytest.raises(StorageError, match="config.json: is missing, .* put back"):
            run_stage(stage, workdir)
    assert sorted(folder(workdir).rglob("*")) == before


def test_a_checkpoint_from_before_there_were_identities_is_taken(tmp_path, monkeypatch, long):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_IDENTITY", "something that nobody reads")
        run_stage(make_stage(16), tmp_path)
    run_stage(make_stage(24), tmp_path)
    assert_same_params(tmp_path, long)


def test_other_code_is_told_and_gone_on_with(workdir, long, caplog, monkeypatch):
    monkeypatch.setattr("internal_rl.training.identity.code_fingerprint", lambda: "other")
    run_stage(make_stage(24), workdir)
    assert_same_params(workdir, long)
    assert any("was made by other code" in text for text in caplog.messages)


def test_other_versions_are_told(workdir, caplog):
    file = folder(workdir) / "versions.json"
    versions = json.loads(file.read_text()) | {"jax": "0.1", "num_devices": 64}
    write_checked_json(file, versions)
    run_stage(make_stage(24), workdir)
    told = [text for text in caplog.messages if "goes on from step 16 with" in text]
    assert len(told) == 1 and "was 0.1" in told[0] and "num_devices 1, was 64" in told[0]


@pytest.mark.parametrize(
    "stored", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"step": 8, "crc32": 3, "config": {}}']
)
def test_an_identity_that_cannot_be_read_is_damage(stored):
    identity = Identity(0, StageConfig({"toy": {"steps": 8}}))
    with pytest.raises(DamagedError, match="step 8"):
        identity.check(8, {}, np.frombuffer(stored, np.uint8), pathlib.Path("here"))
