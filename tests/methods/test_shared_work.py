"""Devices that share the work of an update find what one device finds, and exchange only sums."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.devices import several_devices
from tests.methods import shared_work
from tests.training.test_loop import ROOT

DRAW_CODES = ("metacontroller", "cotrained", "compile")
METHODS = ("pretrain", "probe", "steer", *DRAW_CODES, "internal_rl", "raw_rl")


def by_four_devices(file, num_seeds, *names):
    command = [sys.executable, "-m", "tests.methods.shared_work", file, str(num_seeds), *names]
    done = subprocess.run(
        command, cwd=ROOT, check=True, env=several_devices(4), capture_output=True, text=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    with np.load(file) as arrays:
        return dict(arrays), {line["method"]: line["collectives"] for line in lines}


def compare(found, num_seeds, *names):
    for name in names:
        expected = shared_work.run(name, num_seeds)[0]
        assert expected
        for key, value in expected.items():
            np.testing.assert_allclose(found[f"{name}/{key}"], value, 1e-4, 1e-5, err_msg=key)


def test_rows_shared_out_among_four_devices(tmp_path):
    found, collectives = by_four_devices(tmp_path / "four.npz", 1, "pretrain_alone")
    compare(found, 1, "pretrain_alone")
    # Where the stream stands.
    assert collectives["pretrain_alone"].count("all-gather") <= 1
    assert set(collectives["pretrain_alone"]) == {"all-gather", "all-reduce"}


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [1, 2, 4])
def test_every_method_shared_out_among_four_devices(tmp_path, num_seeds):
    # Codes are drawn by each device for itself.
    names = METHODS if num_seeds == 4 else tuple(n for n in METHODS if n not in DRAW_CODES)
    found, collectives = by_four_devices(tmp_path / "four.npz", num_seeds, *names)
    compare(found, num_seeds, *names)
    if num_seeds == 1:
        assert set(collectives["internal_rl"]) == {"all-reduce"}
    if num_seeds == 4:
        assert not any(collectives.values())
