"""Attention is cut to what a batch needs, and nothing else changes."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from internal_rl.models import transformer
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.reach import gradient_through, reaches_further
from internal_rl.types import ActionSpec, ObservationSpec
from tests.parameters import drawn

SHORT, LONG = 8, 40


@struct.dataclass
class Part:
    observation: chex.Array
    segment: chex.Array


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(transformer, "SHORT_REACH", SHORT)
    monkeypatch.setattr(transformer, "QUERY_BLOCK", 16)
    sizes = {"width": 16, "depth": 2, "num_heads": 2, "head_size": 8, "mlp_size": 16}
    specs = ObservationSpec("gaussian", 5), ActionSpec("categorical", 4)
    return BaseModel(*specs, BaseConfig(init_scale=1.0, **sizes), LONG)


def packed(*lengths):
    """One row of 48 tokens that holds trajectories of `lengths`, the rest padding."""
    segment = np.repeat(np.arange(len(lengths)), lengths)
    return np.concatenate([segment, np.full(48 - len(segment), -1)])[None]


def part_of(*lengths):
    segment = packed(*lengths)
    observation = np.random.default_rng(0).normal(size=(*segment.shape, 5))
    return Part(observation.astype(np.float32), segment.astype(np.int32))


def loss(base, params, part, index):
    output = base.apply(params, part.observation, part.segment)
    mask = part.segment >= 0
    value = jnp.sum(jax.nn.log_softmax(output.action)[..., 0] * mask) + index
    return value, {"reach": base.reach}


def params_of(model):
    return drawn(model.initial_params, noise=0.3)


def test_what_reaches_further_is_found():
    generator = np.random.default_rng(0)
    is_further = jax.jit(lambda segment: reaches_further(segment, SHORT))
    for _ in range(200):
        lengths = generator.integers(1, 16, size=3)
        # Tokens `n - 1` steps apart are the two ends of a trajectory of `n`.
        expected = max(lengths) - 1 > SHORT
        assert bool(is_further(packed(*lengths))) == expected, lengths
    assert not is_further(packed(3, 4)), "padding is no trajectory"


@pytest.mark.parametrize(
    ("lengths", "reach"), [((9, 9, 9, 9, 5), SHORT), ((9, 10, 9), LONG), ((40, 8), LONG)]
)
def test_gradient_is_that_of_the_whole_model(model, lengths, reach):
    params, part = params_of(model), part_of(*lengths)
    gradient_of = jax.jit(gradient_through(model, loss))
    (value, metrics), gradients = gradient_of(params, part, 3.0)
    assert metrics["reach"] == reach
    whole = jax.jit(jax.value_and_grad(lambda params: loss(model, params, part, 3.0)[0]))(params)
    chex.assert_trees_all_close((value, gradients), whole, rtol=1e-4, atol=1e-5)


def test_side_by_side_the_longest_trajectory_of_all_decides(model):
    params = params_of(model)
    parts = [part_of(9, 9, 5), part_of(20, 20)]
    gradient_of = gradient_through(model, loss)
    stacked = jax.tree.map(lambda *x: np.stack(x), *parts)
    side_by_side = jax.jit(jax.vmap(gradient_of, (None, 0, None)))
    (_, metrics), gradients = side_by_side(params, stacked, 0.0)
    np.testing.assert_array_equal(metrics["reach"], LONG)
    one = jax.jit(gradient_of)
    alone = [one(params, part, 0.0)[1] for part in parts]
    expected = jax.tree.map(lambda *x: np.stack(x), *alone)
    chex.assert_trees_all_close(gradients, expected, rtol=1e-4, atol=1e-5)


def test_a_choice_is_made_only_where_it_saves_attention(model):
    assert model.short_reach == SHORT
    hawk = dataclasses.replace(model.config, block="hawk")
    assert model.clone(config=hawk).short_reach is None
    assert model.clone(max_length=SHORT + transformer.KEY_ALIGNMENT - 1).short_reach is None
