"""The operations counted by hand agree with XLA's own count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flops
from benchmarks.random_inputs import random_method, random_model
from benchmarks.training import segment_lengths
from configs import gridworld
from internal_rl.stages.build import make_base
from internal_rl.stages.settings import Settings


def xla_flops(function, *arguments):
    """XLA's count for a compiled function; it also counts norms, softmax and activations."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("block", ["transformer", "hawk"])
def test_the_forward_pass_of_the_base_model(block):
    config = gridworld.get_config("small")
    config.base.block = block
    # Wide enough that matrix products dominate.
    config.base.width = config.base.mlp_size = 256
    config.base.depth = 1
    settings = Settings.read(config)
    base = make_base(settings)
    rows, length = 2, 64
    observation = jnp.zeros((rows, length, base.observation_spec.size), jnp.uint8)
    segment = jnp.zeros((rows, length), jnp.int32)
    params = jax.eval_shape(base.init, jax.random.key(0), observation, segment)
    shape = flops.BaseModelShape.of(settings)
    # The program computes the scores of all pairs, the invisible ones included.
    counted = flops.base_forward(shape, rows * length, rows * length**2, True)
    assert xla_flops(base.apply, params, observation, segment) == pytest.approx(counted, rel=0.1)


def test_one_step_of_switch_history_and_controller():
    settings = Settings.read(gridworld.get_config("paper"))
    model = random_model(settings)
    residual = jnp.zeros((64, model.base.width))
    history = model.initial_history(64)
    code = jnp.zeros((64, settings.metacontroller.code_size))

    def step(model, residual, history, code):
        return (
            model.switch(residual, history, code),
            model.history_step(residual, history),
            model.control(residual, code),
        )

    counted = 64 * flops.steering_step(settings)
    found = xla_flops(step, model, residual, history, code)
    assert found == pytest.approx(counted, rel=0.15)


def test_one_decision_of_the_policy():
    settings = Settings.read(gridworld.get_config("paper"))
    policy = random_method("internal_rl", settings).policy
    residual, segment = jnp.zeros((4, 16, settings.base.width)), jnp.zeros((4, 16), jnp.int32)
    params = jax.eval_shape(policy.init, jax.random.key(0), residual, segment)
    counted = residual.shape[0] * residual.shape[1] * flops.policy_forward(settings)
    assert xla_flops(policy.apply, params, residual, segment) == pytest.approx(counted, rel=0.1)


def test_pairs_and_cache_traffic_of_short_episodes():
    assert flops.causal_pairs(np.array([1, 3])) == 1 + 6
    shape = flops.BaseModelShape.of(Settings.read(gridworld.get_config("smoke")))
    # Three steps write three keys and values and read one, two and three of them.
    vector = 2 * shape.attention_size * 4
    assert flops.cache_bytes(shape, np.array([3])) == shape.depth * vector * (3 + 6)


def test_lengths_of_packed_trajectories():
    segment = np.array([[0, 0, 1, -1], [0, 1, 1, 1]])
    np.testing.assert_array_equal(segment_lengths(segment), [2, 1, 1, 3])
