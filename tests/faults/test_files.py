"""Files of a stage that are damaged, altered or missing: one line whose advice works."""

import json
import re
import shutil

import numpy as np
import pytest
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from internal_rl.analysis.results import read_run
from internal_rl.errors import StageMissingError, StorageError, UserError
from internal_rl.files import read_record
from internal_rl.training.loop import run_stage
from internal_rl.training.metrics import MetricsWriter, read_metrics
from internal_rl.training.stage_results import load_artifacts, load_stage
from internal_rl.training.weights import check_weights, load_weights, save_weights
from tests.training.test_loop import assert_same_params, folder, metrics_without_seconds
from tests.training.toy import make_stage


def stage(num_steps=16, **more):
    return make_stage(
        num_steps,
        snapshot_steps=(4,),
        references=lambda: {"noise": 0.25},
        artifacts=lambda state, frozen: {"target": frozen["target"]},
        **more,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    run_stage(stage(), workdir)
    return workdir


@pytest.fixture
def workdir(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def one_line(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["params.msgpack", "snapshots/params_4.msgpack"])
def test_one_bit_of_weights_is_found(name, workdir):
    flip(folder(workdir) / name)
    step = 4 if "snapshots" in name else None
    told = one_line(lambda: load_stage(workdir, "toy", 0, step=step, command="this"))
    assert re.search(rf"{name}: altered since it was written, .*; remove .* and run: this", told)


def test_the_advice_for_altered_weights_works(workdir, finished):
    flip(folder(workdir) / "params.msgpack")
    told = one_line(lambda: load_stage(workdir, "toy", 0))
    assert "remove it and run" in told
    (folder(workdir) / "params.msgpack").unlink()
    with pytest.raises(StageMissingError, match="run: "):
        load_stage(workdir, "toy", 0)
    run_stage(stage(), workdir)
    assert_same_params(workdir, finished)
    assert (folder(workdir) / "DONE").exists()


def test_the_advice_for_altered_weights_without_a_checkpoint_works(workdir, finished):
    shutil.rmtree(folder(workdir) / "checkpoints")
    flip(folder(workdir) / "params.msgpack")
    told = one_line(lambda: load_stage(workdir, "toy", 0))
    advised = re.search(r"remove (\S+) and run", told).group(1)
    assert advised == str(folder(workdir))
    shutil.rmtree(advised)
    run_stage(stage(), workdir)
    assert_same_params(workdir, finished)


def test_weights_without_a_checksum_are_read_as_they_are(workdir, finished):
    for file in folder(workdir).rglob("checksums.json"):
        file.unlink()
    assert_same_params(workdir, finished)
    load_artifacts(workdir, "toy", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": np.float32([1, np.nan])}, "a is not finite"),
        ({"a": {"b": np.float32([np.inf])}}, "a.b is not finite"),
        ({"a": 3}, "a is no array"),
        (["a"], "not a file of weights"),
    ],
)
def test_weights_that_are_none_are_named(content, message, tmp_path):
    (tmp_path / "w.msgpack").write_bytes(serialization.msgpack_serialize(content))
    assert message in one_line(lambda: load_weights(tmp_path / "w.msgpack"))


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_any_bit_and_any_cut_is_found(tmp_path_factory, place, bit, cut):
    path = tmp_path_factory.mktemp("bits") / "w.msgpack"
    save_weights(path, {"a": np.arange(7, dtype=np.float32), "b": {"c": np.ones((2, 2))}})
    content = bytearray(path.read_bytes())
    place %= len(content)
    if cut:
        content = content[:place]
    else:
        content[place] ^= 1 << bit
    path.write_bytes(content)
    assert "altered since it was written" in one_line(lambda: load_weights(path))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": np.zeros(3)}, r"a has the shape \[3\], expected \[2\]"),
        ({}, r"a has the shape none, expected \[2\]"),
        ({"a": np.zeros(2), "b": np.zeros(1)}, r"b has the shape \[1\], expected none"),
    ],
)
def test_weights_of_another_model_are_named(params, message):
    told = one_line(lambda: check_weights(params, {"a": np.zeros(2)}, "params.msgpack of x"))
    assert re.search(rf"params.msgpack of x: not the weights of this model, {message}", told)


@pytest.mark.parametrize("content", ["[]", "{}", '{"steps": "8"}', "8", ""])
def test_a_damaged_mark_of_a_finished_stage_is_named_and_the_advice_works(content, workdir):
    file = folder(workdir) / "DONE"
    for checked in (True, False):
        if not checked:
            (folder(workdir) / "checksums.json").unlink()
        file.write_text(content)
        told = one_line(lambda: load_stage(workdir, "toy", 0))
        assert re.search("toy/seed_0/DONE: .*; remove it and run: ", told)
        file.unlink()
        run_stage(stage(), workdir)
        load_stage(workdir, "toy", 0)


def test_artifacts_that_are_altered_are_named_and_the_advice_works(workdir, finished):
    for checked in (True, False):
        if not checked:
            (folder(workdir) / "checksums.json").unlink()
        flip(folder(workdir) / "artifacts.npz")
        told = one_line(lambda: load_artifacts(workdir, "toy", 0))
        assert re.search("artifacts.npz: .*; remove it and DONE beside it", told)
        (folder(workdir) / "artifacts.npz").unlink()
        (folder(workdir) / "DONE").unlink()
        run_stage(stage(), workdir)
        ours, theirs = (load_artifacts(path, "toy", 0) for path in (workdir, finished))
        np.testing.assert_array_equal(ours["target"], theirs["target"])


def test_an_age_that_was_not_kept_is_told_with_those_that_were(workdir):
    told = one_line(lambda: load_stage(workdir, "toy", 0, step=10))
    assert "keeps no parameters of step 10; allowed are the ages 0 (its end) or one of [4]" in told


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", "null", '{"seeds": 1, "config": {}}'])
def test_a_config_of_the_wrong_structure_is_named(text, workdir):
    (folder(workdir) / "config.json").write_text(text)
    for call in (
        lambda: run_stage(stage(), workdir),
        lambda: load_stage(workdir, "toy", 0, config=stage().config),
        lambda: load_stage(workdir, "toy", 0),
    ):
        assert "config.json: damaged" in one_line(call)


@pytest.mark.parametrize("name", ["references.json", "versions.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"later": 3, "reference/noise": "x"}'])
def test_what_is_written_beside_is_named_and_the_advice_works(name, text, workdir):
    (folder(workdir) / name).write_text(text)
    told = one_line(lambda: run_stage(stage(24), workdir))
    assert re.search(f"{name}: (damaged|altered).*; remove it", told)
    (folder(workdir) / name).unlink()
    run_stage(stage(24), workdir)
    assert json.loads((folder(workdir) / name).read_text())


def test_a_damaged_line_of_metrics_loses_no_other_line(workdir, tmp_path):
    run_stage(stage(24), tmp_path / "long")
    metrics = folder(workdir) / "metrics.jsonl"
    lines = metrics.read_bytes().split(b"\n")
    lines[1] = lines[1][:5] + b"\xff" + lines[1][6:]
    metrics.write_bytes(b"\n".join(lines))
    for call in (
        lambda: read_metrics(folder(workdir)),
        lambda: read_run(workdir),
        lambda: run_stage(stage(24), workdir),
    ):
        assert "metrics.jsonl: line 2 is damaged; remove this line" in one_line(call)
    assert metrics.read_bytes() == b"\n".join(lines)
    metrics.write_bytes(b"\n".join([lines[0], *lines[2:]]))
    run_stage(stage(24), workdir)
    whole = metrics_without_seconds(tmp_path / "long")
    assert metrics_without_seconds(workdir) == [line for line in whole if line["step"] != 8]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_record_is_an_object_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "record.json"
    path.write_bytes(content)
    try:
        assert isinstance(read_record(path, {}), dict)
    except StorageError as error:
        assert str(error).startswith(f"{path}: damaged") and "\n" not in str(error)
    assert "record.json: damaged" in one_line(lambda: read_record(path, {"no such field": int}))


def test_a_record_that_is_nested_too_deep_is_one_line(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert "deep.json: damaged" in one_line(lambda: read_record(tmp_path / "deep.json", {}))


@settings(max_examples=150, deadline=None)
@given(lines=st.lists(JSON, max_size=5), last_step=st.integers(0, 5))
def test_lines_of_any_structure_are_read_or_named_and_none_is_lost(
    tmp_path_factory, lines, last_step
):
    path = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    good = [{"step": step + 1, "loss": 0.5} for step in range(3)]
    text = "".join(json.dumps(line) + "\n" for line in [*good[:2], *lines, good[2]])
    path.write_text(text)
    try:
        MetricsWriter(path.parent, 5).close()
    except StorageError as error:
        assert re.search(r"metrics.jsonl: line \d is damaged", str(error))
        assert path.read_text() == text
    else:
        assert [line for line in read_metrics(path.parent) if line in good] == good


@pytest.mark.parametrize("kept", ["nothing", "config", "snapshots"])
def test_a_start_that_came_to_nothing_binds_nobody(kept, tmp_path, finished):
    failed = stage(learning_rate=7.0, seeds=(0, 1))
    path = folder(tmp_path)
    path.mkdir(parents=True)
    if kept != "nothing":
        content = {"seeds": [0, 1], "config": failed.config.values}
        (path / "config.json").write_text(json.dumps(content))
        (path / "references.json").write_text('{"reference/noise": 9.0}')
        (path / "metrics.jsonl").write_text('{"step": 4, "loss": 9.0}\n')
    if kept == "snapshots":
        (path / "snapshots").mkdir()
        save_weights(path / "snapshots" / "params_12.msgpack", {"a": np.zeros(1)})
    run_stage(stage(), tmp_path)
    assert_same_params(tmp_path, finished)
    assert metrics_without_seconds(tmp_path) == metrics_without_seconds(finished)
    assert not (path / "snapshots" / "params_12.msgpack").exists()


def test_a_start_that_fails_while_it_is_traced_writes_nothing(tmp_path):
    good = stage()

    def broken(state, frozen):
        raise TypeError("shapes do not fit")

    for field in ("init", "update"):
        with pytest.raises(TypeError):
            run_stage(make_stage(16).__class__(**{**vars(good), field: broken}), tmp_path)
    assert not list(tmp_path.iterdir())
