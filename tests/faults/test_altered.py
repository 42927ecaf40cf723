"""Files of a stage whose content fits and is not what was written: found, and named."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

import internal_rl as irl
from internal_rl import pretrained
from internal_rl.analysis.results import read_run
from internal_rl.analysis.sweeps.report import LIST, folder_of, read_sweep, write_list
from internal_rl.checksums import CHECKSUMS, write_checked_json
from internal_rl.errors import StorageError
from internal_rl.files import storage_faults
from internal_rl.training.loop import run_stage
from internal_rl.training.metrics import MetricsWriter, read_metrics
from internal_rl.training.stage_results import load_artifacts, load_stage
from internal_rl.training.weights import load_weights, save_weights
from tests.faults.test_files import finished, flip, one_line, stage, workdir  # noqa: F401
from tests.training.test_loop import assert_same_params, folder, metrics_without_seconds


def replace(path, before, after):
    content = path.read_text()
    assert before in content
    path.write_text(content.replace(before, after, 1))


def unfinish(directory):
    for name in ("DONE", "params.msgpack", "artifacts.npz"):
        (directory / name).unlink()


def test_every_file_that_tells_something_has_a_checksum(workdir):  # noqa: F811
    known = json.loads((folder(workdir) / CHECKSUMS).read_text())
    there = {path.name for path in folder(workdir).iterdir() if path.is_file()}
    assert set(known) == there - {CHECKSUMS, ".lock"}
    assert known["metrics.jsonl"]["bytes"] == (folder(workdir) / "metrics.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("name", "before", "after", "remedy"),
    [
        ("config.json", "0.05", "0.06", "put back what it was, or choose another --workdir"),
        ("references.json", "0.25", "0.26", "remove it: it is computed again"),
        ("versions.json", '"num_devices": 1', '"num_devices": 3', "remove it: what is there now"),
    ],
)
def test_one_digit_is_found_where_it_is_read(name, before, after, remedy, workdir):  # noqa: F811
    replace(folder(workdir) / name, before, after)
    told = one_line(lambda: run_stage(stage(24), workdir))
    assert f"{folder(workdir) / name}: altered since it was written" in told and remedy in told


def test_one_digit_of_a_curve_is_named_and_the_run_goes_on(workdir, caplog):  # noqa: F811
    unfinish(folder(workdir))
    metrics = folder(workdir) / "metrics.jsonl"
    replace(metrics, '"step": 4', '"step": 3')
    told = one_line(lambda: read_metrics(folder(workdir)))
    assert f"{metrics}: altered since it was written" in told
    run_stage(stage(), workdir)
    assert any(f"{metrics}: altered" in text for text in caplog.messages)
    # It is what it is from here on.
    assert read_metrics(folder(workdir))[0]["step"] == 3


def test_a_curve_that_is_gone_is_named(workdir, caplog):  # noqa: F811
    unfinish(folder(workdir))
    (folder(workdir) / "metrics.jsonl").unlink()
    run_stage(stage(), workdir)
    assert any("metrics.jsonl: altered" in text for text in caplog.messages)


def test_the_advice_for_an_altered_curve_works(workdir, finished):  # noqa: F811
    replace(folder(workdir) / "metrics.jsonl", '"step": 4', '"step": 3')
    told = one_line(lambda: read_metrics(folder(workdir)))
    advised = re.search(r"remove (\S+) and run the stage toy again", told).group(1)
    assert advised == str(folder(workdir))
    shutil.rmtree(advised)
    run_stage(stage(), workdir)
    assert metrics_without_seconds(workdir) == metrics_without_seconds(finished)


def test_a_cut_between_two_notes_is_no_change(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 1.0}, 0.0)
        if step == 2:
            writer.flush()
    writer.close()
    assert len(read_metrics(tmp_path)) == 3
    MetricsWriter(tmp_path, 1).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]


def test_the_report_names_what_was_altered_and_what_is_missing(workdir):  # noqa: F811
    directory = folder(workdir)
    replace(directory / "versions.json", '"num_devices": 1', '"num_devices": 3')
    replace(directory / "metrics.jsonl", '"step": 4', '"step": 3')
    (directory / "DONE").write_text('{"steps": 17}')
    (directory / "artifacts.npz").unlink()
    faults = []
    assert read_run(workdir, faults=faults)["toy"][0].metrics
    for name, state in [
        ("versions.json", "altered"),
        ("metrics.jsonl", "altered"),
        ("DONE", "altered"),
        ("artifacts.npz", "is missing"),
    ]:
        assert any(f"{directory / name}: {state}" in fault for fault in faults), faults


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_seed_whose_settings_are_not_known_is_left_out_and_named(damage, workdir):  # noqa: F811
    file = folder(workdir) / "config.json"
    if damage == "altered":
        replace(file, "0.05", "0.06")
    else:
        file.unlink()
    faults = []
    assert read_run(workdir, faults=faults) == {}
    assert any(f"{file}: " in fault and damage in fault for fault in faults)
    assert str(file) in one_line(lambda: read_run(workdir))


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_damaged_checksums_are_told_with_one_advice_that_works(text, workdir, finished):  # noqa: F811
    sums = folder(workdir) / CHECKSUMS
    sums.write_text(text)
    for call in (
        lambda: load_stage(workdir, "toy", 0),
        lambda: load_artifacts(workdir, "toy", 0),
        lambda: run_stage(stage(24), workdir),
        lambda: read_run(workdir),
    ):
        told = one_line(call)
        assert f"{sums}: damaged" in told and told.count("remove") == 1, told
    sums.unlink()
    params, _ = load_stage(workdir, "toy", 0)
    assert_same_params(workdir, finished)
    load_artifacts(workdir, "toy", 0)


@pytest.mark.parametrize("name", ["params.msgpack", "references.json", "metrics.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_told_to_be_removed(name, workdir, finished):  # noqa: F811
    unfinish(folder(workdir))
    file = folder(workdir) / name
    file.unlink(missing_ok=True)
    file.mkdir()
    told = one_line(lambda: run_stage(stage(), workdir))
    assert f"{file}: " in told and "in the way: remove it and run the same command again" in told
    file.rmdir()
    run_stage(stage(), workdir)
    assert_same_params(workdir, finished)


def test_what_lies_outside_of_a_folder_is_not_told_to_be_removed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file: .* must be a writable folder"):  # noqa: SIM117
        with storage_faults(tmp_path / "file" / "run"):
            (tmp_path / "file" / "run").mkdir()


@pytest.mark.parametrize(
    "runs",
    [
        [3],
        [{}],
        [{"name": 1}],
        [{"name": "a", "stage": "b", "bases": {"x": "0"}}],
        [{"name": "a", "stage": "b", "bases": {"0": [0]}}],
        [None],
    ],
)
def test_a_list_of_runs_of_any_structure_is_named(runs, tmp_path):
    whole = {"name": "a", "stage": "b", "bases": {}, "labels": {}, "fields": {}}
    write_list(tmp_path, "study", [])
    listed = [
        run | (whole | run) if isinstance(run, dict) and len(run) > 1 else run for run in runs
    ]
    file = folder_of(tmp_path, "study") / LIST
    write_checked_json(file, {"study": "study", "runs": listed})
    told = one_line(lambda: read_sweep(tmp_path, "study"))
    assert f"{file}: damaged" in told and "run the same study again" in told
    file.write_text('{"study": "study", "runs": []} ')
    assert f"{file}: altered" in one_line(lambda: read_sweep(tmp_path, "study"))


@pytest.fixture
def installed(tmp_path):
    pretrained.install("gridworld-pinpad", "small", tmp_path)
    return tmp_path


def without_checksums(directory):
    (directory / CHECKSUMS).unlink()


def test_an_agent_of_weights_of_another_shape_is_refused(installed):
    for name in ("pretrain", "metacontroller"):
        file = installed / name / "seed_0" / "params.msgpack"
        params = load_weights(file)
        wider = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), params)
        save_weights(file, wider)
        told = one_line(lambda: irl.load(installed))
        assert f"{file}: not the weights of this model" in told and "--workdir" in told
        save_weights(file, params)
    irl.load(installed)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("environment", "name", "no such world"),
        ("environment", "no_such_field", 3),
        ("base", "width", "wide"),
        ("base", "width", 32),
        ("metacontroller", "layer", -1),
        ("metacontroller", "variant", []),
    ],
)
def test_an_agent_of_settings_that_cannot_be_is_refused(section, field, value, installed):
    directory = installed / "metacontroller" / "seed_0"
    without_checksums(directory)
    stored = json.loads((directory / "config.json").read_text())
    stored["config"][section][field] = value
    (directory / "config.json").write_text(json.dumps(stored))
    told = one_line(lambda: irl.load(installed))
    assert str(directory) in told or str(installed / "pretrain") in told


def test_an_agent_whose_weights_were_altered_names_the_command_that_made_them(installed):
    file = installed / "pretrain" / "seed_0" / "params.msgpack"
    flip(file)
    told = one_line(lambda: irl.load(installed))
    assert f"{file}: altered" in told
    assert "experiments.pretrain --config=configs/gridworld.py:small" in told
    assert f"--workdir={installed}, which" in told
