"""Co-training: the base model learns with the metacontroller, on the metacontroller's loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.methods.code_finding import steered_by
from internal_rl.methods.discovery import CodeDiscovery, Config
from internal_rl.models.steered_model import SteeredModel
from tests.methods.test_discovery import SHORT
from tests.methods.toy import ToySource, make_base
from tests.parameters import drawn

RATE, DECAY, NUM_PARTS = 1e-2, 0.1, 2
# Weight of the KL at every update.
ALPHAS = (0.0, 0.15, 0.3)
NUM_UPDATES = len(ALPHAS)


@pytest.fixture(scope="module")
def model():
    """A base model of two Hawk blocks, whose gradient is compiled soon."""
    base = make_base(block="hawk", depth=2)
    return SteeredModel(base, 0, jax.device_put(drawn(base.initial_params)))


def config_of(**fields):
    chosen = {
        "variant": "cotrained",
        "base_from": "pretrained",
        "alpha": ALPHAS[-1],
        "alpha_ramp_steps": 2,
        "num_parts": NUM_PARTS,
        "learning_rate": RATE,
        "weight_decay": DECAY,
    }
    return Config(**SHORT | chosen | fields)


def trained(method, num_updates=NUM_UPDATES):
    """The states before and after every update, and the metrics."""
    states, lines = [jax.jit(method.init)(jax.random.key(0), method.frozen)], []
    update = jax.jit(method.update)
    for _ in range(num_updates):
        state, metrics = update(states[-1], method.frozen)
        states.append(state)
        lines.append(jax.device_get(metrics))
    return states, lines


@pytest.fixture(scope="module")
def run(model):
    method = CodeDiscovery(config_of(), model, ToySource())
    return method, *trained(method)


def slow_sum(params, rows, key, alpha, method):
    """The loss summed over rows, written out: modules applied by hand, sums of probabilities."""
    base, module, layer = method.model.base, method.module, method.config.layer
    residual = base.apply(params["base"], rows.observation, rows.segment, layer, method="lower")
    _, steered = found = module.apply(params["metacontroller"], residual, rows.segment, key)
    logits = base.apply(params["base"], steered, rows.segment, layer, method="upper").action
    probability = jnp.exp(logits) / jnp.exp(logits).sum(axis=-1, keepdims=True)
    likely = jnp.sum(probability * jax.nn.one_hot(rows.action, logits.shape[-1]), axis=-1)
    mean, variance = found[0].mean, jnp.exp(found[0].log_std) ** 2
    cost = 0.5 * (mean**2 + variance - 1 - jnp.log(variance)).sum(axis=-1)
    return jnp.sum(jnp.where(rows.mask, alpha * cost - jnp.log(likely), 0.0))


def test_an_update_is_that_of_adam_on_the_summed_loss(run):
    method, states, lines = run

    @jax.jit
    def slow_gradient(state, alpha):
        _, batch = method.source.next(state.stream, method.source.arrays)
        key = jax.random.fold_in(state.key, state.step)
        size = len(batch.segment) // NUM_PARTS

        def summed(params):
            found = 0.0
            for part in range(NUM_PARTS):
                chosen = slice(part * size, (part + 1) * size)
                rows = jax.tree.map(lambda x, chosen=chosen: x[chosen], batch)
                part_key = jax.random.fold_in(key, part)
                found += slow_sum(params, rows, part_key, alpha, method)
            return found / batch.mask.sum()

        return jax.value_and_grad(summed)(state.params)

    first = [np.zeros(x.shape) for x in jax.tree.leaves(states[0].params)]
    second = [np.zeros(x.shape) for x in jax.tree.leaves(states[0].params)]
    for number in range(NUM_UPDATES):
        loss, gradient = jax.device_get(slow_gradient(states[number], ALPHAS[number]))
        np.testing.assert_allclose(lines[number]["loss"], loss, rtol=1e-5)
        leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(gradient)]
        norm = np.sqrt(sum((x**2).sum() for x in leaves))
        np.testing.assert_allclose(lines[number]["gradient_norm"], norm, rtol=1e-4)
        before, after = jax.device_get([x.params for x in states[number : number + 2]])
        before, after = jax.tree.leaves(before), jax.tree.leaves(after)
        for i, g in enumerate(leaves):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            m, v = first[i] / (1 - 0.9 ** (number + 1)), second[i] / (1 - 0.999 ** (number + 1))
            step = m / (np.sqrt(v) + 1e-8) + DECAY * np.asarray(before[i], np.float64)
            # Where a gradient is all rounding, so is its direction.
            clear = np.sqrt(v) > 1e-5
            expected = np.asarray(before[i]) - RATE * step
            np.testing.assert_allclose(after[i][clear], expected[clear], rtol=1e-3, atol=2e-5)


def test_the_base_model_moves_below_and_above_the_layer(run):
    _, states, _ = run
    assert set(states[0].params) == {"metacontroller", "base"}
    before, after = (x.params["base"]["params"] for x in (states[0], states[-1]))
    # The metacontroller's loss does not ask for observations.
    assert set(before) > {"embedding", "block_1", "block_2", "action_output"}
    for name in before:
        decayed = jax.tree.map(lambda x: x * (1 - RATE * DECAY) ** NUM_UPDATES, before[name])
        moved = jax.tree.map(lambda x, y: np.abs(x - y).max() > 1e-4, after[name], decayed)
        assert all(jax.tree.leaves(moved)) == (name != "observation_output"), name


def test_it_starts_from_the_pretrained_base_model_or_from_a_random_one(model, run):
    method, states, _ = run
    jax.tree.map(np.testing.assert_array_equal, states[0].params["base"], model.base_params)
    # Nothing of the pretrained one is needed then.
    alone = model.replace(base_params=None)
    method = CodeDiscovery(config_of(base_from="random"), alone, ToySource())
    init = jax.jit(method.init)
    one, other = (init(jax.random.key(seed), method.frozen).params["base"] for seed in (0, 1))
    for params in (model.base_params, other):
        kernels = [x["params"]["action_output"]["kernel"] for x in (one, params)]
        assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    update = jax.eval_shape(
        method.update, jax.eval_shape(init, jax.random.key(0), method.frozen), method.frozen
    )
    assert jax.tree.structure(update[0].params["base"]) == jax.tree.structure(one)


def test_a_frozen_base_model_is_no_parameter(model):
    method = CodeDiscovery(config_of(variant="discovered"), model, ToySource())
    state = jax.eval_shape(method.init, jax.random.key(0), method.frozen)
    assert set(state.params) == {"params"}
    assert method.steered(state.params, method.frozen).base_params is model.base_params


def test_what_reads_the_codes_is_given_the_base_model_that_was_trained_with_them(model, run):
    method, states, _ = run
    params = method.params(states[-1])
    steered = steered_by(method.config, model, params)
    assert steered.layer == method.config.layer
    assert steered.base_params is params["base"]
    assert steered.metacontroller_params is params["metacontroller"]
    expected = jax.jit(method.evaluate)(states[-1], method.frozen)
    without = dataclasses.replace(method, model=model.replace(base_params=None))
    found = jax.jit(without.evaluate)(states[-1], without.frozen)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
