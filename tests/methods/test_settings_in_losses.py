"""Settings that a loss has to see: help for gates, shares of weights, the least deviation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.methods import compile, discovery, steering
from internal_rl.methods.code_finding import State
from internal_rl.methods.evaluation import held_out
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.steered_model import SteeredModel
from tests.methods import test_compile, test_discovery
from tests.methods.toy import NUM_SUBGOALS, RISING_SHARES, RISING_STEPS, ToySource, make_base
from tests.parameters import drawn

LEAST = 0.2
MODULE = {"code_size": 3, "rank": 2}
ROWS = {"batch_size": 16, "evaluation_rows": 8}
SHORT = test_discovery.SHORT | MODULE | ROWS | {"min_action_std": LEAST}
SOURCE = ToySource(action_head="gaussian")


@functools.cache
def make_model(means=None):
    """A base model of one Hawk block that is as certain of its actions as it can be.

    With `means` these are what it expects, whatever it reads.
    """
    base = make_base(action_head="gaussian", block="hawk", depth=1)
    params = drawn(base.initial_params)
    head = params["params"]["action_output"]
    head["kernel"][:, 2:], head["bias"][2:] = 0.0, -9.0
    if means:
        head["kernel"][:, :2], head["bias"][:2] = 0.0, means
    return SteeredModel(base, 1, jax.device_put(params))


def start(method):
    """The state before the first update, with drawn parameters and without an optimiser."""
    params = jax.device_put(drawn(method.module.initial_params))
    stream = SOURCE.init(jax.random.key(2), ROWS["batch_size"] // 2)
    return State(params, None, stream, jax.random.key(1), jnp.int32(0))


def losses_of_updates(method, state, steps):
    """Metrics of the next update, if so many were done before; nothing else of it is compiled."""

    @jax.jit
    def losses(state):
        state = state.replace(optimiser_state=method.config.make_optimiser().init(state.params))
        metrics = method.update(state, method.frozen)[1]
        return {name: metrics[name] for name in metrics if name != "gradient_norm"}

    return [jax.device_get(losses(state.replace(step=jnp.int32(step)))) for step in steps]


def slow_nll(means, rows):
    """Nats per action of a normal distribution with the least deviation that is to count."""
    distance = (np.asarray(rows.action, np.float64) - means) / LEAST
    nll = np.sum(distance**2 / 2 + np.log(LEAST * np.sqrt(2 * np.pi)), axis=-1)
    return nll[np.asarray(rows.mask)].mean()


@jax.jit
def found_by_hand(params, rows, key):
    """What a module with plain gates infers; outputs under its proposals and under its codes."""
    model = make_model()
    module = Metacontroller(model.base.width, MetacontrollerConfig(**MODULE))
    base = functools.partial(model.base.apply, model.base_params)
    residual = base(rows.observation, rows.segment, 1, method="lower")
    found = module.apply(params, residual, rows.segment, key, method="discover")
    outputs = []
    for code in (found.proposal, found.code):
        controlled = module.apply(params, residual, code, method="control")
        outputs.append(base(controlled, rows.segment, 1, method="upper").action)
    return found.mean, found.log_std, *outputs


def slow_losses(params, rows, key):
    """`action_nll` and `kl` by what acts: every proposal, or codes that plain gates mix."""
    mean, log_std, *outputs = (np.asarray(x, np.float64) for x in found_by_hand(params, rows, key))
    kl = np.sum(mean**2 + np.exp(log_std) ** 2 - 1 - 2 * log_std, axis=-1) / 2
    kl = kl[np.asarray(rows.mask)].mean()
    proposal, mixed = ([slow_nll(x[..., :2], rows), kl] for x in outputs)
    assert abs(proposal[0] - mixed[0]) > 0.01
    return {"proposal": proposal, "mixed": mixed}


HELP = {
    "held open": ({"gate_open_steps": 10}, {0: "proposal", 9: "proposal", 10: "mixed"}),
    "without noise": ({"gate": "gumbel", "gate_noise_free_steps": 10}, {0: "mixed"}),
    "forced": ({"variant": "forced"}, {0: "proposal"}),
}


@pytest.mark.parametrize("name", HELP)
def test_the_loss_of_discovery_is_that_of_gates_that_are_helped(name):
    fields, expected = HELP[name]
    method = discovery.CodeDiscovery(discovery.Config(**SHORT | fields), make_model(), SOURCE)
    state = start(method)
    _, rows = SOURCE.next(state.stream, SOURCE.arrays)
    for step, found in zip(expected, losses_of_updates(method, state, expected), strict=True):
        key = jax.random.fold_in(jax.random.fold_in(state.key, step), 0)
        slow = slow_losses(state.params, rows, key)[expected[step]]
        np.testing.assert_allclose([found["action_nll"], found["kl"]], slow, rtol=1e-4)


@pytest.mark.parametrize(("name", "codes"), [("held open", "mixed"), ("forced", "proposal")])
def test_evaluations_have_the_gates_of_the_end_of_training(name, codes):
    config = discovery.Config(**SHORT | HELP[name][0])
    method = discovery.CodeDiscovery(config, make_model(), SOURCE)
    state = start(method)
    found = jax.device_get(jax.jit(method.evaluate)(state, method.frozen))
    rows = held_out(SOURCE, ROWS["evaluation_rows"], SOURCE.arrays)
    slow = slow_losses(state.params, rows, jax.random.key(0))[codes]
    np.testing.assert_allclose([found["action_nll"], found["kl"]], slow, rtol=1e-4)
    if name == "forced":
        # Trajectories have nine actions, and the first code of each is no switch.
        assert found["recall"] == 1 and found["switches_per_trajectory"] == 8
        assert found["soft_gate_share"] == 0


MEANS = (0.3, -0.2)


def test_the_loss_of_compile_sees_rising_weights_and_the_least_deviation():
    fields = test_compile.SHORT | ROWS | {"code_weight": 2.0, "boundary_weight": 3.0}
    free, ramp, shares = next(case for case in RISING_SHARES if all(case[:2]))
    fields |= {"weight_free_steps": free, "weight_ramp_steps": ramp, "min_action_std": LEAST}
    config = compile.Config(**fields, train_base=False)
    method = compile.SegmentDiscovery(config, make_model(MEANS), SOURCE)
    state = start(method)
    _, rows = SOURCE.next(state.stream, SOURCE.arrays)
    nll, lines = slow_nll(MEANS, rows), losses_of_updates(method, state, RISING_STEPS)
    for line, share in zip(lines, shares, strict=True):
        kl = 2.0 * line["code_kl"] + 3.0 * line["boundary_kl"]
        assert kl > 0.1
        np.testing.assert_allclose(line["loss"], nll + line["gate_nll"] + share * kl, rtol=1e-4)


def test_the_loss_of_supervised_controllers_sees_the_least_deviation():
    config = steering.Config(rank=2, batch_size=16, num_parts=1, min_action_std=LEAST)
    method = steering.Steering(config, make_model(MEANS), SOURCE, NUM_SUBGOALS)

    @jax.jit
    def first_losses(key):
        state = method.init(key, method.frozen)
        return state.stream, method.update(state, method.frozen)[1]

    stream, found = first_losses(jax.random.key(0))
    _, rows = SOURCE.next(stream, SOURCE.arrays)
    for layer in range(2):
        nll = found[f"action_nll_layer_{layer}"]
        np.testing.assert_allclose(nll, slow_nll(MEANS, rows), rtol=1e-4)
