"""Small parts of training: files, weights, metrics, keys, optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.errors import StorageError
from internal_rl.files import read_json, write_atomically, write_json
from internal_rl.training.metrics import MetricsWriter, read_metrics
from internal_rl.training.optimiser import apply_gradients, make_optimiser, make_schedule
from internal_rl.training.randomness import named_key, named_keys
from internal_rl.training.weights import load_weights, save_weights


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "config.json"
    write_json(file, {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("internal_rl.files.os.fsync", full)
    with pytest.raises(OSError):
        write_atomically(file, "x" * 100)
    assert read_json(file) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_weights_come_back_bit_for_bit_and_as_plain_dictionaries(tmp_path):
    params = {
        "block": {"kernel": jnp.arange(6.0).reshape(2, 3), "step": jnp.int32(3)},
        "half": jnp.ones((2,), jnp.bfloat16),
    }
    save_weights(tmp_path / "w.msgpack", params)
    loaded = load_weights(tmp_path / "w.msgpack")
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "w.msgpack").write_bytes(b"\xc1 not msgpack")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(StorageError, match="w.msgpack"):
        load_weights(tmp_path / "w.msgpack")
    with pytest.raises(StorageError, match="c.json"):
        read_json(tmp_path / "c.json")


def test_metrics_keep_whole_lines_and_write_nan_as_null(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss": 0.5, "ratio": float("nan")}, 0.0)
    writer.write(2, {"loss": 0.25}, 0.0)
    writer.close()
    assert read_metrics(tmp_path)[0] == {"step": 1, "loss": 0.5, "ratio": None}
    MetricsWriter(tmp_path, 1).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]


def test_keys_by_name_do_not_depend_on_each_other():
    key = jax.random.key(0)
    some, more = named_keys(key, "data", "params"), named_keys(key, "new", "params", "data")
    assert some["data"] == more["data"] == named_key(key, "data")
    assert some["data"] != some["params"]
    np.testing.assert_array_equal(
        jax.random.key_data(named_key(key, "data")), [118642174, 3645775242]
    )


def test_schedule_warms_up_then_decays_or_stays():
    decaying = make_schedule(1.0, 100, warmup_steps=10, final_learning_rate=0.1)
    np.testing.assert_allclose([decaying(0), decaying(5), decaying(10)], [0.0, 0.5, 1.0])
    np.testing.assert_allclose(decaying(100), 0.1, rtol=1e-5)
    constant = make_schedule(1.0, 100)
    np.testing.assert_allclose([constant(0), constant(100)], 1.0)


def test_weight_decay_is_decoupled():
    params = {"w": jnp.full(3, 2.0)}
    optimiser = make_optimiser(0.1, weight_decay=0.5, max_gradient_norm=1.0)
    gradients = {"w": jnp.zeros(3)}
    new, _, metrics = apply_gradients(optimiser, gradients, optimiser.init(params), params)
    np.testing.assert_allclose(new["w"], 2.0 - 0.1 * 0.5 * 2.0, rtol=1e-6)
    assert metrics["gradient_norm"] == 0.0


def adam_steps(gradients, rate):
    """Where Adam (Kingma & Ba 2015) comes to from 0 under some gradients, one after the other."""
    place = first = second = 0.0
    for number, gradient in enumerate(gradients, 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9**number), second / (1 - 0.999**number)
        place = place - rate * mean / (np.sqrt(square) + 1e-8)
    return place


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_gradients_are_clipped_to_their_global_norm_and_told_as_they_were(limit):
    """Adam does not ask how large a gradient is, but how large it is beside the one before."""
    direction = np.array([0.6, -0.48, 0.64])
    gradients = [100.0 * direction, 1.0 * direction[[1, 2, 0]]]
    optimiser = make_optimiser(0.1, max_gradient_norm=limit)
    params = {"w": jnp.zeros(2), "b": jnp.zeros(1)}
    state, norms = optimiser.init(params), []
    for x in gradients:
        given = {"w": jnp.float32(x[:2]), "b": jnp.float32(x[2:])}
        params, state, metrics = apply_gradients(optimiser, given, state, params)
        norms.append(metrics["gradient_norm"])
    # The norm is that of all parameters together, before it is clipped.
    np.testing.assert_allclose(norms, [100.0, 1.0], rtol=1e-5)
    found = np.concatenate([params["w"], params["b"]])
    clipped, whole = adam_steps([direction, gradients[1]], 0.1), adam_steps(gradients, 0.1)
    assert np.abs(clipped - whole).min() > 0.01
    np.testing.assert_allclose(found, clipped if limit else whole, rtol=1e-4)


def test_muon_takes_orthogonal_steps_on_matrices_as_large_as_those_of_adamw():
    optimiser = make_optimiser(0.01, optimiser="muon")
    gradient = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    params = {"kernel": jnp.zeros((6, 9)), "bias": jnp.zeros(4)}
    gradients = {"kernel": jnp.asarray(gradient), "bias": jnp.array([3.0, -1.0, 0.5, -2.0])}
    new, _, _ = apply_gradients(optimiser, gradients, optimiser.init(params), params)
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    expected = -0.01 * 0.2 * np.sqrt(9) * left @ right
    # Newton-Schulz leaves singular values between about 0.7 and 1.2.
    np.testing.assert_allclose(
        left.T @ np.asarray(new["kernel"]) @ right.T, left.T @ expected @ right.T, atol=0.0025
    )
    # Adam's first step with Nesterov momentum: sign of the gradient times (0.9 / 0.19 + 1) * 0.1.
    size = 0.01 * (0.9 * 0.1 / 0.19 + 1.0)
    np.testing.assert_allclose(new["bias"], -size * np.sign(gradients["bias"]), rtol=1e-3)


def test_muon_takes_every_matrix_of_a_stack_for_itself():
    optimiser = make_optimiser(0.01, optimiser="muon")
    # The second matrix has a gradient 1,000 times as large; on its own it takes no larger a step.
    gradients = np.random.default_rng(0).normal(size=(2, 5, 4)) * [[[1.0]], [[1e3]]]
    gradients = jnp.asarray(gradients, jnp.float32)

    def step(gradient):
        params = jnp.zeros(gradient.shape)
        return apply_gradients(optimiser, gradient, optimiser.init(params), params)[0]

    alone = np.stack([step(gradient) for gradient in gradients])
    np.testing.assert_allclose(step(gradients), alone, rtol=1e-3, atol=1e-6)


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(ValueError, match="optimiser is 'sgd', allowed are adamw, muon"):
        make_optimiser(0.1, optimiser="sgd")
