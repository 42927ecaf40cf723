"""Two processes with two devices each train what one process with four devices trains."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax._src import distributed

from internal_rl import hosts
from internal_rl.errors import ConfigError
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_results import load_stage
from tests.devices import several_devices
from tests.stores import Objects, address_of_server, use_store
from tests.training.test_loop import ROOT

NUM_STEPS = 40


def free_port():
    with socket.socket() as made:
        made.bind(("localhost", 0))
        return made.getsockname()[1]


def start_two(workdir, num_seeds, **environment):
    port = free_port()
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.training.toy_hosts", str(workdir)),
                *map(str, (NUM_STEPS, num_seeds, port, 2, number)),
            ],
            cwd=ROOT,
            env=several_devices(2) | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]


def finish(processes):
    for process in processes:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said[-3000:]


def params_and_curves(workdir, num_seeds):
    params = [load_stage(workdir, "toy", seed)[0] for seed in range(num_seeds)]
    lines = [read_metrics(f"{workdir}/toy/seed_{seed}") for seed in range(num_seeds)]
    return params, [[{**line, "seconds": 0} for line in found] for found in lines]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Two seeds, trained by two processes."""
    workdir = tmp_path_factory.mktemp("two")
    finish(start_two(workdir, 2))
    return workdir


def test_two_processes_train_what_one_trains(together, tmp_path):
    code = (
        "import sys; from tests.training.toy import make_stage;"
        " from internal_rl.training.loop import run_stage;"
        f" run_stage(make_stage({NUM_STEPS}, (0, 1), snapshot_steps=(8,)), sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, env=several_devices(4), capture_output=True)
    two, one = params_and_curves(together, 2), params_and_curves(tmp_path, 2)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), two, one)
    for seed in (0, 1):
        assert load_stage(together, "toy", seed, step=8)


@pytest.mark.slow
def test_one_is_killed_and_both_go_on_to_the_same_bits(together, tmp_path):
    processes = start_two(tmp_path, 2)
    checkpoint = tmp_path / "toy" / "seed_1" / "checkpoints" / "8"
    while not checkpoint.exists() and processes[0].poll() is None:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGKILL)
    for process in processes:
        process.kill()  # as the scheduler of a cluster does with what is left
        process.communicate()
    finish(start_two(tmp_path, 2))
    again, undisturbed = params_and_curves(tmp_path, 2), params_and_curves(together, 2)
    jax.tree.map(np.testing.assert_array_equal, again, undisturbed)


def test_two_processes_pass_over_a_damaged_checkpoint(together, tmp_path):
    shutil.copytree(together, tmp_path, dirs_exist_ok=True)
    for seed in (0, 1):
        folder = tmp_path / "toy" / f"seed_{seed}"
        for name in ("DONE", "params.msgpack"):
            (folder / name).unlink()
    steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    for file in (folder / "checkpoints" / str(steps[-1])).rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:-7])
    finish(start_two(tmp_path, 2))
    again, undisturbed = params_and_curves(tmp_path, 2), params_and_curves(together, 2)
    jax.tree.map(np.testing.assert_array_equal, again, undisturbed)
    for seed in (0, 1):
        aside = tmp_path / "toy" / f"seed_{seed}" / "damaged_checkpoints"
        assert [path.name for path in aside.iterdir()] == [f"{steps[-1]}_0"]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_with_a_checkpoint(together, tmp_path):
    processes = start_two(tmp_path, 2)
    metrics = tmp_path / "toy" / "seed_0" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes()) and processes[0].poll() is None:
        time.sleep(0.002)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate(timeout=60)
    if any(process.returncode == 0 for process in processes):
        pytest.skip("it had come to its end")
    assert [process.returncode for process in processes] == [143, 143]
    steps = [int(p.name) for p in metrics.parent.joinpath("checkpoints").iterdir()]
    assert max(steps) >= read_metrics(metrics.parent)[-1]["step"]
    finish(start_two(tmp_path, 2))
    again, undisturbed = params_and_curves(tmp_path, 2), params_and_curves(together, 2)
    jax.tree.map(np.testing.assert_array_equal, again, undisturbed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1", 0, -1), "all three or none"),
        (("", 2, 0), "all three or none"),
        (("auto", 2, 0), "'auto' given"),
        (("localhost:1", 2, 2), "--process_id: 2 given, allowed is 0 to 1"),
    ],
)
def test_flags_that_do_not_fit_are_named(given, message):
    with pytest.raises(ConfigError, match=message):
        hosts.connect(*given)


def test_one_process_alone_is_left_alone(monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    hosts.connect()
    assert not hosts.several() and hosts.is_first()
    assert hosts.any_of_all(True) and not hosts.of_first(False)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t1v-a,t1v-b"}, True),
    ],
)
def test_the_environment_tells_of_several_processes(variables, expected, monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hosts._several_in_environment() is expected


@pytest.mark.parametrize(
    ("tasks", "local", "own", "visible"),
    [
        # One process on a node has all of its devices, others one each, as jax would have it.
        ("1(x2)", "0", None, []),
        ("1", "0", None, []),
        ("8(x2)", "3", None, [3]),
        ("1(x2),3", "2", None, [2]),
        ("11(x2)", "10", None, [10]),
        ("1(x2)", "0", "4,5", [4, 5]),
    ],
)
@pytest.mark.parametrize("given", [(), ("node:1234", 2, 0)])
def test_a_process_alone_on_a_node_of_slurm_has_all_devices(
    tasks, local, own, visible, given, monkeypatch
):
    variables = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": local,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
    }
    if own:
        variables["JAX_LOCAL_DEVICE_IDS"] = own
    monkeypatch.delenv("JAX_LOCAL_DEVICE_IDS", raising=False)
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = []

    def initialize(*arguments, local_device_ids=None):
        # What jax makes of it, up to the point where processes look for each other.
        monkeypatch.setattr(distributed.config, "update", lambda *words: said.append(words))
        monkeypatch.setattr(distributed, "_jax", None)
        with contextlib.suppress(AttributeError):
            distributed.State().initialize(*arguments, local_device_ids=local_device_ids)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    hosts.connect(*given)
    chosen = {value for name, value in said if name == "jax_cuda_visible_devices"}
    assert chosen == ({",".join(map(str, visible))} if visible else set())


@pytest.mark.slow
def test_two_processes_train_on_a_store_and_go_on_after_a_kill(together, tmp_path, monkeypatch):
    objects = Objects(tmp_path)
    environment = {"STORE_OF_TESTS": str(tmp_path), **address_of_server(objects)}
    workdir = "gs://bucket/run"
    use_store(objects, "gs", monkeypatch.setitem, monkeypatch.setattr)
    processes = start_two(workdir, 2, **environment)
    while not any("/checkpoints/16/" in name for name in objects):
        assert processes[0].poll() is None, processes[0].communicate()[1][-3000:]
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.communicate()
    finish(start_two(workdir, 2, **environment))
    there, here = params_and_curves(workdir, 2), params_and_curves(together, 2)
    jax.tree.map(np.testing.assert_array_equal, there, here)
