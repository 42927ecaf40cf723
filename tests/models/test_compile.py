"""CompILE: segments as plain NumPy finds them, blind to padding; a gate blind to the future."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.compile import CompileConfig, as_discovery, make_compile, segment_changes
from internal_rl.section import SettingError
from internal_rl.types import ActionSpec, ObservationSpec
from tests.models import numpy_compile
from tests.parameters import drawn

SEGMENT = np.array([[0] * 7 + [1] + [2] * 2 + [-1] * 2, [0] * 12])
TRAJECTORIES = [(0, 0, 7), (0, 7, 8), (0, 8, 10), (1, 0, 12)]
KEY = jax.random.key(3)
CONFIG = CompileConfig(code_size=3, num_segments=3, rank=2, history_size=6, temperature=0.5)


def make_base(**fields):
    sizes = {"block": "hawk", "width": 8, "depth": 4, "num_heads": 2, "mlp_size": 12}
    specs = ObservationSpec("gaussian", 5), ActionSpec("categorical", 2)
    return BaseModel(*specs, BaseConfig(**sizes | fields), max_length=12)


@pytest.fixture(scope="module")
def module():
    return make_compile(make_base(), 2, CONFIG)


@pytest.fixture(scope="module")
def params(module):
    return drawn(module.initial_params, noise=0.5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


OBSERVATION = normal(2, 12, 5)


@functools.partial(jax.jit, static_argnums=0)
def both(module, params, observation, segment):
    """Relaxed segments, and those with the most probable boundaries."""
    return tuple(
        module.apply(params, observation, segment, KEY, relaxed, method="segments")
        for relaxed in (True, False)
    )


@pytest.fixture(scope="module")
def found(module, params):
    return jax.device_get(both(module, params, OBSERVATION, SEGMENT))


def noise():
    """Of boundaries, `(M, B, S)`, and of codes, `(M, B, S, n_z)`."""
    keys = [jax.random.split(key) for key in jax.random.split(KEY, CONFIG.num_segments)]
    shape = SEGMENT.shape
    gumbel = [jax.random.gumbel(key, shape, jnp.float32) for key, _ in keys]
    normal = [jax.random.normal(key, (*shape, CONFIG.code_size), jnp.float32) for _, key in keys]
    return np.array(gumbel), np.array(normal)


@pytest.mark.parametrize("relaxed", [True, False])
def test_segments_equal_slow_ones_of_every_trajectory_alone(params, found, relaxed):
    segments = found[0 if relaxed else 1]
    gumbel, gaussian = noise()
    for row, low, high in TRAJECTORIES:
        expected = numpy_compile.segments(
            jax.tree.map(np.float64, params["params"]),
            OBSERVATION[row, low:high],
            CONFIG,
            gumbel[:, row, low:high] if relaxed else None,
            gaussian[:, row, low],
        )
        for i, one in enumerate(expected):
            for name in ("left", "weight"):
                values = getattr(segments, name)[i, row, low:high]
                np.testing.assert_allclose(values, one[name], atol=1e-5, err_msg=name)
            for name in ("code", "mean", "log_std"):
                values = getattr(segments, name)[i, row, low:high]
                wanted = np.tile(one[name], (high - low, 1))
                np.testing.assert_allclose(values, wanted, atol=1e-5, err_msg=name)
            if i + 1 < len(expected):
                for name in ("boundary", "log_prob"):
                    values = getattr(segments, name)[i, row, low:high]
                    np.testing.assert_allclose(values, one[name], atol=1e-5, err_msg=name)


def test_boundaries_are_distributions_without_first_steps_and_padding(found):
    for segments in found:
        for row, low, high in TRAJECTORIES:
            boundary = segments.boundary[:, row, low:high]
            assert (boundary[:, 0] == 0).all()
            np.testing.assert_allclose(boundary.sum(axis=1), float(high - low > 1), atol=1e-6)
        assert (segments.boundary[:, 0, 10:] == 0).all()
        np.testing.assert_allclose(segments.weight.sum(axis=0), 1.0, atol=1e-6)


def test_codes_in_force_are_those_of_earlier_segments_until_ones_own(found):
    segments = found[1]
    in_force = np.asarray(segments.in_force())
    for row, low, high in TRAJECTORIES:
        own = segments.weight[:, row, low:high].argmax(axis=0)
        for i in range(CONFIG.num_segments):
            for t in range(low, high):
                expected = segments.code[min(own[t - low], i), row, t]
                np.testing.assert_allclose(in_force[i, row, t], expected, atol=1e-6)


def test_padding_changes_nothing(module, params, found):
    changed = OBSERVATION.copy()
    changed[0, 10:] = 100.0
    again = jax.device_get(both(module, params, changed, SEGMENT))
    real = SEGMENT >= 0
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:, real], y[:, real]), found, again)


def test_each_segment_begins_with_a_switch(found):
    segments = found[1]
    discovery = jax.device_get(jax.jit(as_discovery)(segments, SEGMENT))
    for row, low, high in TRAJECTORIES:
        own = segments.weight[:, row, low:high].argmax(axis=0)
        begins = np.concatenate([[True], own[1:] != own[:-1]])
        np.testing.assert_array_equal(discovery.beta[row, low:high], begins)
        assert (np.diff(own) >= 0).all()
        np.testing.assert_array_equal(discovery.kl[row, low:high] > 0, begins)
        for t in range(low, high):
            expected = segments.code[own[t - low], row, t]
            np.testing.assert_allclose(discovery.code[row, t], expected, atol=1e-6)
    # Two boundaries at one step are one switch, an empty segment none.
    weight = np.zeros((3, 1, 4), np.float32)
    weight[0, 0, :2] = weight[2, 0, 2:] = 1
    changes = segment_changes(weight, np.zeros((1, 4), np.int32))
    np.testing.assert_array_equal(changes[0], [False, False, True, False])


def test_the_gate_sees_no_future_and_is_the_one_that_acts(module, params):
    residual, code = normal(2, 12, 8, seed=1), normal(2, 12, 3, seed=2)

    @jax.jit
    def gates(residual, code):
        def one(history, inputs):
            residual, code, first = inputs
            history = jnp.where(first[:, None], 0.0, history)
            beta = module.apply(params, residual, history, code, method="switch")
            return module.apply(params, residual, history, method="history_step"), beta

        first = np.pad(SEGMENT[:, 1:] != SEGMENT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        before = jnp.where(first[..., None], 0.0, jnp.pad(code[:, :-1], ((0, 0), (1, 0), (0, 0))))
        inputs = (residual.swapaxes(0, 1), before.swapaxes(0, 1), first.T)
        steps = jax.lax.scan(one, module.initial_history(2), inputs)[1].T
        logits = module.apply(params, residual, SEGMENT, code, method="gate_logits")
        return jax.nn.sigmoid(logits), steps

    together, steps = gates(residual, code)
    np.testing.assert_allclose(together, steps, atol=1e-5)
    residual[1, 8:] *= -1
    code[1, 7:] *= -1
    changed, _ = gates(residual, code)
    np.testing.assert_array_equal(changed[1, :8], together[1, :8])
    np.testing.assert_array_equal(changed[0], together[0])
    assert (np.asarray(changed[1, 8:]) != np.asarray(together[1, 8:])).all()


def test_the_encoder_is_as_deep_as_the_base_model_below_its_layer(params):
    blocks = [name for name in params["params"] if name.startswith("block_")]
    assert blocks == ["block_1", "block_2"]
    assert params["params"]["embedding"]["kernel"].shape == (5, 8)

    odd = make_compile(make_base(block="transformer", num_heads=6), 2, CONFIG)
    assert odd.block.num_heads == 2


def test_a_single_segment_is_refused():
    with pytest.raises(SettingError, match="num_segments: 1 given, allowed is 2 to 64"):
        CompileConfig(num_segments=1)
