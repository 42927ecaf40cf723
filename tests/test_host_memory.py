"""Freed memory stays with the process, and only where nobody asked for something else."""

import subprocess
import sys

import pytest

from internal_rl import host_memory

# Page faults that a freed and renewed array of 64 MiB costs.
PROBE = """
import resource
import {module}
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23)
before = faults()
for _ in range(10):
    np.ones(2**23)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone")
def test_renewed_arrays_cost_no_page_faults():
    def probe(module):
        command = [sys.executable, "-c", PROBE.format(module=module)]
        return int(subprocess.check_output(command, env={"JAX_PLATFORMS": "cpu"}, text=True))

    # How many it costs otherwise depends on the huge pages that the kernel has left.
    assert 10 * probe("internal_rl") < probe("os")


def test_settings_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert host_memory.keep_host_memory() == (
        "host memory: MALLOC_TRIM_THRESHOLD_ from the environment"
    )
