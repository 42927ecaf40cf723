"""Products in bfloat16: near those in float32, with everything else as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.backend import product_dtype, resolved_precision, traced_for
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.types import ActionSpec, ObservationSpec
from tests.parameters import drawn

LENGTH = 24


@pytest.fixture(scope="module", params=["transformer", "hawk"])
def case(request):
    """A base model with products in bfloat16, its parameters, and rows."""
    base = BaseModel(
        ObservationSpec("gaussian", 5),
        ActionSpec("gaussian", 2),
        BaseConfig(block=request.param, width=32, depth=2, num_heads=2, mlp_size=64, init_scale=1),
        max_length=LENGTH,
        dtype=jnp.bfloat16,
    )
    observation = np.random.default_rng(1).normal(size=(3, LENGTH, 5)).astype(np.float32)
    return base, jax.device_put(drawn(base.initial_params)), observation


def test_auto_is_bfloat16_on_accelerators_alone():
    assert resolved_precision("auto") == "float32"
    assert product_dtype("auto") is None
    with traced_for("tpu"):
        assert resolved_precision("auto") == "bfloat16"
        assert resolved_precision("float32") == "float32"
    assert product_dtype("bfloat16") == jnp.bfloat16


def test_parameters_and_action_head_stay_float32_and_outputs_are_near(case):
    base, params, observation = case
    segment = np.zeros(observation.shape[:2], np.int32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    half, full = (
        jax.jit(model.apply)(params, observation, segment)
        for model in (base, base.clone(dtype=None))
    )
    assert half.action.dtype == jnp.float32
    half_action, full_action = np.asarray(half.action), np.asarray(full.action)
    scale = np.abs(full_action).max()
    difference = np.abs(half_action - full_action).max()
    assert 0 < difference < 0.03 * scale
    lower = jax.jit(lambda params: base.apply(params, observation, segment, 1, method="lower"))
    residual = lower(params)
    assert residual.dtype == jnp.float32


def test_gradients_are_float32_and_near(case):
    base, params, observation = case
    segment = np.zeros(observation.shape[:2], np.int32)

    def gradient(base):
        def loss(params):
            return jnp.sum(base.apply(params, observation, segment).action ** 2)

        return jax.device_get(jax.jit(jax.grad(loss))(params))

    half, full = gradient(base), gradient(base.clone(dtype=None))
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert a.dtype == jnp.float32
        assert np.linalg.norm(a - b) <= 0.05 * np.linalg.norm(b)


def test_step_form_agrees_with_the_parallel_form(case):
    base, params, observation = case
    segment = np.zeros(observation.shape[:2], np.int32)
    expected = np.asarray(jax.jit(base.apply)(params, observation, segment).action)
    state, found = base.initial_state(3), []

    @jax.jit
    def advance(observation, state):
        residual, state = base.apply(params, observation, state, 1, method="lower_step")
        output, state = base.apply(params, residual, state, 1, method="upper_step")
        return output.action, state

    for step in range(LENGTH):
        action, state = advance(observation[:, step], state)
        found.append(action)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.stack(found, 1), expected, atol=0.03 * scale)
