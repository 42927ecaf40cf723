"""The steered model: one pytree that does what its modules do."""

import dataclasses
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.steered_model import SteeredModel
from internal_rl.types import ActionSpec, ObservationSpec

SEGMENT = jnp.array([[0] * 4 + [1] * 3 + [-1], [0] * 8])
OBSERVATION = jax.random.normal(jax.random.key(7), (2, 8, 5))


@pytest.fixture(scope="module")
def model():
    sizes = {"width": 8, "depth": 2, "num_heads": 2, "head_size": 4, "mlp_size": 16}
    specs = ObservationSpec("gaussian", 5), ActionSpec("gaussian", 2)
    base = BaseModel(*specs, BaseConfig(init_scale=1.0, **sizes), max_length=8)
    metacontroller = Metacontroller(8, MetacontrollerConfig(code_size=3, rank=2))
    return SteeredModel(
        base=base,
        layer=1,
        base_params=jax.jit(base.initial_params)(jax.random.key(0)),
        metacontroller=metacontroller,
        metacontroller_params=jax.jit(metacontroller.initial_params)(jax.random.key(1)),
    )


@jax.jit
def steered_prediction(model, key):
    residual = model.lower(OBSERVATION, SEGMENT)
    found = model.discover(residual, SEGMENT, key)
    return found, model.upper(model.control(residual, found.code), SEGMENT).action


def test_it_does_what_its_modules_do_at_its_layer(model):
    found, action = steered_prediction(model, jax.random.key(3))
    base, params = model.base, model.base_params

    @jax.jit
    def by_modules():
        residual = base.apply(params, OBSERVATION, SEGMENT, 1, method="lower")
        discovery, controlled = model.metacontroller.apply(
            model.metacontroller_params, residual, SEGMENT, jax.random.key(3)
        )
        return discovery, base.apply(params, controlled, SEGMENT, 1, method="upper").action

    expected, expected_action = by_modules()
    chex.assert_trees_all_close(found, expected, atol=1e-5)
    np.testing.assert_allclose(action, expected_action, atol=1e-5)


def test_inferred_gates_have_no_noise(model):
    noisy = Metacontroller(8, dataclasses.replace(model.metacontroller.config, gate="gumbel"))
    infer = jax.jit(lambda model: model.infer(OBSERVATION, SEGMENT, jax.random.key(3)))
    expected, found = infer(model), infer(model.replace(metacontroller=noisy))
    chex.assert_trees_all_close(found, expected, atol=1e-6)
    drawn, _ = steered_prediction(model.replace(metacontroller=noisy), jax.random.key(3))
    assert np.abs(drawn.beta - found.beta).max() > 0.01


def test_modules_and_layer_are_static_and_parameters_are_leaves(model):
    params = (model.base_params, model.metacontroller_params)
    assert len(jax.tree.leaves(model)) == len(jax.tree.leaves(params))
    twice = jax.tree.map(lambda *leaves: jnp.stack(leaves), model, model)
    keys = jax.random.split(jax.random.key(3), 2)
    _, both = jax.vmap(steered_prediction)(twice, keys)
    _, alone = steered_prediction(model, keys[1])
    np.testing.assert_allclose(both[1], alone, atol=1e-5)


def test_it_survives_pickling(model):
    copy = pickle.loads(pickle.dumps(jax.device_get(model)))
    assert jax.tree.structure(copy) == jax.tree.structure(model)
    chex.assert_trees_all_equal(
        steered_prediction(copy, jax.random.key(3)), steered_prediction(model, jax.random.key(3))
    )


def test_every_cut_predicts_the_same_without_control(model):
    @jax.jit
    def predict(model):
        return model.upper(model.lower(OBSERVATION, SEGMENT), SEGMENT).action

    expected = predict(model.at_layer(0))
    for layer in (1, 2):
        np.testing.assert_allclose(predict(model.at_layer(layer)), expected, atol=1e-5)
    with pytest.raises(ValueError, match="layer is 3, allowed is a whole number from 0 to 2"):
        model.at_layer(3)


def test_a_metacontroller_stays_at_its_layer(model):
    same, other = model.at_layer(model.layer), model.at_layer(2)
    assert same.metacontroller is model.metacontroller and same.layer == 1
    assert other.metacontroller is None and other.metacontroller_params is None
    assert other.layer == 2 and other.base_params is model.base_params
    with pytest.raises(ValueError, match="this model has no metacontroller"):
        other.infer(OBSERVATION, SEGMENT, jax.random.key(0))


def test_without_a_metacontroller_it_is_the_base_model_and_says_so(model):
    alone = model.alone()
    assert len(jax.tree.leaves(alone)) == len(jax.tree.leaves(model.base_params))
    residual = alone.lower(OBSERVATION, SEGMENT)
    for call in (
        lambda: alone.discover(residual, SEGMENT, jax.random.key(0)),
        lambda: alone.control(residual, jnp.zeros((2, 8, 3))),
        lambda: alone.initial_history(2),
    ):
        with pytest.raises(ValueError, match="this model has no metacontroller"):
            call()


def test_it_runs_in_a_mesh_whose_axes_are_explicit(model):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    expected = steered_prediction(model, jax.random.key(3))[1]
    with jax.set_mesh(mesh):
        _, action = jax.jit(steered_prediction.__wrapped__)(model, jax.random.key(3))
        state = model.restart(model.initial_state(2), jnp.ones(2, bool))
        residual, _ = jax.jit(lambda model, x: model.lower_step(x, state))(model, OBSERVATION[:, 0])
    np.testing.assert_allclose(action, expected, atol=1e-5)
    np.testing.assert_allclose(residual, model.lower(OBSERVATION, SEGMENT)[:, 0], atol=1e-5)
