"""The code policy: starts at the prior, its two forms agree, idle rows keep their state."""

import functools

import jax
import numpy as np
import pytest

from internal_rl.models.policy import MAX_STD, CodePolicy
from tests.parameters import drawn

BATCH, LENGTH, INPUT = 4, 7, 6


@pytest.fixture(scope="module")
def inputs():
    residual = 3 * np.random.default_rng(0).normal(size=(BATCH, LENGTH, INPUT)).astype(np.float32)
    mask = np.arange(LENGTH) < np.array([7, 3, 1, 5])[:, None]
    return residual, mask


@pytest.fixture(scope="module")
def untrained(inputs):
    """Initial parameters; those of the output layer alone depend on the deviations."""
    shared = jax.jit(CodePolicy(code_size=8).init)(jax.random.key(1), *inputs)["params"]

    def params(policy):
        own = jax.jit(lambda key: policy.init(key, *inputs)["params"]["output"])
        return {"params": shared | {"output": own(jax.random.key(1))}}

    return params


def test_untrained_policy_is_close_to_the_prior_of_the_codes(inputs, untrained):
    policy = CodePolicy(code_size=8)
    mean, log_std = jax.jit(policy.apply)(untrained(policy), *inputs)
    assert np.abs(mean).max() < 0.1 and np.abs(log_std).max() < 0.1


@pytest.mark.parametrize("min_std", [0.05, 0.19])
@pytest.mark.parametrize("initial_std", [0.2, 1.0, 2.0, 15.0])
def test_untrained_policy_has_the_deviation_that_was_asked_for(
    inputs, untrained, initial_std, min_std
):
    policy = CodePolicy(code_size=8, initial_std=initial_std, min_std=min_std)
    mean, log_std = jax.jit(policy.apply)(untrained(policy), *inputs)
    assert np.abs(mean).max() < 0.1
    np.testing.assert_allclose(np.exp(log_std), initial_std, rtol=0.1)


@pytest.mark.parametrize("initial_std", [0.04, 21.0])
def test_a_deviation_out_of_bounds_is_refused(inputs, initial_std):
    with pytest.raises(
        ValueError, match="initial_std: .* given, .* above min_std = 0.050 and below 20.086"
    ):
        policy = CodePolicy(code_size=8, initial_std=initial_std)
        jax.eval_shape(policy.init, jax.random.key(1), *inputs)


@pytest.mark.parametrize("min_std", [0.0, -0.1, 21.0])
def test_a_smallest_deviation_out_of_bounds_is_refused(inputs, min_std):
    with pytest.raises(ValueError, match="min_std: .* given, allowed is above 0 and below 20.086"):
        policy = CodePolicy(code_size=8, min_std=min_std)
        jax.eval_shape(policy.init, jax.random.key(1), *inputs)


def test_step_form_agrees_with_parallel_form_when_rows_pause(inputs):
    residual, mask = inputs
    policy = CodePolicy(3, 16, 4, 16)
    params = drawn(policy.init, *inputs)
    mean, log_std = jax.device_get(jax.jit(policy.apply)(params, *inputs))
    step = jax.jit(functools.partial(policy.apply, method="step"))
    state = policy.initial_state(BATCH)
    index = np.zeros(BATCH, int)
    rng = np.random.default_rng(0)
    while (index < mask.sum(axis=1)).any():
        active = (index < mask.sum(axis=1)) & (rng.random(BATCH) < 0.5)
        read = residual[np.arange(BATCH), np.minimum(index, LENGTH - 1)]
        # A row that does not decide must not be moved by what it reads.
        read = np.where(active[:, None], read, np.float32(1e3))
        new_mean, new_log_std, state = step(params, read, state, active)
        rows = np.flatnonzero(active)
        np.testing.assert_allclose(np.asarray(new_mean)[rows], mean[rows, index[rows]], atol=1e-5)
        new_log_std = np.asarray(new_log_std)[rows]
        np.testing.assert_allclose(new_log_std, log_std[rows, index[rows]], atol=1e-5)
        index += active


@pytest.mark.parametrize("min_std", [0.05, 0.3])
def test_deviations_are_bounded(inputs, min_std):
    policy = CodePolicy(3, 16, 4, 16, min_std=min_std)
    params = drawn(policy.init, *inputs)["params"]
    params["output"]["kernel"] *= 1e3
    _, log_std = jax.jit(policy.apply)({"params": params}, *inputs)
    std = np.exp(log_std)
    np.testing.assert_allclose([std.min(), std.max()], [min_std, MAX_STD], rtol=1e-3)
