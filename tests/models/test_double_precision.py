"""With JAX_ENABLE_X64 nothing becomes wider: parameters, states and what lies between."""

import re

import jax
import jax.numpy as jnp
import pytest

from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.controllers import initial_controllers, steer
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.steered_model import SteeredModel
from internal_rl.types import ActionSpec, ObservationSpec


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def make_model(block, gate, embedding, rank):
    sizes = {"width": 8, "depth": 2, "num_heads": 2, "head_size": 4, "mlp_size": 8}
    specs = ObservationSpec("bernoulli", 5), ActionSpec("gaussian", 3)
    base = BaseModel(*specs, BaseConfig(block=block, **sizes), max_length=24)
    metacontroller = Metacontroller(
        8, MetacontrollerConfig(code_size=3, gate=gate, embedding=embedding, rank=rank)
    )
    params = jax.eval_shape(base.initial_params, jax.random.key(0))
    metacontroller_params = jax.eval_shape(metacontroller.initial_params, jax.random.key(0))
    return SteeredModel(base, 1, params, metacontroller, metacontroller_params)


def parallel_form(model, key):
    observation, segment = jnp.zeros((2, 30, 5), jnp.uint8), jnp.zeros((2, 30), jnp.int32)
    residual = model.lower(observation, segment)
    found = model.discover(residual, segment, key)
    controllers = initial_controllers(key, 4, 8, rank=2)
    steered = steer(controllers, model.control(residual, found.code), segment)
    return found, model.upper(steered, segment), model.residuals(observation, segment)


def step_form(model):
    state = model.restart(model.initial_state(2), jnp.zeros(2, bool))
    history, code = model.initial_history(2), jnp.zeros((2, 3), jnp.float32)
    residual, after = model.lower_step(jnp.zeros((2, 5), jnp.uint8), state)
    gate = model.switch(residual, history, code)
    output, after = model.upper_step(model.control(residual, code), after)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
    return output, after, gate, model.history_step(residual, history)


@pytest.mark.parametrize("block", ["transformer", "hawk"])
@pytest.mark.parametrize(
    ("gate", "embedding", "rank"),
    [
        ("sigmoid", "trajectory", 2),
        ("gumbel", "step", 2),
        ("random", "step", 0),
        ("one", "step", 0),
    ],
)
def test_nothing_becomes_wider(block, gate, embedding, rank):
    model = make_model(block, gate, embedding, rank)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}
    for program in (
        jax.make_jaxpr(parallel_form)(model, jax.random.key(0)),
        jax.make_jaxpr(step_form)(model),
    ):
        assert not wide_arrays(program)


def wide_arrays(program):
    """Arrays of float64 in a traced program; numbers of Python may be anything."""
    return re.findall(r"f64\[\d[^]]*\]", str(program))


def test_a_widened_array_would_be_found():
    program = jax.make_jaxpr(lambda x: x + jnp.zeros(3))(jnp.ones(3, jnp.float32))
    assert "f64[3]" in wide_arrays(program)
