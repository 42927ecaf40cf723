"""The baselines against closed forms."""

import jax
import numpy as np
import pytest

from internal_rl.analysis import baselines
from internal_rl.types import Trajectory

NOISE = 0.1


def rows(seed, count=40, length=50):
    """Actions that are a linear function of the observation, plus noise."""
    rng = np.random.default_rng(seed)
    observation = rng.normal(size=(count, length, 3)).astype(np.float32)
    mean = observation @ np.array([[1.0, 0.0], [-0.5, 2.0], [0.0, 0.3]])
    action = (mean + NOISE * rng.normal(size=mean.shape)).astype(np.float32)
    mask = rng.random((count, length)) < 0.8
    action[~mask] = 1e3
    segment = np.zeros((count, length), np.int32)
    return Trajectory(observation, None, action, mask, segment, segment)


def test_constant_gaussian_has_the_entropy_of_the_actions():
    train, held_out = rows(0), rows(1)
    actions = train.action[train.mask]
    mean, std = actions.mean(0), actions.std(0)
    tested = held_out.action[held_out.mask]
    density = 0.5 * ((tested - mean) / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)
    nll = baselines.constant_gaussian_nll(train, held_out)
    np.testing.assert_allclose(nll, density.sum(1).mean(), rtol=1e-4)


def test_perceptron_comes_close_to_the_noise_but_not_below():
    entropy = 2 * (np.log(NOISE) + 0.5 * np.log(2 * np.pi * np.e))
    nll = baselines.one_step_nll(rows(0), rows(1), jax.random.key(0), 1_500)
    assert entropy - 0.1 < nll < entropy + 0.3


def test_both_are_named():
    found = baselines.action_baselines(rows(0), rows(1), jax.random.key(0), 5)
    assert set(found) == {"constant", "one_step"}
    assert found["one_step"] != pytest.approx(found["constant"])
