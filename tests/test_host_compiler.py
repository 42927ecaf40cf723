"""The guard against wrong numbers of XLA's CPU compiler."""

import os
import subprocess
import sys

import pytest

from internal_rl import host_compiler
from internal_rl.training.program import Program
from tests.training.toy import make_stage

PROGRAM = """
import internal_rl
import jax
import numpy as np

x = jax.random.normal(jax.random.key(0), (32, 20, 16))
c = jax.random.normal(jax.random.key(1), (8, 32, 20, 16))
project = jax.jit(lambda x, c: c - (x * c).sum(-1, keepdims=True) * x)
x64, c64 = np.asarray(x, np.float64), np.asarray(c, np.float64)
expected = c64 - (x64 * c64).sum(-1, keepdims=True) * x64
print(np.abs(project(x, c) - expected).max())
"""


def test_a_reduction_over_a_broadcast_input_is_right():
    settings = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {k: v for k, v in os.environ.items() if k not in settings}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"JAX_PLATFORMS": "cpu"},
    )
    assert float(result.stdout) < 1e-3


@pytest.fixture
def host(monkeypatch):
    """A host whose jaxlib and flags can be set; XLA_FLAGS is put back afterwards."""

    def make(version, flags, started=False):
        monkeypatch.setattr(host_compiler.importlib.metadata, "version", lambda _: version)
        monkeypatch.setattr(host_compiler, "backend_is_initialised", lambda: started)
        monkeypatch.setattr(host_compiler, "_at_risk", [])
        monkeypatch.setenv("XLA_FLAGS", flags)

    return make


def test_option_is_added_to_the_users_flags_and_never_twice(host):
    host("0.10.2", "--mine=1")
    host_compiler.guard_host_compiler()
    assert os.environ["XLA_FLAGS"] == f"--mine=1 {host_compiler.OPTION}="
    host_compiler.guard_host_compiler()
    assert os.environ["XLA_FLAGS"].count(host_compiler.OPTION) == 1


def test_other_versions_are_left_alone(host):
    host("0.99.0", "--mine=1")
    host_compiler.guard_host_compiler()
    assert os.environ["XLA_FLAGS"] == "--mine=1"


def test_a_started_jax_is_not_touched_and_training_on_it_warns_once(host, caplog):
    host("0.10.2", "", started=True)
    host_compiler.guard_host_compiler()
    assert os.environ["XLA_FLAGS"] == ""
    assert not caplog.records
    Program(make_stage())
    Program(make_stage())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "import internal_rl first" in caplog.text
