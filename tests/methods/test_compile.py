"""CompILE as a method: its losses against NumPy, that it learns, which loss moves what."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.methods.compile import Config, SegmentDiscovery, weight_schedule
from internal_rl.methods.compile_losses import (
    Losses,
    LossSettings,
    boundary_kl,
    boundary_log_prior,
    code_kl,
    compile_losses,
)
from internal_rl.methods.evaluation import held_out
from internal_rl.models.compile import CompileConfig, Segments, make_compile
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import SettingError
from tests.methods.toy import MASK, RISING_SHARES, RISING_STEPS, SEGMENT, ToySource, make_base
from tests.models import numpy_compile, numpy_metacontroller
from tests.parameters import drawn

SHORT = {
    "steps": 60,
    "batch_size": 16,
    "num_parts": 1,
    "evaluation_rows": 4,
    "layer": 1,
    "rank": 2,
    "code_size": 3,
    "num_segments": 2,
    "code_weight": 0.01,
    "boundary_weight": 0.01,
    "prior_rate": 5.0,
    "learning_rate": 1e-2,
    "weight_free_steps": 0,
    "weight_ramp_steps": 0,
}
TERMS = {"action_nll", "code_kl", "boundary_kl", "gate_nll"}
SWITCHING = {"precision", "recall", "f1", "switches_per_trajectory", "soft_gate_share"}
ROWS = np.array([[0] * 6 + [1] * 1 + [2] * 3 + [-1] * 2])
TRAJECTORIES = [(0, 6), (6, 7), (7, 10)]
ROWS_OF_TOY = ToySource().held_out(jax.random.key(5), 2, ToySource().arrays)


@pytest.fixture(scope="module")
def model():
    """A base model of one Hawk block, whose gradient is compiled soon."""
    base = make_base(block="hawk", depth=1)
    return SteeredModel(base, 1, jax.device_put(drawn(base.initial_params)))


def log_prior(length, rate):
    """Of the boundary positions 1 .. length - 1."""
    weight = np.array([rate**k / math.factorial(k) for k in range(1, length)])
    return np.log(weight / weight.sum())


def test_the_prior_of_boundaries_is_a_truncated_poisson():
    found = np.asarray(jax.jit(boundary_log_prior)(ROWS, 4.0))[0]
    for low, high in TRAJECTORIES:
        assert found[low] == 0
        np.testing.assert_allclose(found[low + 1 : high], log_prior(high - low, 4.0), atol=1e-5)
    assert (found[10:] == 0).all()


@pytest.mark.parametrize("prior", ["first", "each"])
def test_kls_equal_slow_sums(prior):
    rng = np.random.default_rng(0)
    log_prob = np.zeros((2, 1, 12))
    mean, log_std = np.zeros((3, 1, 12, 2)), np.zeros((3, 1, 12, 2))
    expected = expected_code = 0.0
    for low, high in TRAJECTORIES:
        for i in range(3):
            mean[i, 0, low:high], log_std[i, 0, low:high] = rng.normal(size=(2, 2))
            m, s = mean[i, 0, low], np.exp(log_std[i, 0, low])
            expected_code += sum((m**2 + s**2 - 1) / 2 - np.log(s))
        for i in range(2):
            weights = rng.uniform(0.1, 1, high - low - 1)
            probability = weights / weights.sum() if len(weights) else weights
            log_prob[i, 0, low + 1 : high] = np.log(probability)
            rate = 4.0 * (i + 1) if prior == "each" else 4.0
            times = {"each": 1, "first": 3 * (i == 0)}[prior]
            distance = np.log(probability) - log_prior(high - low, rate)
            expected += times * np.sum(probability * distance)
    # What stands at padding does not count.
    mean[:, 0, 10:] = 7.0
    unused = np.zeros((3, 1, 12))
    segments = Segments(unused[:2], log_prob, unused, unused, mean, mean, log_std)
    segments = jax.tree.map(jnp.float32, segments)
    settings = LossSettings(prior_rate=4.0, boundary_prior=prior)
    found = jax.jit(lambda s: (boundary_kl(s, ROWS, settings), code_kl(s, ROWS)))(segments)
    np.testing.assert_allclose(found, [expected, expected_code], rtol=1e-5)


@pytest.mark.parametrize(("free", "ramp", "expected"), RISING_SHARES)
def test_kls_cost_nothing_at_first(free, ramp, expected):
    config = Config(weight_free_steps=free, weight_ramp_steps=ramp)
    found = jax.jit(jax.vmap(lambda step: weight_schedule(config, step)))(jnp.array(RISING_STEPS))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    losses = Losses(*jnp.float32([1.0, 2.0, 4.0, 8.0]))
    settings = LossSettings(code_weight=0.1, boundary_weight=0.3)
    weighted = losses.weighted(settings, found)
    np.testing.assert_allclose(weighted, 9.0 + 1.4 * np.array(expected), rtol=1e-5)


@pytest.fixture(scope="module")
def trained(model):
    """A method, its state before and after some updates, and their metrics."""
    method = SegmentDiscovery(Config(**SHORT), model, ToySource())
    start = state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    update, lines = jax.jit(method.update), []
    for _ in range(60):
        state, metrics = update(state, method.frozen)
        lines.append({name: float(value) for name, value in metrics.items()})
    return method, start, state, lines


def test_codes_of_segments_make_the_experts_actions_likely(trained):
    method, start, state, lines = trained
    assert set(lines[0]) == {"loss", "gradient_norm"} | TERMS
    line = lines[-1]
    kl = 0.01 * (line["code_kl"] + line["boundary_kl"])
    np.testing.assert_allclose(line["loss"], line["action_nll"] + kl + line["gate_nll"], rtol=1e-5)
    assert np.mean([x["loss"] for x in lines[-5:]]) < lines[0]["loss"] - 0.2
    params = jax.device_get((start.params, state.params))
    moved = jax.tree.map(lambda x, y: (x != y).any(), *params)
    assert all(jax.tree.leaves(moved["compile"])) and any(jax.tree.leaves(moved["base"]))
    steered = method.steered(method.params(state), method.frozen)
    assert steered.layer == 1 and steered.base_params is state.params["base"]


@pytest.fixture(scope="module")
def evaluate(trained):
    return jax.jit(trained[0].evaluate)


@pytest.fixture(scope="module")
def evaluation(trained, evaluate):
    method, _, state, _ = trained
    return jax.device_get(evaluate(state, method.frozen))


def test_evaluation_judges_boundaries_and_gate_as_the_metacontrollers_switches(trained, evaluation):
    method, _, state, _ = trained
    found = evaluation
    assert {"loss"} | TERMS | SWITCHING | {f"gate_{name}" for name in SWITCHING} <= set(found)
    assert found["soft_gate_share"] == 0
    # Two segments a trajectory have one boundary at most.
    assert 0 < found["switches_per_trajectory"] <= 1
    unlabelled = dataclasses.replace(method, source=ToySource(labelled=False))
    found = jax.eval_shape(unlabelled.evaluate, state, unlabelled.frozen)
    assert set(found) == {"loss"} | TERMS


def test_with_whole_boundaries_the_likelihood_is_that_of_acting(trained, evaluation):
    method, _, state, _ = trained

    @jax.jit
    def in_one_pass(params, batch):
        model = method.steered(params, method.frozen)
        code = model.infer(batch.observation, batch.segment, jax.random.key(0)).code
        residual = model.lower(batch.observation, batch.segment)
        logits = model.upper(model.control(residual, code), batch.segment).action
        return jax.nn.log_softmax(logits)

    batch = held_out(method.source, SHORT["evaluation_rows"], method.source.arrays)
    log_prob = np.asarray(in_one_pass(state.params, batch))
    chosen = np.take_along_axis(log_prob, np.asarray(batch.action)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(evaluation["action_nll"], -chosen[:, MASK].mean(), rtol=1e-5)


def noise_of(key, config, shape):
    """Noise of rows `(B, S)`: of boundaries `(M, B, S)`, and of codes `(M, B, S, n_z)`."""
    keys = [jax.random.split(key) for key in jax.random.split(key, config.num_segments)]
    gumbel = [jax.random.gumbel(key, shape, jnp.float32) for key, _ in keys]
    normal = [jax.random.normal(key, (*shape, config.code_size), jnp.float32) for _, key in keys]
    return np.array(gumbel), np.array(normal)


def slow_segments(params, config, batch, key, relaxed):
    """Segments of every trajectory of toy rows by itself, with their place `(row, low, high)`."""
    gumbel, normal = noise_of(key, config, batch.segment.shape)
    weights = jax.tree.map(np.float64, params["params"])
    for row, observation in enumerate(np.asarray(batch.observation)):
        for low, high in ((0, 10), (10, 20)):
            noise = gumbel[:, row, low:high] if relaxed else None
            inputs = observation[low:high], config, noise, normal[:, row, low]
            yield (row, low, high), numpy_compile.segments(weights, *inputs)


def slow_gate(params, config, batch, residual, key):
    """`(B, S)` logits of the causal gate, and whether a segment begins, at all but first steps."""
    weights = jax.tree.map(np.float64, params["params"])
    logit, begins = np.full(batch.segment.shape, np.nan), np.zeros(batch.segment.shape, bool)
    for (row, low, high), found in slow_segments(params, config, batch, key, False):
        own = np.argmax([one["weight"] for one in found], axis=0)
        history = numpy_metacontroller.histories(weights, residual[row, low:high])
        for t in range(low + 1, high):
            code = found[own[t - 1 - low]]["code"]
            inputs = residual[row, t], history[t - low], code
            logit[row, t] = numpy_metacontroller.gate_logit(weights, *inputs)
            begins[row, t] = own[t - low] != own[t - 1 - low]
    return logit, begins


def test_losses_of_actions_and_gate_are_those_of_loops():
    base = make_base(block="hawk", depth=2)
    config = CompileConfig(code_size=3, num_segments=3, rank=2, history_size=6, temperature=2.0)
    module = make_compile(base, 1, config)
    params = drawn(module.initial_params, noise=0.5)
    model = SteeredModel(base, 1, jax.device_put(drawn(base.initial_params)), module, params)
    batch, key = ROWS_OF_TOY, jax.random.key(3)

    @jax.jit
    def everything(model, code):
        losses, _ = compile_losses(model, batch, key, jnp.float32(1.0), LossSettings())
        residual = model.lower(batch.observation, batch.segment)

        def under(code):
            return model.upper(model.control(residual, code), batch.segment).action

        return losses, residual, jax.lax.map(under, code)

    # What each segment is reconstructed under: codes of earlier ones as far as these reach.
    code = np.zeros((3, *batch.segment.shape, 3), np.float32)
    weight = np.zeros(code.shape[:-1])
    for (row, low, high), found in slow_segments(params, config, batch, key, True):
        for k, one in enumerate(found):
            for t in range(high - low):
                earlier = [other["weight"][t] * other["code"] for other in found[:k]]
                code[k, row, low + t] = one["left"][t] * one["code"] + sum(earlier)
                weight[k, row, low + t] = one["weight"][t]
    losses, residual, parameters = jax.device_get(everything(model, code))
    action, nll = np.asarray(batch.action), 0.0
    for k, row, t in np.argwhere(weight > 0):
        logits = parameters[k, row, t].astype(float)
        log_prob = logits[action[row, t]] - np.log(np.exp(logits).sum())
        nll -= MASK[t] * weight[k, row, t] * log_prob
    np.testing.assert_allclose(losses.action_nll, nll, rtol=1e-5)
    # Many steps belong to more than one segment.
    assert ((weight > 0.05).sum(axis=0)[:, MASK] > 1).mean() > 0.3

    logit, begins = slow_gate(params, config, batch, residual, key)
    nll = 0.0
    for row, t in np.argwhere(np.isfinite(logit) & MASK):
        probability = 1 / (1 + np.exp(-logit[row, t]))
        nll -= np.log(probability if begins[row, t] else 1 - probability)
    np.testing.assert_allclose(losses.gate_nll, nll, rtol=1e-5)
    assert begins[:, MASK].any() and np.ptp(logit[np.isfinite(logit)]) > 0.5


def test_the_gate_is_judged_by_where_it_opens(trained, evaluate):
    method, _, state, _ = trained
    rows = SHORT["evaluation_rows"]
    batch = held_out(method.source, rows, method.source.arrays)
    model = method.steered(state.params, method.frozen)
    residual = np.asarray(jax.jit(model.lower)(batch.observation, batch.segment))
    params = state.params["compile"]["params"]
    key = jax.random.key(0)
    logit, _ = slow_gate({"params": params}, method.config, batch, residual, key)
    counted = np.isfinite(logit) & MASK
    # A bias with which about half of the gates open, by a margin.
    values = np.sort(logit[counted])
    low = len(values) // 2 + np.argmax(np.diff(values[len(values) // 2 :][:9]))
    middle = (values[low] + values[low + 1]) / 2
    output = params["switch_output"]
    output = output | {"bias": output["bias"] - np.float32(middle)}
    moved = state.params | {"compile": {"params": params | {"switch_output": output}}}
    found = evaluate(state.replace(params=moved), method.frozen)
    switch = counted & (logit > middle)
    change = counted & (np.diff(np.asarray(batch.subgoal), axis=1, prepend=-1) != 0)
    switches, changes, matched = switch.sum(), change.sum(), (switch & change).sum()
    assert 0 < matched < changes
    expected = {
        "precision": matched / switches,
        "recall": matched / changes,
        "f1": 2 * matched / (switches + changes),
        "switches_per_trajectory": switches / (2 * rows),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found["gate_" + name], value, rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def gradients(trained):
    """Losses of rows, and gradients of the gate's loss and of all others."""
    method, _, state, _ = trained

    def compute(params, batch):
        def losses(params):
            model = method.steered(params, method.frozen)
            tokens, key = batch.num_targets(), jax.random.key(1)
            found, _ = compile_losses(model, batch, key, tokens, method.config)
            both = jnp.stack([found.gate_nll, found.weighted(method.config) - found.gate_nll])
            return both, found

        _, pull, found = jax.vjp(losses, params, has_aux=True)
        return found, jax.vmap(pull)(jnp.eye(2))[0]

    compute = jax.jit(compute)
    return lambda batch: compute(state.params, batch)


GATE = {"input_norm", "history_cell", "switch_context", "switch_code", "switch_output"}


def test_padding_changes_no_loss_and_no_gradient(gradients):
    padding = (SEGMENT < 0)[None]
    batch = ROWS_OF_TOY
    changed = batch.replace(
        observation=jnp.where(padding[..., None], 1 - batch.observation, batch.observation),
        action=jnp.where(padding, 3 - batch.action, batch.action),
    )
    jax.tree.map(np.testing.assert_array_equal, gradients(batch), gradients(changed))


def test_the_gate_learns_alone(gradients):
    """Its loss moves nothing but the gate, and no other loss moves the gate."""
    _, found = gradients(ROWS_OF_TOY)
    of_module, of_base = found["compile"]["params"], found["base"]
    for name, leaves in of_module.items():
        moves = np.array([np.abs(leaf).reshape(2, -1).max(1) for leaf in jax.tree.leaves(leaves)])
        assert list(moves.max(axis=0) > 0) == [name in GATE, name not in GATE], name
    moves = np.array([np.abs(leaf).reshape(2, -1).max(1) for leaf in jax.tree.leaves(of_base)])
    assert list(moves.max(axis=0) > 0) == [False, True]


def test_a_frozen_base_model_is_no_parameter(model):
    method = SegmentDiscovery(Config(**SHORT, train_base=False), model, ToySource())
    state = jax.eval_shape(method.init, jax.random.key(0), method.frozen)
    module = jax.eval_shape(method.module.initial_params, jax.random.key(0))
    assert jax.tree.structure(state.params) == jax.tree.structure(module)
    steered = method.steered(state.params, method.frozen)
    assert steered.base_params is method.frozen["model"].base_params


def test_settings_that_do_not_fit_are_refused(model):
    with pytest.raises(SettingError, match="boundary_prior: 'last' given, allowed is first, each"):
        Config(boundary_prior="last")
    with pytest.raises(SettingError, match="layer: 0 given, allowed is 1 or more"):
        Config(layer=0)
    with pytest.raises(SettingError, match="layer: 3 given, allowed is 0 to 1"):
        SegmentDiscovery(Config(layer=3), model, ToySource())
