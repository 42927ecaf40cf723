"""Every stage, killed at five random moments and started again, ends with the same bits."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from internal_rl.training.metrics import read_metrics
from tests.training.test_loop import ROOT

STAGES = ("pretrain", "probe", "steer", "metacontroller", "internal_rl", "raw_rl")
NUM_STEPS = 60
NUM_KILLS = 5


def command(stage, workdir):
    return [
        *(sys.executable, "-m", f"experiments.{stage}", "--config=configs/gridworld.py:smoke"),
        *(f"--config.{name}.steps={NUM_STEPS}" for name in STAGES if name == stage),
        f"--workdir={workdir}",
    ]


def run(stage, workdir):
    subprocess.run(command(stage, workdir), cwd=ROOT, check=True, stderr=subprocess.DEVNULL)


def start_and_kill(stage, workdir, num_lines):
    """Kills the stage a random moment after it has written so many lines of metrics."""
    metrics = workdir / stage / "seed_0" / "metrics.jsonl"
    process = subprocess.Popen(command(stage, workdir), cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= num_lines:
            time.sleep(random.uniform(0.0, 0.1))
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """A work directory in which the stages that others read are finished."""
    workdir = tmp_path_factory.mktemp("upstream")
    for stage in ("pretrain", "metacontroller"):
        smoke = [argument for argument in command(stage, workdir) if ".steps=" not in argument]
        subprocess.run(smoke, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_with_the_bits_of_an_undisturbed_one(stage, upstream, tmp_path):
    workdirs = {name: tmp_path / name for name in ("whole", "killed")}
    for workdir in workdirs.values():
        workdir.mkdir()
        for other in ("pretrain", "metacontroller"):
            if other != stage:
                os.symlink(upstream / other, workdir / other)
    run(stage, workdirs["whole"])
    num_lines = len(read_metrics(workdirs["whole"] / stage / "seed_0"))
    for moment in sorted(random.sample(range(1, num_lines), NUM_KILLS)):
        start_and_kill(stage, workdirs["killed"], moment)
    run(stage, workdirs["killed"])
    folders = [workdir / stage / "seed_0" for workdir in workdirs.values()]
    whole, killed = ((folder / "params.msgpack").read_bytes() for folder in folders)
    assert whole == killed
    whole, killed = ([{**x, "seconds": 0} for x in read_metrics(folder)] for folder in folders)
    assert whole == killed
