"""What the metacontroller's training changes from update to update."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import gridworld
from experiments.metacontroller import alpha_schedule, gate_floor_schedule


def config_with(**fields):
    config = gridworld.get_config("smoke")
    config.metacontroller.update(fields)
    return config


def values(schedule, config, steps):
    return np.array([schedule(config, jnp.int32(step)) for step in steps])


@pytest.mark.parametrize(
    ("start", "expected"),
    [(0.0, [0, 0, 0.0, 0.15, 0.3, 0.3]), (0.03, [0, 0, 0.03, 0.0948683, 0.3, 0.3])],
)
def test_alpha_is_free_then_rises_then_stays(start, expected):
    config = config_with(alpha=0.3, alpha_start=start, alpha_free_steps=10, alpha_ramp_steps=20)
    found = values(alpha_schedule, config, (0, 9, 10, 20, 30, 99))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("open_steps", "release", "expected"),
    [
        (0, 0, [0, 0, 0, 0, 0]),
        (0, 20, [1, 0.5, 0.25, 0, 0]),
        (10, 20, [1, 1, 0.75, 0, 0]),
        (10, 0, [1, 0, 0, 0, 0]),
    ],
)
def test_gates_are_held_open_then_released(open_steps, release, expected):
    config = config_with(gate_open_steps=open_steps, gate_release_steps=release)
    found = values(gate_floor_schedule, config, (0, 10, 15, 30, 99))
    np.testing.assert_allclose(found, expected, atol=1e-6)
