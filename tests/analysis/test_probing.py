"""Linear probes on hand-made residual streams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from internal_rl.analysis import probing

NUM_SUBGOALS, WIDTH, MAX_TIME = 3, 6, 10


def rows():
    """Two packed rows: trajectories of 5 and 4 tokens, one padding token."""
    segment = np.array([[0] * 5 + [1] * 4 + [-1]] * 2, np.int32)
    subgoal = np.array([[0, 0, 1, 1, 1, 2, 2, 0, 0, -1], [2, 1, 1, 0, 0, 1, 1, 1, 2, -1]], np.int32)
    return subgoal, segment, segment >= 0


def streams(subgoal, seed=0):
    """Layer 0 is noise, layer 1 holds the subgoal linearly."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, *subgoal.shape, WIDTH)).astype(np.float32)
    noise[1, ..., :NUM_SUBGOALS] += 8.0 * (subgoal[..., None] == np.arange(NUM_SUBGOALS))
    return jnp.asarray(noise)


def train(num_steps=150):
    subgoal, _, mask = rows()
    optimiser = optax.adamw(0.05, weight_decay=0.0)
    state = probing.init(2, WIDTH, NUM_SUBGOALS, optimiser)
    step = jax.jit(functools.partial(probing.update, optimiser=optimiser))
    for i in range(num_steps):
        state, metrics = step(state, streams(subgoal, seed=i), subgoal, mask)
    return state, metrics


def test_probe_reads_the_layer_that_holds_the_subgoal_and_no_other():
    state, _ = train()
    subgoal, segment, mask = rows()
    counts = sum(
        (
            probing.count_correct(
                state.weights, streams(subgoal, 1000 + i), subgoal, segment, mask, MAX_TIME
            )
            for i in range(1, 20)
        ),
        start=probing.count_correct(
            state.weights, streams(subgoal, 1000), subgoal, segment, mask, MAX_TIME
        ),
    )
    accuracy = probing.probe_metrics(counts)["accuracy"]
    assert accuracy[1] > 0.95
    assert accuracy[0] < 0.6


def test_training_all_layers_at_once_equals_training_each_alone():
    subgoal, _, mask = rows()
    optimiser = optax.adamw(0.05)
    together = probing.init(2, WIDTH, NUM_SUBGOALS, optimiser)
    alone = probing.init(1, WIDTH, NUM_SUBGOALS, optimiser)
    for i in range(3):
        data = streams(subgoal, seed=i)
        together, _ = probing.update(together, data, subgoal, mask, optimiser)
        alone, _ = probing.update(alone, data[1:], subgoal, mask, optimiser)
    np.testing.assert_allclose(together.weights[1], alone.weights[0], atol=1e-6)


def test_padding_does_not_reach_the_gradient():
    subgoal, _, mask = rows()
    optimiser = optax.sgd(0.1)
    data = streams(subgoal)
    state = probing.init(2, WIDTH, NUM_SUBGOALS, optimiser)
    clean, _ = probing.update(state, data, subgoal, mask, optimiser)
    spoilt = data.at[:, :, -1].set(1e6)
    dirty, _ = probing.update(state, spoilt, subgoal, mask, optimiser)
    np.testing.assert_array_equal(clean.weights, dirty.weights)


def test_times_restart_with_trajectory_and_subgoal():
    subgoal, segment, _ = rows()
    assert probing.time_in_trajectory(segment)[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0]
    assert probing.time_in_subgoal(segment, subgoal)[0].tolist() == [0, 1, 0, 1, 2, 0, 1, 0, 1, 0]


def test_accuracy_tables_equal_a_loop_over_tokens():
    subgoal, segment, mask = rows()
    weights = jax.random.normal(jax.random.key(0), (2, WIDTH, NUM_SUBGOALS))
    residuals = streams(subgoal)
    counts = probing.count_correct(weights, residuals, subgoal, segment, mask, MAX_TIME)
    by_time = np.zeros((2, MAX_TIME))
    by_age = np.zeros((2, MAX_TIME))
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
            log_prob[layer] += logits[subgoal[row, t]] - np.log(np.exp(logits).sum())
    np.testing.assert_array_equal(counts.correct_by_time, by_time)
    np.testing.assert_array_equal(counts.correct_by_age, by_age)
    np.testing.assert_allclose(counts.log_prob, log_prob, rtol=1e-4)
    assert counts.tokens == mask.sum() == counts.tokens_by_time.sum() == counts.tokens_by_age.sum()
