"""Records of a run show what the run shows, and nobody can train in them."""

import json
import pathlib

import numpy as np
import pytest

from internal_rl.analysis.report import write_report
from internal_rl.analysis.results import read_run
from internal_rl.analysis.sweeps.report import read_sweep, studies_in
from internal_rl.checksums import checksum_of, write_checked_json
from internal_rl.errors import ConfigError, StageConflictError, StageMissingError, StorageError
from internal_rl.stages.records import keep_records
from internal_rl.training.loop import run_stage
from internal_rl.training.stage_copies import copy_stage
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_stage
from tests.analysis.made_up_run import write_run, write_stage
from tests.stores import store
from tests.training.toy import make_stage


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("made_up")
    write_run(workdir)
    return workdir


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    run_stage(make_stage(12, seeds=(0, 1)), workdir)
    return workdir


def test_records_are_read_as_what_they_were_made_from(run, tmp_path):
    folder = tmp_path / "records"
    keep_records(run, folder)
    before, after = read_run(run), read_run(folder)
    assert before.keys() == after.keys()
    for stage, seeds in before.items():
        for own, kept in zip(seeds, after[stage], strict=True):
            assert (own.config, own.metrics, own.reads) == (kept.config, kept.metrics, kept.reads)
            assert own.artifacts.keys() == kept.artifacts.keys()
            for name, array in own.artifacts.items():
                np.testing.assert_array_equal(array, kept.artifacts[name])
    assert studies_in(folder) == studies_in(run) == ["rate_distortion"]
    own, kept = read_sweep(run, "rate_distortion"), read_sweep(folder, "rate_distortion")
    assert [x.name for x in own.runs] == [x.name for x in kept.runs] != []
    assert own.missing == kept.missing
    assert write_report(run, wall_seconds=1.0) == write_report(folder, wall_seconds=1.0)


def test_parameters_and_checkpoints_stay_behind_and_are_not_missed(trained, tmp_path):
    assert (trained / "toy/seed_0/params.msgpack").exists()
    assert keep_records(trained, tmp_path) == f"2 records in {tmp_path}, 2 of them new or changed"
    source, left = contents(trained / "toy/seed_0"), contents(tmp_path / "toy/seed_0")
    measured = {"config.json", "versions.json", "references.json", "metrics.jsonl", "artifacts.npz"}
    measured = measured & source.keys() | {"DONE"}
    assert {"config.json", "versions.json", "metrics.jsonl"} <= measured
    assert left.keys() == measured | {"RECORD", "checksums.json"}
    assert all(left[name] == source[name] for name in measured)
    kept, own = (StageDirectory(folder, "toy", 0) for folder in (tmp_path, trained))
    assert kept.parameters_checksum == own.parameters_checksum == checksum_of(own.params_file())
    assert not any(path.is_dir() for path in (tmp_path / "toy/seed_0").iterdir())
    faults = []
    assert len(read_run(tmp_path, faults=faults)["toy"]) == 2
    assert not faults


def test_records_on_different_base_models_are_not_gathered(tmp_path):
    base = {"base": {"width": 4}, "pretrain": {"steps": 1}}

    def write(machine, stage, seed, parameters, **sections):
        reads = None if stage == "pretrain" else {"pretrain": 0}
        write_stage(
            tmp_path / machine, stage, seed, base | sections, [(1, {"loss": 1.0})], reads=reads
        )
        directory = StageDirectory(tmp_path / machine, stage, seed)
        if reads is None:
            directory.save_params({"x": np.float32(parameters)})
            return directory.parameters_checksum
        stored = json.loads((directory.path / "config.json").read_text())
        write_checked_json(
            directory.path / "config.json", stored | {"parameters_read": {"pretrain": parameters}}
        )
        return parameters

    first = write("first", "pretrain", 0, 1.0)
    write("first", "metacontroller", 0, first, metacontroller={"alpha": 1})
    write("first", "steer_5", 0, "of an age", steer={"base_step": 5})
    write("same", "metacontroller", 1, first, metacontroller={"alpha": 1})
    other = write("other", "pretrain", 0, 2.0)
    write("other", "metacontroller", 1, other, metacontroller={"alpha": 1})
    write("study/sweep/s/run", "metacontroller", 1, other, metacontroller={"alpha": 2})
    keep_records(tmp_path / "first", tmp_path / "records")
    keep_records(tmp_path / "same", tmp_path / "records")
    before = contents(tmp_path / "records")
    for machine in ("other", "study"):
        with pytest.raises(StageConflictError, match="on other parameters of pretrain, seed 0, th"):
            keep_records(tmp_path / machine, tmp_path / "records")
    assert contents(tmp_path / "records") == before


def write_reader(workdir, stage, config, read, seed=0):
    """A made-up stage that was made with parameters of an earlier one, seed 0 of each."""
    reads = dict.fromkeys(read, 0)
    write_stage(workdir, stage, seed, config, [(1, {"loss": 1.0})], reads=reads)
    directory = StageDirectory(workdir, stage, seed)
    file = directory.path / "config.json"
    stored = json.loads(file.read_text())
    write_checked_json(file, stored | {"parameters_read": read})


def write_codes(workdir, stage, config, parameters, seed=0):
    """A made-up metacontroller; the checksum of its parameters."""
    write_stage(workdir, stage, seed, config, [(1, {"loss": 1.0})], reads={"pretrain": 0})
    directory = StageDirectory(workdir, stage, seed)
    directory.save_params({"x": np.float32(parameters)})
    return directory.parameters_checksum


@pytest.mark.parametrize("steps", [1, 2])
def test_policies_are_not_gathered_beside_another_metacontroller(tmp_path, steps):
    """With the same settings or since trained further: what tells is the parameters."""
    config = {"metacontroller": {"alpha": 0.1, "steps": 1, "variant": "discovered"}}
    forced = {"metacontroller": config["metacontroller"] | {"variant": "forced"}}
    first, other, records = (tmp_path / name for name in ("first", "other", "records"))
    told = write_codes(first, "metacontroller", config, 1.0)
    write_reader(first, "internal_rl", config, {"metacontroller": told, "pretrain": "of a base"})
    of_forced = write_codes(first, "metacontroller_forced", forced, 3.0)
    write_reader(first, "internal_rl_forced", forced, {"metacontroller": of_forced})
    assert keep_records(first, records).startswith("4 records")
    # Those of other seeds, of other folders and those that nothing is beside are not compared.
    write_codes(tmp_path / "more", "metacontroller", config, 9.0, seed=1)
    write_codes(tmp_path / "more/sweep/s/run", "metacontroller", config, 9.0)
    write_reader(tmp_path / "more/sweep/s/far", "internal_rl", config, {"metacontroller": told})
    assert keep_records(tmp_path / "more", records).startswith("3 records")
    config["metacontroller"]["steps"] = steps
    write_codes(other, "metacontroller", config, 2.0)
    before = contents(records)
    message = "internal_rl/seed_0: stands on other parameters of metacontroller, seed 0, than .*met"
    with pytest.raises(StageConflictError, match=message):
        keep_records(other, records)
    assert contents(records) == before


def test_a_record_that_was_altered_is_found(trained, tmp_path):
    keep_records(trained, tmp_path)
    file = tmp_path / "toy/seed_0/metrics.jsonl"
    file.write_text(file.read_text().replace("loss", "less"))
    faults = []
    read_run(tmp_path, faults=faults)
    assert any("metrics.jsonl" in fault for fault in faults)


def test_what_was_altered_is_not_recorded(trained, tmp_path):
    copy_stage(trained / "toy/seed_0", tmp_path / "run/toy/seed_0")
    file = tmp_path / "run/toy/seed_0/config.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(StorageError, match=r"config\.json: altered"):
        keep_records(tmp_path / "run", tmp_path / "records")
    assert contents(tmp_path / "records") == {}


def test_what_is_not_finished_is_left_out_and_other_records_stay(trained, tmp_path):
    keep_records(trained, tmp_path / "records")
    before = contents(tmp_path / "records")
    write_stage(tmp_path / "run", "probe", 0, {"probe": {}}, [(1, {"loss": 1.0})])
    write_stage(tmp_path / "run", "probe", 1, {"probe": {}}, [(1, {"loss": 1.0})])
    (tmp_path / "run/probe/seed_1/DONE").unlink()
    keep_records(tmp_path / "run", tmp_path / "records")
    after = contents(tmp_path / "records")
    assert before.items() <= after.items()
    added = {path.rpartition("/")[0] for path in after.keys() - before.keys()}
    assert added == {"probe/seed_0"}


def test_a_stage_that_was_trained_further_is_recorded_anew(trained, tmp_path):
    workdir, folder = tmp_path / "run", tmp_path / "records"
    run_stage(make_stage(12), workdir)
    assert "1 of them new" in keep_records(workdir, folder)
    assert "0 of them new" in keep_records(workdir, folder)
    run_stage(make_stage(16), workdir)
    assert "1 of them new" in keep_records(workdir, folder)
    assert json.loads((folder / "toy/seed_0/DONE").read_text()) == {"steps": 16}
    (results,) = read_run(folder)["toy"]
    assert results.last("step") == 16


def test_records_can_be_recorded(trained, tmp_path):
    keep_records(trained, tmp_path / "first")
    keep_records(tmp_path / "first", tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_records_lie_on_stores_too(trained, tmp_path, monkeypatch):
    keep_records(trained, tmp_path / "here")
    with store(monkeypatch, "gs") as objects:
        folder = "gs://bucket/records"
        keep_records(trained, folder)
        left = {name: objects[f"{folder}/{name}"] for name in contents(tmp_path / "here")}
        assert left == contents(tmp_path / "here")
        assert "0 of them new" in keep_records(trained, folder)
        keep_records(folder, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "here")


@pytest.mark.parametrize("steps", [12, 16])
def test_nothing_is_trained_in_records(trained, tmp_path, steps):
    keep_records(trained, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(StageConflictError, match="toy"):
        run_stage(make_stage(steps, seeds=(0, 1)), tmp_path)
    assert contents(tmp_path) == before


def test_parameters_of_a_record_are_missed_in_one_line(trained, tmp_path):
    keep_records(trained, tmp_path)
    with pytest.raises(StageMissingError, match="record of a finished stage, without its param"):
        load_stage(tmp_path, "toy", 0)


def test_stages_are_never_taken_for_records(trained, run, tmp_path):
    with pytest.raises(ConfigError, match="--records: .* is the work directory"):
        keep_records(trained, trained)
    copy_stage(trained / "toy/seed_0", tmp_path / "toy/seed_0")
    before = contents(tmp_path)
    with pytest.raises(StageConflictError, match="a stage has been run here"):
        keep_records(trained, tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="no finished stage"):
        keep_records(tmp_path / "empty", tmp_path / "records")
