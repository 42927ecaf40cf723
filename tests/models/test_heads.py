"""Distributions of the two heads against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.models import heads
from internal_rl.types import ActionSpec, ObservationSpec

GAUSSIAN = ActionSpec("gaussian", 3)


def log_density(action, mean, std):
    """Of a normal distribution, summed over the last axis."""
    density = np.exp(-((action - mean) ** 2) / (2 * std**2)) / np.sqrt(2 * np.pi * std**2)
    return np.log(density).sum(-1)


@pytest.fixture
def gaussian():
    rng = np.random.default_rng(0)
    mean, log_std = rng.normal(size=(5, 3)), rng.uniform(-4.0, 1.0, size=(5, 3))
    action = mean + 2 * np.exp(log_std) * rng.normal(size=mean.shape)
    return mean, log_std, action


def test_gaussian_actions_have_their_density(gaussian):
    mean, log_std, action = gaussian
    found = heads.action_log_prob(GAUSSIAN, np.concatenate([mean, log_std], -1), action)
    expected = log_density(action, mean, np.exp(log_std))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_least_standard_deviation_replaces_smaller_ones(gaussian):
    mean, log_std, action = gaussian
    parameters = np.concatenate([mean, log_std], -1)
    found = heads.action_log_prob(GAUSSIAN, parameters, action, 0.2)
    expected = log_density(action, mean, np.maximum(np.exp(log_std), 0.2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    # Below it nothing is gained by making a deviation still smaller.
    gradient = jax.grad(lambda x: jnp.sum(heads.action_log_prob(GAUSSIAN, x, action, 0.2)))(
        jnp.asarray(parameters)
    )[:, 3:]
    np.testing.assert_array_equal(np.asarray(gradient == 0), np.exp(log_std) < 0.2)
    assert 0 < np.mean(np.exp(log_std) < 0.2) < 1


def test_categorical_actions_have_no_deviation():
    logits, action = jnp.array([[0.0, 1.0, 2.0]]), jnp.array([2])
    expected = jax.nn.log_softmax(logits)[:, 2]
    for min_std in (0.0, 0.2):
        found = heads.action_log_prob(ActionSpec("categorical", 3), logits, action, min_std)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_binary_observations_have_the_probability_of_independent_coins():
    rng = np.random.default_rng(0)
    logits, bits = rng.normal(size=(5, 4)), rng.integers(0, 2, size=(5, 4), dtype=np.uint8)
    one = 1 / (1 + np.exp(-logits))
    expected = np.log(np.where(bits == 1, one, 1 - one)).sum(-1)
    spec = ObservationSpec("bernoulli", 4, np.uint8)
    found = heads.observation_log_prob(spec, jnp.asarray(logits, jnp.float32), bits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_real_observations_have_the_density_of_unit_variance(gaussian):
    mean, _, value = gaussian
    found = heads.observation_log_prob(ObservationSpec("gaussian", 3), jnp.asarray(mean), value)
    np.testing.assert_allclose(found, log_density(value, mean, 1.0), rtol=1e-4)


@pytest.mark.parametrize("spec", [ActionSpec("categorical", 6), GAUSSIAN])
def test_actions_have_the_shape_and_type_of_their_spec(spec):
    parameters = jax.random.normal(jax.random.key(0), (5, 6))
    assert heads.action_parameter_size(spec) == 6
    for action in (
        heads.sample_action(spec, parameters, jax.random.key(1)),
        heads.mode_action(spec, parameters),
    ):
        assert action.shape == (5, *spec.shape) and action.dtype == spec.dtype


def test_gaussian_actions_are_drawn_with_their_mean_and_deviation():
    mean, log_std = [2.0, -1.0, 0.5], [-2.0, 0.0, 1.0]
    parameters = jnp.tile(jnp.array(mean + log_std), (10_000, 1))
    action = np.asarray(heads.sample_action(GAUSSIAN, parameters, jax.random.key(2)))
    std = np.exp(log_std)
    np.testing.assert_allclose((action.mean(axis=0) - mean) / std, 0.0, atol=0.05)
    np.testing.assert_allclose(action.std(axis=0), std, rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(action.T), np.eye(3), atol=0.05)


def test_deviations_that_are_drawn_are_bounded_as_in_the_density():
    parameters = jnp.tile(jnp.array([0.0, 0.0, 0.0, -9.0, 0.0, 7.0]), (10_000, 1))
    action = np.asarray(heads.sample_action(GAUSSIAN, parameters, jax.random.key(3)))
    np.testing.assert_allclose(action.std(axis=0), np.exp([-5.0, 0.0, 2.0]), rtol=0.05)


def test_categorical_actions_are_drawn_as_often_as_they_are_probable():
    probability = np.array([0.1, 0.2, 0.7])
    logits = jnp.tile(jnp.log(probability) + 3.0, (10_000, 1))
    action = heads.sample_action(ActionSpec("categorical", 3), logits, jax.random.key(4))
    np.testing.assert_allclose(np.bincount(action) / 10_000, probability, atol=0.02)
