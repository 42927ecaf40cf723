"""Products in bfloat16: near those in float32, with everything else as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.backend import product_dtype, resolved_precision, traced_for
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.compile import CompileConfig, make_compile
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.policy import CodePolicy
from internal_rl.models.steered_model import SteeredModel
from internal_rl.types import ActionSpec, ObservationSpec
from tests.parameters import drawn
from tests.products import HIGHEST, precisions_of, products_of

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


@pytest.fixture
def accelerator():
    with traced_for("tpu"):
        yield


def forms_of(base, params, observation):
    """The parallel form with its gradient, and a step."""
    segment = np.zeros(observation.shape[:2], np.int32)

    def learnt(params):
        return jax.grad(lambda params: base.apply(params, observation, segment).action.sum())(
            params
        )

    def step(params):
        state = base.initial_state(len(observation))
        residual, state = base.apply(params, observation[:, 0], state, 1, method="lower_step")
        return base.apply(params, residual, state, 1, method="upper_step")

    return [(learnt, params), (step, params)]


def test_products_of_float32_are_exact_on_accelerators(case, accelerator):
    base, params, observation = case
    for form in forms_of(base.clone(dtype=None), params, observation):
        assert precisions_of(*form) == {HIGHEST}


def test_beside_products_of_bfloat16_the_action_head_is_exact(case, accelerator):
    base, params, observation = case

    def heads(residual):
        return base.apply(params, residual, method="_heads")

    found = products_of(heads, jnp.zeros((3, base.width)))
    assert sorted(found, key=str) == [("bfloat16", None), ("float32", HIGHEST)]
    exact = [HIGHEST in precisions_of(*form) for form in forms_of(base, params, observation)]
    assert all(exact)


def test_the_position_bias_of_rows_is_that_of_steps(case, accelerator):
    base, params, _ = case
    if base.config.block != "transformer":
        pytest.skip("it has none")
    block = base._make_detached_block()
    params = {"params": params["params"]["block_1"]}

    def bias():
        return block.apply(params, LENGTH, method="_bias_by_distance")

    assert products_of(bias) == [("float32", HIGHEST)]


def test_cpus_are_told_nothing(case):
    base, params, observation = case
    for form in forms_of(base.clone(dtype=None), params, observation):
        assert {precision for _, precision in products_of(*form)} == {None}


def steered(dtype, codes):
    """A base model with these products and what steers it, with parameters."""
    spec = ObservationSpec("gaussian", 5), ActionSpec("gaussian", 2)
    base = BaseModel(*spec, BaseConfig(width=16, depth=2, num_heads=2, mlp_size=16), dtype=dtype)
    module = codes(base)
    params = (jax.device_put(drawn(part.initial_params)) for part in (base, module))
    return SteeredModel(base, 1, next(params), module, next(params))


def metacontroller(base):
    return Metacontroller(base.width, MetacontrollerConfig(rank=2))


STATE = jnp.zeros((2, 16)), jnp.zeros((2, 32)), jnp.zeros((2, 8))


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_gates_codes_and_their_policy_are_exact_on_accelerators(dtype, accelerator):
    model = steered(dtype, metacontroller)
    residual, history, code = STATE
    rows, segment = jnp.zeros((2, 64, 16)), jnp.zeros((2, 64), jnp.int32)

    def discover(params):
        def loss(params):
            steering = model.replace(metacontroller_params=params)
            return steering.discover(rows, segment, jax.random.key(0)).code.sum()

        return jax.grad(loss)(params)

    policy = CodePolicy(8, width=16, mlp_size=16)
    params = jax.device_put(drawn(lambda key: policy.initial_params(key, 16)))

    def decide(params):
        state = policy.initial_state(2)
        return policy.apply(params, residual, state, jnp.ones(2, bool), method="step")

    def learn(params):
        return jax.grad(lambda params: policy.apply(params, rows, segment)[0].sum())(params)

    for function, *inputs in (
        (discover, model.metacontroller_params),
        (model.switch, residual, history, code),
        (model.history_step, residual, history),
        (decide, params),
        (learn, params),
    ):
        assert precisions_of(function, *inputs) == {HIGHEST}


@pytest.mark.parametrize(("dtype", "expected"), [(None, HIGHEST), (jnp.bfloat16, None)])
def test_control_is_as_exact_as_the_blocks(dtype, expected, accelerator):
    model = steered(dtype, metacontroller)
    residual, _, code = STATE
    assert precisions_of(model.control, residual, code) == {expected}


def test_the_gate_of_compile_is_exact_too(accelerator):
    model = steered(jnp.bfloat16, lambda base: make_compile(base, 1, CompileConfig(rank=2)))
    rows, segment = jnp.zeros((2, 64, 16)), jnp.zeros((2, 64), jnp.int32)

    def logits(code):
        module, params = model.metacontroller, model.metacontroller_params
        return module.apply(params, rows, segment, code, method="gate_logits")

    assert precisions_of(logits, jnp.zeros((2, 64, 8))) == {HIGHEST}
