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
# By world: the stages that others read, and how often each stage is killed.
UPSTREAM = {
    "gridworld": ("pretrain", "metacontroller"),
    "ant": ("expert", "collect", "pretrain", "metacontroller"),
}
NUM_KILLS = {"gridworld": 5, "ant": 2}
NUM_STEPS = 60


def command(world, stage, workdir, *arguments):
    script = (sys.executable, "-m", f"experiments.{stage}", f"--config=configs/{world}.py:smoke")
    return [*script, f"--workdir={workdir}", *arguments]


def run(arguments):
    subprocess.run(arguments, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)


def start_and_kill(arguments, is_time):
    """Kills a script a random moment after `is_time()`, unless it has come to its end."""
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.01)
        if is_time():
            time.sleep(random.uniform(0.0, 0.1))
            process.send_signal(signal.SIGKILL)
            process.wait()


def same_metrics(folders):
    whole, killed = ([{**x, "seconds": 0} for x in read_metrics(folder)] for folder in folders)
    for lines in (whole, killed):
        for line in lines:
            # Speeds that brax measures.
            for name in [name for name in line if "sps" in name or "walltime" in name]:
                del line[name]
    assert whole == killed


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """`upstream(world)`: a work directory in which the stages that others read are finished."""
    made = {}

    def make(world):
        if world not in made:
            made[world] = tmp_path_factory.mktemp(f"upstream_{world}")
            for stage in UPSTREAM[world]:
                run(command(world, stage, made[world]))
        return made[world]

    return make


def two_workdirs(tmp_path, upstream, world, stage):
    workdirs = [tmp_path / name for name in ("whole", "killed")]
    for workdir in workdirs:
        workdir.mkdir()
        for other in UPSTREAM[world]:
            if other != stage:
                os.symlink(upstream(world) / other, workdir / other)
    return workdirs


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world", sorted(UPSTREAM))
def test_a_killed_stage_ends_with_the_bits_of_an_undisturbed_one(world, stage, upstream, tmp_path):
    workdirs = two_workdirs(tmp_path, upstream, world, stage)
    folders = [workdir / stage / "seed_0" for workdir in workdirs]
    whole, killed = (
        command(world, stage, workdir, f"--config.{stage}.steps={NUM_STEPS}")
        for workdir in workdirs
    )
    run(whole)
    num_lines = len(read_metrics(folders[0]))
    metrics = folders[1] / "metrics.jsonl"
    for moment in sorted(random.sample(range(1, num_lines), NUM_KILLS[world])):
        start_and_kill(
            killed,
            lambda moment=moment: metrics.exists() and metrics.read_bytes().count(b"\n") >= moment,
        )
    run(killed)
    params = [(folder / "params.msgpack").read_bytes() for folder in folders]
    assert params[0] == params[1]
    same_metrics(folders)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "sign", "results"),
    [
        ("expert", "checkpoints/round_0.msgpack", ["params.msgpack"]),
        ("collect", "pretraining/manifest.json", ["pretraining/manifest.json"]),
        ("collect", "clean/manifest.json", ["pretraining/manifest.json", "clean/manifest.json"]),
    ],
)
def test_a_killed_expert_or_collection_ends_with_the_same_bits(
    stage, sign, results, upstream, tmp_path
):
    workdirs = two_workdirs(tmp_path, upstream, "ant", stage)
    folders = [workdir / stage / "seed_0" for workdir in workdirs]
    run(command("ant", stage, workdirs[0]))
    killed = command("ant", stage, workdirs[1])
    start_and_kill(killed, lambda: (folders[1] / sign).exists())
    assert not (folders[1] / "DONE").exists()
    run(killed)
    for result in results:
        # The manifests hold the checksums of all shards.
        assert (folders[0] / result).read_bytes() == (folders[1] / result).read_bytes()
    same_metrics(folders)


@pytest.mark.slow
def test_an_expert_killed_behind_its_last_round_is_finished(tmp_path):
    run(command("ant", "expert", tmp_path))
    folder = tmp_path / "expert" / "seed_0"
    names = ("params.msgpack", "artifacts.npz", "metrics.jsonl")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in ("DONE", "params.msgpack", "artifacts.npz"):
        (folder / name).unlink()
    run(command("ant", "expert", tmp_path))
    assert {name: (folder / name).read_bytes() for name in names} == before
