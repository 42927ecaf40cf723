"""The code policy: starts at the prior, its two forms agree, idle rows keep their state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.models.policy import MAX_STD, CodePolicy

BATCH, LENGTH, INPUT = 4, 7, 6


@pytest.fixture(scope="module")
def inputs():
    residual = 3 * jax.random.normal(jax.random.key(0), (BATCH, LENGTH, INPUT))
    mask = jnp.arange(LENGTH) < jnp.array([7, 3, 1, 5])[:, None]
    return residual, mask


def make(output_init_scale):
    return CodePolicy(3, 16, 4, 16, init_scale=1.0, output_init_scale=output_init_scale)


def test_untrained_policy_is_close_to_the_prior_of_the_codes(inputs):
    residual, mask = inputs
    policy = CodePolicy(code_size=8)
    mean, log_std = jax.jit(policy.apply)(
        jax.jit(policy.init)(jax.random.key(1), residual, mask), residual, mask
    )
    assert np.abs(mean).max() < 0.1 and np.abs(log_std).max() < 0.1


@pytest.mark.parametrize("min_std", [0.05, 0.19])
@pytest.mark.parametrize("initial_std", [0.2, 1.0, 2.0, 15.0])
def test_untrained_policy_has_the_deviation_that_was_asked_for(inputs, initial_std, min_std):
    residual, mask = inputs
    policy = CodePolicy(code_size=8, initial_std=initial_std, min_std=min_std)
    mean, log_std = jax.jit(policy.apply)(
        jax.jit(policy.init)(jax.random.key(1), residual, mask), residual, mask
    )
    assert np.abs(mean).max() < 0.1
    np.testing.assert_allclose(np.exp(log_std), initial_std, rtol=0.1)


@pytest.mark.parametrize("initial_std", [0.04, 21.0])
def test_a_deviation_out_of_bounds_is_refused(inputs, initial_std):
    with pytest.raises(
        ValueError, match="initial_std: .* given, .* above min_std = 0.050 and below 20.086"
    ):
        jax.jit(CodePolicy(code_size=8, initial_std=initial_std).init)(jax.random.key(1), *inputs)


@pytest.mark.parametrize("min_std", [0.0, -0.1, 21.0])
def test_a_smallest_deviation_out_of_bounds_is_refused(inputs, min_std):
    with pytest.raises(ValueError, match="min_std: .* given, allowed is above 0 and below 20.086"):
        jax.jit(CodePolicy(code_size=8, min_std=min_std).init)(jax.random.key(1), *inputs)


def test_step_form_agrees_with_parallel_form_when_rows_pause(inputs):
    residual, mask = inputs
    policy = make(output_init_scale=1.0)
    params = jax.jit(policy.init)(jax.random.key(1), residual, mask)
    mean, log_std = jax.jit(policy.apply)(params, residual, mask)
    state = policy.initial_state(BATCH)
    index = np.zeros(BATCH, int)
    rng = np.random.default_rng(0)
    while (index < mask.sum(axis=1)).any():
        active = (index < mask.sum(axis=1)) & (rng.random(BATCH) < 0.5)
        read = residual[np.arange(BATCH), np.minimum(index, LENGTH - 1)]
        # A row that does not decide must not be moved by what it reads.
        read = jnp.where(active[:, None], read, 1e3)
        new_mean, new_log_std, state = policy.apply(params, read, state, active, method="step")
        for b in np.flatnonzero(active):
            np.testing.assert_allclose(new_mean[b], mean[b, index[b]], atol=1e-5)
            np.testing.assert_allclose(new_log_std[b], log_std[b, index[b]], atol=1e-5)
        index += active


@pytest.mark.parametrize("min_std", [0.05, 0.3])
def test_deviations_are_bounded(inputs, min_std):
    residual, mask = inputs
    policy = make(output_init_scale=1e6).clone(min_std=min_std)
    _, log_std = jax.jit(policy.apply)(
        jax.jit(policy.init)(jax.random.key(1), residual, mask), residual, mask
    )
    std = np.exp(log_std)
    np.testing.assert_allclose([std.min(), std.max()], [min_std, MAX_STD], rtol=1e-3)
