"""Episodes that several devices share are those that one device plays."""

import subprocess
import sys

import numpy as np
import pytest

from tests.acting import shared_episodes
from tests.devices import several_devices
from tests.training.test_loop import ROOT


@pytest.mark.slow
def test_four_devices_play_the_episodes_of_one(tmp_path):
    file = tmp_path / "four.npz"
    command = [sys.executable, "-m", "tests.acting.shared_episodes", file]
    subprocess.run(command, cwd=ROOT, check=True, env=several_devices(4))
    with np.load(file) as found:
        four = dict(found)
    one = shared_episodes.run()
    assert (four.pop("devices"), one.pop("devices")) == (4, 1)
    assert set(four) == set(one) and one["held"].any() and len(one["active"]) == 10
    for name, values in one.items():
        np.testing.assert_allclose(four[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
