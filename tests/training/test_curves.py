"""Where curves go: loggers by name, the table of a run, and progress in a log file."""

import json
import logging
import os
import pathlib

import pytest

from internal_rl.errors import ConfigError, StageMissingError
from internal_rl.training import loggers, progress
from internal_rl.training.curves import curves
from internal_rl.training.loop import run_stage
from internal_rl.training.metrics import METRICS_FILE, MetricsWriter, read_metrics
from internal_rl.training.versions import package_versions, source_commit
from tests.training.toy import make_stage


def test_events_of_tensorboard_are_written_by_default_and_not_without(tmp_path):
    run_stage(make_stage(num_steps=8), tmp_path / "with")
    run_stage(make_stage(num_steps=8), tmp_path / "without", loggers=())
    assert len(list((tmp_path / "with/toy/seed_0/events").iterdir())) == 1
    assert not (tmp_path / "without/toy/seed_0/events").exists()


def test_a_logger_of_ones_own_takes_every_line_and_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "_LOGGERS", dict(loggers._LOGGERS))
    runs, lines, closed = [], [], []

    class Own:
        def __init__(self, run):
            runs.append(run)

        def write(self, step, values, wall_time):
            lines.append((step, set(values), wall_time > 0))

        def close(self):
            closed.append(True)

    loggers.register_logger("own", Own)
    stage = make_stage(num_steps=8, seeds=(0, 1))
    run_stage(stage, tmp_path, loggers=("own",))
    assert [run.directory.name for run in runs] == ["seed_0", "seed_1"] and len(closed) == 2
    assert runs[0].config == stage.config.values and runs[0].last_step == 0
    assert [step for step, _, _ in lines] == [4, 4, 8, 8]
    assert all({"loss", "seconds"} <= names and timed for _, names, timed in lines)


def test_an_unknown_logger_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="--loggers: 'csv' given, allowed are tensorboard, wandb"):
        run_stage(make_stage(num_steps=4), tmp_path, loggers=("csv",))


def test_wandb_writes_offline_and_goes_on_in_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_stage(make_stage(num_steps=8), tmp_path, loggers=("wandb",))
    folder = tmp_path / "toy" / "seed_0"
    name = (folder / "wandb_id").read_text()
    run_stage(make_stage(num_steps=16), tmp_path, loggers=("wandb",))
    files = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2 and all(name in file.name for file in files)
    assert all(b"gradient_norm" in file.read_bytes() for file in files)


def test_the_curves_of_a_run_are_one_table(tmp_path):
    pytest.importorskip("pandas")
    run_stage(make_stage(num_steps=8, seeds=(0, 1)), tmp_path)
    table = curves(tmp_path)
    assert list(table.step) == [4, 8, 4, 8] and list(table.seed) == [0, 0, 1, 1]
    line = json.loads((tmp_path / "toy/seed_1/metrics.jsonl").read_text().splitlines()[1])
    assert table.loss[3] == line["loss"]
    assert curves(tmp_path, "toy").equals(table)
    with pytest.raises(StageMissingError, match="no curves of moon, there are stages toy"):
        curves(tmp_path, "moon")


def test_lines_that_come_while_they_are_read_are_no_damage(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss": 0.5}, 0.0)
    read_bytes = pathlib.Path.read_bytes

    def read_before_more_comes(path):
        content = read_bytes(path)
        if path.name == METRICS_FILE and content.count(b"\n") == 1:
            writer.write(2, {"loss": 0.4}, 0.0)
            writer.flush()
        return content

    monkeypatch.setattr(pathlib.Path, "read_bytes", read_before_more_comes)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_a_log_file_gets_lines_with_the_figures_of_evaluations(caplog, capsys):
    caplog.set_level(logging.INFO)
    with progress.Progress(1_000, 0, "pretrain", "update") as shown:
        shown.advance(100)
        shown.tell({"loss": 0.5})
        shown.advance(100)
        shown.tell({"loss": 0.25, "evaluation/action_nll": 0.3125})
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("pretrain: 200 of 1,000 updates, ")
    assert caplog.messages[0].endswith(" min left: loss 0.25, action_nll 0.3125")
    assert "\r" not in capsys.readouterr().err


def test_the_last_line_is_always_told(caplog):
    caplog.set_level(logging.INFO)
    with progress.Progress(4, 3, "collect", "shard") as shown:
        shown.advance()
        shown.tell({})
    assert caplog.messages == ["collect: 4 of 4 shards"]


def test_versions_hold_the_commit_of_a_checkout(tmp_path):
    commit = package_versions()["commit"]
    assert commit == source_commit()
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    if os.path.exists(os.path.join(root, ".git")):
        assert len(commit.removesuffix("+changes")) == 40
