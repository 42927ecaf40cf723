"""Two processes with two devices each make of every stage what one with four devices makes."""

import random
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from benchmarks.faults import STAGES, command, differences
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_results import load_artifacts, load_stage
from tests.devices import several_devices
from tests.training.test_hosts import free_port
from tests.training.test_loop import ROOT

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# `expert` is for one process alone.
EVERY_STAGE = [(world, stage) for world in STAGES for stage in STAGES[world] if stage != "expert"]


def start(world, stage, workdir, upstream, num_processes, log):
    """The processes of a stage, which have four devices together."""
    port, processes = free_port(), []
    for number in range(num_processes):
        # Few updates: sums that are rounded otherwise drift apart.
        arguments = command(world, stage, workdir, upstream, num_steps=0)
        if num_processes > 1:
            arguments += [f"--coordinator=localhost:{port}", f"--num_processes={num_processes}"]
            arguments.append(f"--process_id={number}")
        with open(f"{log}_{number}", "w") as said:
            environment = several_devices(4 // num_processes)
            processes.append(subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=said))
    return processes


def finish(world, stage, workdir, upstream, num_processes, log):
    processes = start(world, stage, workdir, upstream, num_processes, log)
    codes = [process.wait(timeout=900) for process in processes]
    said = "".join(open(f"{log}_{number}").read()[-3000:] for number in range(num_processes))  # noqa: SIM115
    assert not any(codes), said


class Runs:
    """Stages by one process, and by two, made when they are asked for."""

    def __init__(self, folder):
        self._folder = folder
        self._made = set()

    def workdir(self, world, stage, num_processes):
        one = self._folder / f"{world}_one"
        workdir = one if num_processes == 1 else self._folder / f"{world}_two"
        order = STAGES[world][: STAGES[world].index(stage) + 1]
        inputs = ("expert", "collect", "pretrain", "metacontroller")
        for name in order:
            if name == stage or name in inputs:
                self._make(world, name, one, one, 1)
        if num_processes > 1:
            self._make(world, stage, workdir, one, num_processes)
        return workdir

    def _make(self, world, stage, workdir, upstream, num_processes):
        if (world, stage, num_processes) not in self._made:
            finish(world, stage, workdir, upstream, num_processes, self._folder / "said")
            self._made.add((world, stage, num_processes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("hosts"))


@pytest.mark.slow
@pytest.mark.parametrize(("world", "stage"), EVERY_STAGE)
def test_two_processes_make_of_a_stage_what_one_makes(world, stage, runs):
    one, two = (runs.workdir(world, stage, number) for number in (1, 2))
    folders = [workdir / stage / "seed_0" for workdir in (one, two)]
    if stage == "collect":
        assert differences(*folders) == []
        return
    lines = [read_metrics(folder) for folder in folders]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for whole, divided in zip(*lines, strict=True):
        for name in set(whole) - {"seconds"}:
            np.testing.assert_allclose(divided[name], whole[name], **CLOSE, err_msg=name)
    params = [load_stage(workdir, stage, 0)[0] for workdir in (one, two)]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, **CLOSE), *params)
    if (folders[0] / "artifacts.npz").exists():
        arrays = [load_artifacts(workdir, stage, 0) for workdir in (one, two)]
        assert set(arrays[0]) == set(arrays[1])


@pytest.mark.slow
@pytest.mark.parametrize(("world", "stage"), [s for s in EVERY_STAGE if s[1] != "collect"])
def test_one_is_killed_and_both_go_on_to_the_same_bits(world, stage, runs, tmp_path):
    whole = runs.workdir(world, stage, 2) / stage / "seed_0"
    upstream = runs.workdir(world, stage, 1)
    metrics = tmp_path / stage / "seed_0" / "metrics.jsonl"
    lines = random.uniform(0.1, 0.9) * len(read_metrics(whole))
    processes = start(world, stage, tmp_path, upstream, 2, tmp_path / "said")
    while all(process.poll() is None for process in processes):
        time.sleep(0.005)
        if metrics.exists() and metrics.read_bytes().count(b"\n") > lines:
            processes[1].send_signal(signal.SIGKILL)
            break
    for process in processes:
        process.kill()  # as the scheduler of a cluster does with what is left
        process.wait()
    finish(world, stage, tmp_path, upstream, 2, tmp_path / "said")
    assert differences(whole, metrics.parent) == []
