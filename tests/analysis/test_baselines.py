"""The baselines against closed forms."""

import jax
import numpy as np
import pytest

from internal_rl.analysis import baselines
from internal_rl.types import ActionSpec, Trajectory

NOISE = 0.1
CONTINUOUS, DISCRETE = ActionSpec("gaussian", 2), ActionSpec("categorical", 3)


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
    nll = baselines.constant_nll(CONTINUOUS, train, held_out)
    np.testing.assert_allclose(nll, density.sum(1).mean(), rtol=1e-4)


def test_perceptron_comes_close_to_the_noise_but_not_below():
    entropy = 2 * (np.log(NOISE) + 0.5 * np.log(2 * np.pi * np.e))
    nll = baselines.one_step_nll(CONTINUOUS, rows(0), rows(1), jax.random.key(0), 1_000)
    assert entropy - 0.1 < nll < entropy + 0.3


def test_both_are_named():
    found = baselines.action_baselines(CONTINUOUS, rows(0), rows(1), jax.random.key(0), 5)
    assert set(found) == {"constant", "one_step"}
    assert found["one_step"] != pytest.approx(found["constant"])


def discrete_rows(seed, count=40, length=50):
    """Binary observations; the first two bits tell the action in nine of ten tokens."""
    rng = np.random.default_rng(seed)
    observation = rng.integers(0, 2, (count, length, 4)).astype(np.uint8)
    action = (observation[..., 0] + observation[..., 1]).astype(np.int32)
    action = np.where(rng.random(action.shape) < 0.1, rng.integers(0, 3, action.shape), action)
    observation[..., 3] = seed  # never varies while training
    mask = rng.random((count, length)) < 0.8
    segment = np.zeros((count, length), np.int32)
    return Trajectory(observation, None, action.astype(np.int32), mask, None, segment)


def test_constant_distribution_has_the_frequencies_of_discrete_actions():
    train, held_out = discrete_rows(0), discrete_rows(1)
    counts = np.array([np.sum(train.action[train.mask] == a) for a in range(3)]) + 1
    expected = -np.log(counts / counts.sum())[held_out.action[held_out.mask]].mean()
    nll = baselines.constant_nll(DISCRETE, train, held_out)
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


def test_an_action_that_was_never_taken_has_a_finite_cost():
    train, held_out = discrete_rows(0), discrete_rows(1)
    train.action[train.action == 2] = 0
    assert np.isfinite(baselines.constant_nll(DISCRETE, train, held_out))


def test_perceptron_finds_what_the_present_observation_tells_of_discrete_actions():
    # The action that the bits name has 0.9 + 0.1 / 3, each other one 0.1 / 3.
    named, other = 0.9 + 0.1 / 3, 0.1 / 3
    entropy = -named * np.log(named) - 2 * other * np.log(other)
    train, held_out = discrete_rows(0), discrete_rows(1)
    nll = baselines.one_step_nll(DISCRETE, train, held_out, jax.random.key(0), 400)
    assert entropy - 0.1 < nll < entropy + 0.1
    assert nll < baselines.constant_nll(DISCRETE, train, held_out) - 0.3
