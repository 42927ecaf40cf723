"""The objective of internal RL against NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.methods.reinforcement.objective import (
    OBJECTIVES,
    clipped_surrogate,
    trajectory_advantage,
)


def test_advantage_is_standardised_over_the_batch():
    returns = np.array([0.0, 1.0, 0.0, 0.0])
    expected = (returns - 0.25) / (np.sqrt(0.1875) + 1e-3)
    np.testing.assert_allclose(trajectory_advantage(jnp.asarray(returns)), expected, rtol=1e-5)


@pytest.mark.parametrize("number, value", [(8, 1.0), (41, 1.0), (1000, -200.0), (1024, 0.3)])
def test_equal_returns_give_no_advantage(number, value):
    """Though not every mean of equal numbers is that number."""
    found = trajectory_advantage(jnp.full(number, value, jnp.float32))
    np.testing.assert_array_equal(found, np.zeros(number))


def slow_surrogate(log_prob, old, advantage, mask, objective, clip=0.2):
    total = 0.0
    for b in range(log_prob.shape[0]):
        for k in range(log_prob.shape[1]):
            if mask[b, k]:
                ratio = np.exp(log_prob[b, k] - old[b, k])
                clipped = min(max(ratio, 1 - clip), 1 + clip)
                if objective == "ppo":
                    total -= min(ratio * advantage[b, k], clipped * advantage[b, k])
                else:
                    total -= min(ratio, clipped) * advantage[b, k]
    return total


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_surrogate_and_its_gradient_agree_with_loops_and_finite_differences(objective):
    rng = np.random.default_rng(0)
    old = rng.normal(size=(5, 7))
    log_prob = old + 0.3 * rng.normal(size=old.shape)
    advantage = rng.normal(size=old.shape)
    mask = rng.random(old.shape) < 0.7

    def loss(x):
        given = x, jnp.asarray(old), jnp.asarray(advantage), mask, 0.2
        return clipped_surrogate(*given, objective=objective).loss

    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(log_prob))
        np.testing.assert_allclose(
            value, slow_surrogate(log_prob, old, advantage, mask, objective), rtol=1e-6
        )
        for place in np.ndindex(old.shape):
            shift = np.zeros(old.shape)
            shift[place] = 1e-6
            slow = [
                slow_surrogate(log_prob + s * shift, old, advantage, mask, objective)
                for s in (1, -1)
            ]
            np.testing.assert_allclose(gradient[place], (slow[0] - slow[1]) / 2e-6, atol=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ratios_outside_the_region_are_counted_and_the_divergence_is_measured(objective):
    """Counted on both sides, whatever the advantage; the estimate is never negative."""
    ratio = np.array([[0.3, 0.69, 0.71, 0.9, 1.0], [1.29, 1.31, 1.33, 2.0, 9.0]])
    advantage = np.array([[-1.0, 1.0, -1.0, 1.0, -1.0], [1.0, -1.0, 1.0, -1.0, 1.0]])
    old = np.linspace(-3.0, 1.0, 10).reshape(2, 5)
    mask = np.ones((2, 5), bool)
    # One that would have been counted, too.
    mask[1, 4] = False
    given = (jnp.float32(x) for x in (old + np.log(ratio), old, advantage))
    found = clipped_surrogate(*given, jnp.asarray(mask), 0.3, objective=objective)
    # Two below the region of 0.7 to 1.3, three above it.
    assert found.clipped == 5 and found.decisions == 9
    divergence = (ratio - 1 - np.log(ratio))[mask]
    assert (divergence >= 0).all()
    np.testing.assert_allclose(found.divergence, divergence.sum(), rtol=1e-5)


def test_entries_outside_the_mask_have_no_influence():
    mask = jnp.array([[True, False]])
    values = [
        clipped_surrogate(jnp.array([[0.1, x]]), jnp.zeros((1, 2)), jnp.ones((1, 2)), mask, 0.2)
        for x in (0.0, 50.0)
    ]
    jax.tree.map(np.testing.assert_array_equal, values[0], values[1])
