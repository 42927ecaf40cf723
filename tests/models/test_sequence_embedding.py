"""The sequence embedding of Hawk layers against loops over single trajectories in NumPy."""

import jax
import numpy as np
import pytest

from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.sequence_embedding import SequenceEmbedding
from internal_rl.section import SettingError
from tests.parameters import drawn

SIZE, HEADS = 8, 2
# Trajectories of 11, of 3 and 5 and padding, and of 1, 1 and 9 steps.
SEGMENT = np.array([[0] * 11, [0] * 3 + [1] * 5 + [-1] * 3, [0] + [1] + [2] * 9])
RESIDUAL = np.random.default_rng(1).normal(size=(3, 11, 6)).astype(np.float32)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def rms_norm(p, x):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * p["scale"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gate(p, x):
    size = SIZE // HEADS
    parts = [x[i * size : (i + 1) * size] @ p["kernel"][i] for i in range(HEADS)]
    return sigmoid(np.concatenate(parts) + p["bias"])


def hawk(p, xs):
    """A Hawk block over the steps of one trajectory, `(T, n)`, one after the other."""
    hidden, entered, outputs = np.zeros(SIZE), [], []
    for x in xs:
        normed = rms_norm(p["temporal_norm"], x)
        entered.append(dense(p["recurrence_input"], normed))
        convolved = p["convolution"]["bias"] + sum(
            p["convolution"]["kernel"][-1 - lag] * entered[-1 - lag]
            for lag in range(min(4, len(entered)))
        )
        recurrence = p["recurrence"]
        decay = np.exp(
            -8.0
            * np.log1p(np.exp(recurrence["decay"]))
            * gate(recurrence["recurrence_gate"], convolved)
        )
        hidden = decay * hidden + np.sqrt(1 - decay**2) * (
            gate(recurrence["input_gate"], convolved) * convolved
        )
        x = x + dense(p["temporal_output"], gelu(dense(p["gate_input"], normed)) * hidden)
        inside = np.maximum(dense(p["mlp"]["hidden"], rms_norm(p["mlp_norm"], x)), 0)
        outputs.append(x + dense(p["mlp"]["output"], inside))
    return np.stack(outputs)


def embedding_of(p, residual, depth, kind, gap):
    """Embedding of one trajectory `(T, n_e)`: `(T, SIZE)`."""
    xs = dense(p["projection"], residual)
    for i in range(1, depth + 1):
        forward = hawk(p[f"layer_{i}"]["forward"], xs)
        backward = hawk(p[f"layer_{i}"]["backward"], xs[::-1])[::-1]
        if kind == "trajectory" and i == depth:
            summary = dense(p["summary"], np.concatenate([forward[-1], backward[0]]))
            return np.tile(summary, (len(xs), 1))
        shift = gap if kind == "step" else 0
        later = [min(t + shift, len(xs) - 1) for t in range(len(xs))]
        xs = forward + (backward - xs)[later]
    return rms_norm(p["output_norm"], xs)


@pytest.mark.parametrize(
    ("depth", "kind", "gap"), [(1, "trajectory", 0), (2, "trajectory", 3), (2, "step", 2)]
)
def test_layers_of_the_base_model_run_in_both_directions(depth, kind, gap):
    module = SequenceEmbedding(
        SIZE, depth, kind, gap=gap, layers="hawk", num_heads=HEADS, mlp_size=12
    )
    params = drawn(module.init, RESIDUAL, SEGMENT)
    found = np.asarray(jax.jit(module.apply)(params, RESIDUAL, SEGMENT))
    weights = jax.tree.map(np.float64, params["params"])
    assert found.shape == (3, 11, SIZE)
    for row in range(3):
        for number in range(3):
            steps = SEGMENT[row] == number
            if steps.any():
                residual = RESIDUAL[row, steps].astype(np.float64)
                expected = embedding_of(weights, residual, depth, kind, gap)
                np.testing.assert_allclose(found[row, steps], expected, atol=2e-5)


def test_a_metacontroller_takes_them():
    config = MetacontrollerConfig(
        code_size=3, rank=2, embedding_layers="hawk", embedding_size=SIZE, embedding_depth=2
    )
    module = Metacontroller(6, config)
    shapes = jax.eval_shape(module.initial_params, jax.random.key(0))
    assert set(shapes["params"]["summary"]) == {"projection", "layer_1", "layer_2", "summary"}


def test_heads_have_to_fit():
    with pytest.raises(SettingError, match="embedding_heads: 3 given, allowed is a divisor of"):
        MetacontrollerConfig(embedding_layers="hawk", embedding_heads=3)
    with pytest.raises(SettingError, match="embedding_layers: 'gru' given, allowed is gated, hawk"):
        MetacontrollerConfig(embedding_layers="gru")
