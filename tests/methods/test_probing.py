"""Linear probes on hand-made residual streams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from internal_rl.experts.dataset import Dataset
from internal_rl.methods import probing
from internal_rl.types import Trajectory
from tests.methods.toy import NUM_SUBGOALS as TOY_SUBGOALS
from tests.methods.toy import ToySource

NUM_SUBGOALS, WIDTH, MAX_TIME = 3, 6, 10


def rows():
    """Two packed rows: trajectories of 5 and 4 tokens, one padding token."""
    segment = np.array([[0] * 5 + [1] * 4 + [-1]] * 2, np.int32)
    subgoal = np.array([[0, 0, 1, 1, 1, 2, 2, 0, 0, -1], [2, 1, 1, 0, 0, 1, 1, 1, 2, -1]], np.int32)
    return Trajectory(None, None, None, segment >= 0, subgoal, segment)


def streams(subgoal, seed=0):
    """Layer 0 is noise, layer 1 holds the subgoal linearly."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, *subgoal.shape, WIDTH)).astype(np.float32)
    noise[1, ..., :NUM_SUBGOALS] += 8.0 * (subgoal[..., None] == np.arange(NUM_SUBGOALS))
    return jnp.asarray(noise)


def train(num_steps=150):
    batch = rows()
    optimiser = optax.adamw(0.05, weight_decay=0.0)
    state = probing.initial_probes(2, WIDTH, NUM_SUBGOALS, optimiser)
    step = jax.jit(functools.partial(probing.update_probes, optimiser=optimiser))
    for i in range(num_steps):
        state, metrics = step(state, streams(batch.subgoal, seed=i), batch)
    return state, metrics


def test_probe_reads_the_layer_that_holds_the_subgoal_and_no_other():
    state, _ = train()
    batch = rows()
    first, *others = (
        probing.count_correct(state.weights, streams(batch.subgoal, 1000 + i), batch, MAX_TIME)
        for i in range(20)
    )
    counts = sum(others, start=first)
    accuracy = probing.probe_metrics(counts)["accuracy"]
    assert accuracy[1] > 0.95
    assert accuracy[0] < 0.6


def test_training_all_layers_at_once_equals_training_each_alone():
    batch = rows()
    optimiser = optax.adamw(0.05)
    together = probing.initial_probes(2, WIDTH, NUM_SUBGOALS, optimiser)
    alone = probing.initial_probes(1, WIDTH, NUM_SUBGOALS, optimiser)
    for i in range(3):
        data = streams(batch.subgoal, seed=i)
        together, _ = probing.update_probes(together, data, batch, optimiser)
        alone, _ = probing.update_probes(alone, data[1:], batch, optimiser)
    np.testing.assert_allclose(together.weights[1], alone.weights[0], atol=1e-6)


def test_padding_does_not_reach_the_gradient():
    batch = rows()
    optimiser = optax.sgd(0.1)
    data = streams(batch.subgoal)
    state = probing.initial_probes(2, WIDTH, NUM_SUBGOALS, optimiser)
    clean, _ = probing.update_probes(state, data, batch, optimiser)
    spoilt = data.at[:, :, -1].set(1e6)
    dirty, _ = probing.update_probes(state, spoilt, batch, optimiser)
    np.testing.assert_array_equal(clean.weights, dirty.weights)


def test_times_restart_with_trajectory_and_subgoal():
    subgoal, segment = rows().subgoal, rows().segment
    assert probing.time_in_trajectory(segment)[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0]
    assert probing.time_in_subgoal(segment, subgoal)[0].tolist() == [0, 1, 0, 1, 2, 0, 1, 0, 1, 0]


def test_accuracy_tables_equal_a_loop_over_tokens():
    batch = rows()
    subgoal, segment, mask = batch.subgoal, batch.segment, batch.mask
    weights = jax.random.normal(jax.random.key(0), (2, WIDTH, NUM_SUBGOALS))
    residuals = streams(subgoal)
    counts = probing.count_correct(weights, residuals, batch, MAX_TIME)
    by_time = np.zeros((2, MAX_TIME))
    by_age = np.zeros((2, MAX_TIME))
    tokens_by_time, tokens_by_age = np.zeros(MAX_TIME), np.zeros(MAX_TIME)
    log_prob = np.zeros(2)
    for layer, row in np.ndindex(2, 2):
        for t in np.flatnonzero(mask[row]):
            logits = np.asarray(residuals[layer, row, t]) @ np.asarray(weights[layer])
            start = min(u for u in range(t + 1) if segment[row, u] == segment[row, t])
            age = next(
                a
                for a in range(t - start + 1)
                if t - a == start or subgoal[row, t - a - 1] != subgoal[row, t]
            )
            right = logits.argmax() == subgoal[row, t]
            by_time[layer, t - start] += right
            by_age[layer, age] += right
            # The same tokens at both layers.
            tokens_by_time[t - start] += 0.5
            tokens_by_age[age] += 0.5
            log_prob[layer] += logits[subgoal[row, t]] - np.log(np.exp(logits).sum())
    np.testing.assert_array_equal(counts.correct_by_time, by_time)
    np.testing.assert_array_equal(counts.correct_by_age, by_age)
    np.testing.assert_array_equal(counts.tokens_by_time, tokens_by_time)
    np.testing.assert_array_equal(counts.tokens_by_age, tokens_by_age)
    assert (tokens_by_time != tokens_by_age).any()
    np.testing.assert_allclose(counts.log_prob, log_prob, rtol=1e-4)
    assert counts.tokens == mask.sum() == counts.tokens_by_time.sum() == counts.tokens_by_age.sum()


def test_shares_are_told_of_moments_with_twenty_tokens_or_more():
    counts = probing.ProbeCounts(
        correct=jnp.array([15.0, 45.0]),
        log_prob=jnp.array([-90.0, -30.0]),
        tokens=jnp.float32(60.0),
        correct_by_time=jnp.array([[1.0, 4.0, 10.0, 0.0], [19.0, 10.0, 16.0, 0.0]]),
        tokens_by_time=jnp.array([19.0, 20.0, 21.0, 0.0]),
        correct_by_age=jnp.array([[12.0, 3.0, 0.0, 0.0], [33.0, 11.0, 1.0, 0.0]]),
        tokens_by_age=jnp.array([40.0, 19.0, 1.0, 0.0]),
    )
    found = probing.probe_metrics(counts)
    none, few = np.nan, [np.nan, np.nan, np.nan]
    expected = {
        "accuracy": [0.25, 0.75],
        "cross_entropy": [1.5, 0.5],
        "accuracy_by_time": [[none, 4 / 20, 10 / 21, none], [none, 10 / 20, 16 / 21, none]],
        "accuracy_by_age": [[12 / 40, *few], [33 / 40, *few]],
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)


def test_probes_of_a_base_model_are_trained_and_evaluated(model):
    config = probing.Config(batch_size=16, steps=60, learning_rate=3e-2, evaluation_rows=4)
    method = probing.Probing(config, model, ToySource(), TOY_SUBGOALS, max_time=10)
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    update, losses = jax.jit(method.update), []
    for _ in range(60):
        state, metrics = update(state, method.frozen)
        losses.append(metrics["loss"])
    assert set(metrics) == {"loss", *(f"probe_loss_layer_{i}" for i in range(3))}
    np.testing.assert_allclose(losses[0], np.log(TOY_SUBGOALS), rtol=1e-5)
    assert losses[-1] < losses[0] - 0.2
    evaluation = jax.jit(method.evaluate)(state, method.frozen)
    assert set(evaluation) == {f"accuracy_layer_{i}" for i in range(3)}
    # One subgoal of three shows, the other two look alike.
    assert 0.5 < evaluation["accuracy_layer_0"] < 0.85
    assert method.params(state)["weights"].shape == (3, model.base.width, TOY_SUBGOALS)


def test_trajectories_without_subgoals_are_refused(model):
    with pytest.raises(ValueError, match="source of probing: labelled is False, allowed are"):
        probing.Probing(probing.Config(), model, ToySource(labelled=False), 3, max_time=10)


def test_labels_that_no_probe_knows_are_refused(model):
    seen, steps = np.zeros((4, 9, 5), np.uint8), np.zeros((4, 8), int)
    source = Dataset.from_arrays(seen, steps, np.full(4, 8), steps + 3)
    with pytest.raises(ValueError, match="subgoals hold 3, allowed is 0 to 2 as num_subgoals t"):
        probing.Probing(probing.Config(), model, source, 3, max_time=10)
