"""Stages over files: what a start that failed leaves, and weights that belong to something else."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import gridworld
from internal_rl.checksums import CHECKSUMS
from internal_rl.envs import world as worlds
from internal_rl.errors import ConfigError, DivergenceError, StorageError
from internal_rl.stages import catalogue, running
from internal_rl.stages.build import load_base, make_base
from internal_rl.stages.places import Places
from internal_rl.stages.seeds import for_each_seed
from internal_rl.stages.settings import Settings
from internal_rl.training.loop import run_stage
from internal_rl.training.metrics import MetricsWriter
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_stage
from tests.stages import toy_run
from tests.training.toy import make_stage

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def stages(monkeypatch):
    """Two stages that run in a second are known in these tests alone."""
    toy_run.register()
    for spec in toy_run.STAGES:
        monkeypatch.setitem(catalogue.STAGES, spec.name, spec)
    yield
    del worlds._ENTRIES[toy_run.WORLD]


def toy_settings(**sections):
    return Settings.read(toy_run.config_of(**sections))


def test_a_start_that_diverged_before_a_checkpoint_binds_nobody(stages, tmp_path):
    bad = toy_settings(early={"learning_rate": 1e38, "weight_decay": 1e6, "checkpoint_every": 4})
    with pytest.raises(DivergenceError, match="no checkpoint yet .* try a lower .*rate$"):
        running.run(bad, "early", Places(tmp_path, loggers=()))
    running.run(toy_settings(), "early", Places(tmp_path, loggers=()))
    _, config = load_stage(tmp_path, "early", 0)
    assert config["early"]["learning_rate"] == 0.1


def test_a_finished_stage_is_left_without_making_it(stages, tmp_path, monkeypatch):
    places = Places(tmp_path, loggers=())
    running.run(toy_settings(), "early", places)
    monkeypatch.setattr(running, "make_stage", lambda *_: pytest.fail("was made"))
    running.run(toy_settings(), "early", places)


def test_a_finished_seed_of_which_something_is_missing_is_worked_at_again(stages, tmp_path):
    settings, places = toy_settings(), Places(tmp_path, loggers=())
    worked = []

    def prepare(seed):
        def work(directory):
            worked.append(seed)
            (directory.path / "result").write_text("x")
            return 1

        return work

    def intact(directory):
        return (directory.path / "result").exists()

    for _ in range(2):
        for_each_seed(settings, places, "early", prepare, intact)
    assert worked == [0]
    (StageDirectory(tmp_path, "early", 0).path / "result").unlink()
    for_each_seed(settings, places, "early", prepare, intact)
    assert worked == [0, 0]


@pytest.fixture(scope="module")
def smoke():
    return Settings.read(gridworld.get_config("smoke"))


def finished_pretrain(settings, workdir, params):
    directory = StageDirectory(workdir, "pretrain", 0)
    directory.begin(settings.stage_config("pretrain"), [0])
    directory.save_params(params)
    directory.finish(settings.pretrain.steps)
    directory.release()
    return directory


def test_weights_of_another_stage_are_refused_by_their_shape(smoke, tmp_path):
    shapes = jax.eval_shape(make_base(smoke).initial_params, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    finished_pretrain(smoke, tmp_path / "good", params)
    load_base(smoke, Places(tmp_path / "good"), (0,))
    other = finished_pretrain(smoke, tmp_path / "other", {"params": {"probe": np.zeros((3, 4))}})
    for checked in (True, False):
        if not checked:
            (other.path / CHECKSUMS).unlink()
        message = "pretrain/seed_0/params.msgpack: not the weights of this model, .* has"
        with pytest.raises(StorageError, match=message):
            load_base(smoke, Places(tmp_path / "other"), (0,))


def test_an_age_that_the_training_does_not_come_to_is_refused_before_it_is_asked_for(tmp_path):
    config = gridworld.get_config("smoke")
    config.pretrain.snapshot_steps, config.probe.base_step = (4, 12), 12
    message = r"probe.base_step: 12 .* up to pretrain.steps = 8: \(4,\)"
    with pytest.raises(ConfigError, match=message):
        running.run_stages(config, tmp_path, ["probe"], log=False)
    config.probe.base_step = 0
    ages = [
        chosen.probe.base_step
        for name, chosen in catalogue.whole_run(Settings.read(config))
        if name == "probe"
    ]
    assert ages == [4, 0]


def start(*arguments):
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0, 4.0])
def test_ctrl_c_leaves_no_traceback_however_early(seconds, tmp_path):
    process = start(
        "experiments.pretrain", "--config=configs/gridworld.py:smoke", f"--workdir={tmp_path}/run"
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_no_traceback(tmp_path):
    process = start(
        "experiments.pretrain",
        "--config=configs/gridworld.py:smoke",
        f"--workdir={tmp_path}/run",
        "--config.pretrain.steps=100000",
    )
    metrics = tmp_path / "run" / "pretrain" / "seed_0" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_bytes():
        time.sleep(0.05)
    for _ in range(6):
        process.send_signal(signal.SIGINT)
        time.sleep(0.03)
    _, told = process.communicate()
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in told


def test_a_removed_directory_is_noticed_with_the_next_line(tmp_path, monkeypatch):
    lines = []

    def remove(writer, step, *_):
        lines.append(step)
        if step == 8:
            shutil.rmtree(tmp_path / "toy")

    monkeypatch.setattr(MetricsWriter, "write", remove)
    with pytest.raises(StorageError, match="was removed while the stage was running"):
        run_stage(make_stage(400, log_every=4, checkpoint_every=400), tmp_path)
    assert lines == [4, 8]


@pytest.mark.slow
def test_a_work_directory_removed_while_it_runs_is_one_line(tmp_path):
    process = start(
        "experiments.pretrain",
        "--config=configs/gridworld.py:smoke",
        f"--workdir={tmp_path}/run",
        "--config.pretrain.steps=100000",
    )
    seed = tmp_path / "run" / "pretrain" / "seed_0"
    while not (seed / "metrics.jsonl").exists():
        time.sleep(0.05)
    seed.rename(tmp_path / "away")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2, told
    lines = [line for line in told.splitlines() if line[:1] not in "IW"]
    assert len(lines) == 1 and "was removed while the stage was running" in lines[0], told
    assert json.loads((tmp_path / "away" / "config.json").read_text())["seeds"] == [0]
