"""The abstract timescale against a loop over raw steps."""

import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.acting.decisions import abstract_sequence, decision_steps, num_decisions
from internal_rl.acting.episodes import Episodes

EPISODES, STEPS = 17, 9


def random_episodes():
    rng = np.random.default_rng(0)
    active = np.arange(STEPS) < rng.integers(1, STEPS + 1, size=EPISODES)[:, None]
    ask = rng.random((EPISODES, STEPS)) < 0.4
    ask[:, 0] = True
    record = {
        "residual": rng.normal(size=(EPISODES, STEPS, 5)).astype(np.float32),
        "code": rng.normal(size=(EPISODES, STEPS, 2)).astype(np.float32),
        "log_prob": rng.normal(size=(EPISODES, STEPS)).astype(np.float32),
        "ask": ask & active,
    }
    reward = rng.random((EPISODES, STEPS)).astype(np.float32) * active
    return jax.tree.map(jnp.asarray, Episodes(active=active, reward=reward, record=record))


def test_abstract_sequence_agrees_with_a_loop():
    episodes = random_episodes()
    record = episodes.record
    decisions = jax.tree.map(np.asarray, abstract_sequence(episodes, STEPS))
    for b in range(EPISODES):
        k = -1
        rewards, durations = np.zeros(STEPS), np.zeros(STEPS)
        for t in range(episodes.active[b].sum()):
            if record["ask"][b, t]:
                k += 1
                for name in ("code", "residual", "log_prob"):
                    np.testing.assert_array_equal(
                        getattr(decisions, name)[b, k], record[name][b, t]
                    )
            rewards[k] += episodes.reward[b, t]
            durations[k] += 1
        assert decisions.mask[b].sum() == k + 1
        np.testing.assert_array_equal(decisions.duration[b], durations)
        np.testing.assert_allclose(decisions.reward[b], rewards, rtol=1e-6)


def test_only_the_first_decisions_are_taken():
    episodes = random_episodes()
    whole, short = abstract_sequence(episodes, STEPS), abstract_sequence(episodes, 2)
    np.testing.assert_array_equal(short.mask, whole.mask[:, :2])
    np.testing.assert_array_equal(short.code, whole.code[:, :2])
    np.testing.assert_array_equal(short.duration, whole.duration[:, :2])


def test_decisions_are_counted_and_found_in_order():
    episodes = random_episodes()
    ask = np.asarray(episodes.record["ask"])
    count, steps = num_decisions(episodes), decision_steps(episodes.record["ask"])
    for b in range(EPISODES):
        expected = np.flatnonzero(ask[b])
        assert count[b] == len(expected)
        np.testing.assert_array_equal(steps[b, : len(expected)], expected)
