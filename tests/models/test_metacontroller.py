"""The metacontroller: causal where the method is causal, one switch function for both uses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.models.code_controller import apply_controller
from internal_rl.models.metacontroller import (
    GateTraining,
    Metacontroller,
    MetacontrollerConfig,
    kl_to_standard_normal,
)
from internal_rl.models.sequence_embedding import SequenceEmbedding
from internal_rl.section import SettingError
from tests.models import numpy_metacontroller
from tests.parameters import drawn

SEGMENT = np.array([[0] * 6 + [1] * 4 + [-1] * 2, [0] * 12])
TRAJECTORIES = [(0, 0, 6), (0, 6, 10), (1, 0, 12)]


def make(residual_size=10, **overrides):
    sizes = {"code_size": 3, "history_size": 6, "embedding_size": 8, "rank": 2}
    return Metacontroller(residual_size, MetacontrollerConfig(**sizes | overrides))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(
    scope="module",
    params=[
        ("sigmoid", "trajectory"),
        ("sigmoid", "step"),
        ("gumbel", "trajectory"),
        ("one", "trajectory"),
    ],
)
def setting(request):
    gate, embedding = request.param
    model = make(gate=gate, embedding=embedding)
    residual = normal(2, 12, 10)
    return model, params_of(model, residual), residual


def params_of(model, residual, segment=SEGMENT, noise=0.3):
    return drawn(model.init, residual, segment, jax.random.key(2), noise=noise)


@functools.partial(jax.jit, static_argnums=(0, 1))
def compiled_call(model, method, params, *inputs):
    return model.apply(params, *inputs, method=method)


def call(*inputs):
    """A method of the model, compiled whole; gives NumPy arrays."""
    return jax.device_get(compiled_call(*inputs))


def discover(model, params, residual, segment=SEGMENT):
    return call(model, "discover", params, residual, segment, jax.random.key(5))


@pytest.mark.parametrize(
    ("gate", "temperature", "floor"),
    [("sigmoid", 1.0, 0.0), ("sigmoid", 1.0, 0.4), ("sigmoid", 0.5, 0.4), ("one", 1.0, 0.4)],
)
def test_step_functions_reproduce_the_discovered_gates_and_codes(gate, temperature, floor):
    model = make(gate=gate, temperature=temperature)
    residual = normal(2, 12, 10)
    params = params_of(model, residual)
    found = call(
        model, "discover", params, residual, SEGMENT, jax.random.key(5), GateTraining(floor=floor)
    )
    history = np.asarray(model.initial_history(2))
    code = np.zeros((2, 3), np.float32)
    previous = np.full((2,), -2)
    for t in range(12):
        first = SEGMENT[:, t] != previous
        history = np.where(first[:, None], np.float32(0), history)
        code = np.where(first[:, None], np.float32(0), code)
        beta = call(model, "switch", params, residual[:, t], history, code)
        beta = np.where(first, np.float32(1), floor + (1 - floor) * beta)
        code = beta[:, None] * found.proposal[:, t] + (1 - beta[:, None]) * code
        np.testing.assert_allclose(beta, found.beta[:, t], atol=1e-5)
        np.testing.assert_allclose(code, found.code[:, t], atol=1e-5)
        history = call(model, "history_step", params, residual[:, t], history)
        previous = SEGMENT[:, t]


def loop_weights(params):
    """As the loops in NumPy take them."""
    return jax.tree.map(np.float64, params["params"])


@pytest.mark.parametrize("bounds", [{}, {"min_log_std": -3.5, "max_log_std": -0.5}])
def test_proposals_are_drawn_from_what_a_loop_encodes(bounds):
    model = make(**bounds)
    residual = normal(2, 12, 10)
    params = params_of(model, residual)
    found, weights = discover(model, params, residual), loop_weights(params)
    key, _ = jax.random.split(jax.random.key(5))
    noise = np.asarray(jax.random.normal(key, (2, 12, 3), jnp.float32))
    for row, low, high in TRAJECTORIES:
        steps = row, slice(low, high)
        mean, log_std = numpy_metacontroller.posterior(weights, residual[steps], model.config)
        np.testing.assert_allclose(found.mean[steps], mean, atol=1e-5)
        np.testing.assert_allclose(found.log_std[steps], log_std, atol=1e-5)
        proposal = mean + np.exp(log_std) * noise[steps]
        np.testing.assert_allclose(found.proposal[steps], proposal, atol=1e-5)
        kl = np.sum((mean**2 + np.exp(log_std) ** 2 - 1) / 2 - log_std, axis=-1)
        np.testing.assert_allclose(found.kl[steps], kl, rtol=1e-4)
    # Deviations differ, and of those that are bounded some reach each bound and some do not.
    assert len(np.unique(found.log_std)) > 10
    assert all((found.log_std == np.float32(bound)).any() for bound in bounds.values())


@pytest.mark.parametrize("gate", ["sigmoid", "gumbel"])
def test_gates_are_those_of_a_loop_with_their_noise_and_temperature(gate):
    model = make(gate=gate, temperature=0.5)
    residual = normal(2, 12, 10)
    params = params_of(model, residual)
    weights = loop_weights(params)
    _, key = jax.random.split(jax.random.key(5))
    logistic = np.asarray(jax.random.logistic(key, (2, 12), jnp.float32))
    for share in (0.5, 1.0):
        helped = GateTraining(noise=share)
        found = call(model, "discover", params, residual, SEGMENT, jax.random.key(5), helped)
        noise = share * logistic if gate == "gumbel" else 0 * logistic
        for row, low, high in TRAJECTORIES:
            history = numpy_metacontroller.histories(weights, residual[row, low:high])
            code = np.zeros(3)
            for t in range(low, high):
                inputs = residual[row, t], history[t - low], code
                logit = numpy_metacontroller.gate_logit(weights, *inputs) + noise[row, t]
                beta = 1 / (1 + np.exp(-logit / 0.5)) if t > low else 1.0
                code = beta * found.proposal[row, t] + (1 - beta) * code
                np.testing.assert_allclose(found.beta[row, t], beta, atol=1e-5)
                np.testing.assert_allclose(found.code[row, t], code, atol=1e-5)


def test_gate_is_causal_and_encoder_is_not(setting):
    model, params, residual = setting
    changed = residual.copy()
    changed[1, 8:] *= -1
    before, after = discover(model, params, residual), discover(model, params, changed)
    assert np.abs(before.mean[1, :8] - after.mean[1, :8]).max() > 1e-4
    # With proposals that depend on nothing the gate before the change must not move.
    encoder = params["params"]["encoder"]
    blind = encoder | {"output": encoder["output"] | {"kernel": np.zeros((64, 6), np.float32)}}
    params = {"params": params["params"] | {"encoder": blind}}
    before, after = discover(model, params, residual), discover(model, params, changed)
    np.testing.assert_array_equal(before.proposal, after.proposal)
    np.testing.assert_allclose(before.beta[1, :8], after.beta[1, :8], atol=1e-6)
    np.testing.assert_allclose(before.code[1, :8], after.code[1, :8], atol=1e-6)
    if model.config.gate != "one":
        assert np.abs(before.beta[1, 8:] - after.beta[1, 8:]).min() > 1e-4


@pytest.mark.parametrize("depth", [1, 2])
def test_trajectory_embedding_is_the_final_state_of_slow_loops(depth):
    model = SequenceEmbedding(size=5, depth=depth)
    x = normal(2, 12, 10)
    params = drawn(model.init, x, SEGMENT, noise=0.3)
    found = np.asarray(jax.jit(model.apply)(params, x, SEGMENT))
    weights = params["params"]
    for row, low, high in TRAJECTORIES:
        expected = numpy_metacontroller.embedding(weights, x[row, low:high], depth)
        np.testing.assert_allclose(
            found[row, low:high], np.tile(expected, (high - low, 1)), atol=1e-5
        )


@pytest.mark.parametrize(("slowness", "sees"), [(4.0, False), (9.0, True)])
def test_slowness_sets_how_far_the_embedding_sees(slowness, sees):
    model = SequenceEmbedding(size=16, slowness=slowness)
    x = normal(1, 300, 10)
    segment = np.zeros((1, 300), np.int32)
    params = jax.jit(model.init)(jax.random.key(1), x, segment)
    changed = x.copy()
    changed[:, 150] += 1
    run = jax.jit(model.apply)
    difference = np.asarray(run(params, changed, segment)) - np.asarray(run(params, x, segment))
    assert (np.abs(difference).max() > 1e-3) == sees


def test_gap_hides_the_steps_that_come_next():
    model = SequenceEmbedding(size=16, kind="step", gap=3)
    x = normal(2, 12, 10)
    params = drawn(model.init, x, SEGMENT, noise=0.3)

    @jax.jit
    def gradient(row, step):
        return jax.grad(lambda x: model.apply(params, x, SEGMENT)[row, step].sum())(x)

    def seen_from(row, step):
        """Steps on which the embedding of one step depends."""
        return set(np.flatnonzero(np.abs(gradient(row, step))[row].max(axis=-1) > 1e-9))

    assert seen_from(1, 4) == {*range(5), *range(7, 12)}
    # Near the end of a trajectory its last step stays visible, and never the next trajectory.
    assert seen_from(0, 1) == {0, 1, 4, 5}
    assert seen_from(0, 4) == {0, 1, 2, 3, 4, 5}
    assert seen_from(0, 7) == {6, 7, 9}


def test_packed_trajectories_do_not_see_each_other(setting):
    model, params, residual = setting
    changed = residual.copy()
    changed[0, :6] *= -1
    before, after = discover(model, params, residual), discover(model, params, changed)
    np.testing.assert_allclose(before.mean[0, 6:10], after.mean[0, 6:10], atol=1e-5)
    np.testing.assert_allclose(before.code[0, 6:10], after.code[0, 6:10], atol=1e-5)
    np.testing.assert_allclose(before.beta[0, 6:10], after.beta[0, 6:10], atol=1e-5)


def test_first_step_of_every_trajectory_switches(setting):
    model, params, residual = setting
    found = discover(model, params, residual)
    for row, t in [(0, 0), (0, 6), (1, 0)]:
        assert found.beta[row, t] == 1.0
        np.testing.assert_allclose(found.code[row, t], found.proposal[row, t], rtol=1e-6)


def test_forced_gate_takes_every_proposal():
    model = make(gate="one")
    residual = normal(2, 12, 10)
    params = params_of(model, residual)
    found = discover(model, params, residual)
    assert (found.beta == 1).all()
    np.testing.assert_array_equal(found.code, found.proposal)


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_control_adds_a_linear_map_of_the_residual(rank):
    model = make(rank=rank)
    residual = normal(2, 12, 10)
    params = params_of(model, residual, noise=0.1)
    code = normal(3, seed=3)

    def change(e):
        return model.apply(params, e, code, method="control") - e

    matrix = np.asarray(jax.jit(jax.jacobian(change))(np.zeros(10, np.float32)))
    assert np.linalg.matrix_rank(matrix, tol=1e-5) == (rank or 10)
    e = residual[0, 0]
    np.testing.assert_allclose(jax.jit(change)(e), matrix @ e, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 4])
def test_control_applies_the_decoded_controller_of_every_token(rank):
    model = make(rank=rank)
    residual = normal(2, 12, 10)
    params = params_of(model, residual, noise=0.1)
    code = normal(2, 12, 3, seed=3)
    factors = call(model, "decode", params, code)
    np.testing.assert_allclose(
        call(model, "control", params, residual, code),
        jax.jit(apply_controller)(factors, residual),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("shape", [(2, 12, 3), (3,)])
def test_gradients_of_control_are_those_of_the_decoded_controllers(rank, shape):
    model = make(rank=rank)
    residual = normal(2, 12, 10)
    params = params_of(model, residual, noise=0.1)
    code = normal(*shape, seed=3)

    def decoded(params, code, residual):
        return apply_controller(model.apply(params, code, method="decode"), residual)

    def control(params, code, residual):
        return model.apply(params, residual, code, method="control")

    def gradients(function):
        loss = lambda *inputs: jnp.mean(jnp.sin(function(*inputs)))  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, code, residual)

    found, expected = gradients(control), gradients(decoded)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)


@pytest.mark.parametrize("rank", [0, 4])
def test_controller_gain_is_the_relative_size_of_the_change(rank):
    model = make(rank=rank, residual_size=64, controller_gain=0.5)
    residual = normal(2, 12, 64)
    code = normal(2, 12, 3, seed=3)
    # The initial parameters that control reads: to draw them all takes seconds to compile.
    init = jax.jit(functools.partial(model.init, method="control"))
    params = init(jax.random.key(1), residual, code)
    change = call(model, "control", params, residual, code) - residual
    ratio = np.sqrt(np.mean(np.square(change)) / np.mean(np.square(residual)))
    assert 0.2 < ratio < 1.0


def test_kl_agrees_with_numerical_integration():
    mean, std = 0.7, 0.4
    x = np.linspace(-8, 8, 200_001)
    p = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    q = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    expected = np.sum(p * np.where(p > 0, np.log(np.maximum(p, 1e-300) / q), 0)) * (x[1] - x[0])
    actual = jax.jit(kl_to_standard_normal)(np.array([mean]), np.log([std]))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"), [("gate", "hard"), ("rank", 11), ("embedding", "pooled")]
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(SettingError, match=f"{value!r} given, allowed is") as fault:
        make(**{field: value}).initial_params(jax.random.key(0))
    assert fault.value.field == field


def test_random_gate_switches_at_its_rate_and_only_there():
    model = make(gate="random", switch_rate=0.3)
    segment = np.zeros((64, 64), np.int32)
    residual = normal(64, 64, 10)
    params = params_of(model, residual, segment)
    found = discover(model, params, residual, segment)
    beta = found.beta
    assert set(np.unique(beta)) == {0.0, 1.0}
    assert abs(beta[:, 1:].mean() - 0.3) < 0.03
    kept = beta[:, 1:] == 0
    np.testing.assert_array_equal(found.code[:, 1:][kept], found.code[:, :-1][kept])
    history = np.zeros((64, 64, 6), np.float32)
    gate = call(model, "switch", params, residual, history, found.code)
    np.testing.assert_allclose(gate, 0.3)
