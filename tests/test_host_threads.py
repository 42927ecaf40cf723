"""The guard against hangs of XLA's CPU runtime acts on small hosts alone and before jax starts."""

import logging
import os
import subprocess
import sys

import pytest

from internal_rl import host_threads
from internal_rl.envs.physics import mjx_physics


@pytest.fixture
def host(monkeypatch):
    """A host whose cores and jax can be set; NPROC is put back afterwards."""

    def make(cores, started=False, nproc=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(host_threads, "backend_is_initialised", lambda: started)
        monkeypatch.setattr(host_threads, "_at_risk", [])
        monkeypatch.setenv("NPROC", nproc or "")
        if nproc is None:
            monkeypatch.delenv("NPROC")

    return make


def test_a_small_host_gets_more_threads_than_cores_and_a_line_in_the_log(host, caplog):
    host(cores=2)
    with caplog.at_level(logging.INFO, "internal_rl"):
        message = host_threads.guard_host_threads()
    assert os.environ["NPROC"] == "4"
    assert "2 cores, NPROC set to 4" in message
    assert caplog.messages == [message]


@pytest.mark.parametrize("settings", [{"cores": 2, "nproc": "3"}, {"cores": 16}])
def test_the_users_choice_and_large_hosts_are_left_alone(host, settings):
    host(**settings)
    host_threads.guard_host_threads()
    assert os.environ.get("NPROC") == settings.get("nproc")


def test_a_guard_that_comes_too_late_warns_once_and_only_before_what_can_hang(host, caplog):
    host(cores=2, started=True)
    host_threads.guard_host_threads()
    assert "NPROC" not in os.environ
    assert not caplog.records  # a notebook that starts jax first is not frightened
    mjx_physics(frame_skip=1)
    mjx_physics(frame_skip=1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "import internal_rl first" in caplog.text


@pytest.mark.parametrize("factorisations", [1, 3])
def test_batched_factorisations_side_by_side_do_not_wait_for_ever(factorisations):
    code = (
        "import internal_rl, jax, jax.numpy as jnp\n"
        "def total(x):\n"
        f"    scales = range(3, 3 + {factorisations})\n"
        "    noise = jnp.sin(x)[:, None, None]\n"
        "    return sum(jnp.linalg.cholesky(k * jnp.eye(14) + noise).sum() for k in scales)\n"
        "run = jax.jit(total)\n"
        "for _ in range(30):\n"
        "    jax.block_until_ready(run(jnp.arange(8192.0)))\n"
    )
    small_host = {name: value for name, value in os.environ.items() if name != "NPROC"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=small_host)


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert host_threads.available_cores() == 8


def test_importing_the_package_starts_no_backend():
    code = (
        "import jax, internal_rl, internal_rl.training.loop\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
