"""Variance of the two policy-gradient estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.analysis import credit, examination
from internal_rl.models.heads import action_log_prob, gaussian_log_prob
from internal_rl.models.metacontroller import Metacontroller
from internal_rl.models.policy import CodePolicy
from internal_rl.rl.internal_env import InternalEnv, decision_steps

LAYER, NUM_EPISODES = 1, 32
# Different for every episode, so that a weighted sum tells their gradients apart.
WEIGHTS = jnp.linspace(-1.0, 2.0, NUM_EPISODES)


@pytest.fixture(scope="module")
def internal(env, base, base_params):
    """Environment, parameters and a rollout of an untrained policy."""
    metacontroller = Metacontroller(
        residual_size=base.width, code_size=3, rank=2, history_size=8, controller_gain=1.0
    )
    policy = CodePolicy(
        code_size=3, width=8, num_heads=2, mlp_size=8, init_scale=1.0, output_init_scale=1.0
    )
    segment = jnp.zeros((1, 4), jnp.int32)
    residual = jnp.zeros((1, 4, base.width))
    key = jax.random.key(5)
    params = {
        "base": base_params,
        "metacontroller": jax.jit(metacontroller.init)(key, residual, segment, key),
        "policy": jax.jit(policy.init)(key, residual, segment),
    }
    internal_env = InternalEnv(env, base, metacontroller, policy, LAYER, threshold=0.27)
    run = jax.jit(
        lambda key: internal_env.rollout(params, key, env.pretraining_tasks[0][:1], NUM_EPISODES)
    )
    return internal_env, params, run(jax.random.key(6))


@pytest.fixture(scope="module")
def measure(internal):
    """Compiled once: scores of raw actions and of codes, and the variances, of any rollout."""
    env, params, _ = internal
    return jax.jit(
        lambda rollout: (
            credit.raw_scores(env, params, rollout),
            credit.code_scores(env, params, rollout),
            credit.gradient_variance(env, params, rollout),
        )
    )


def test_code_scores_sum_to_the_gradient_of_the_codes_log_probability(internal, measure):
    env, params, rollout = internal
    steps = decision_steps(rollout.ask)
    episode = jnp.arange(NUM_EPISODES)[:, None]
    mask = jnp.arange(steps.shape[1]) < rollout.switches[:, None]
    assert rollout.switches.max() > 1

    def log_prob(bias):
        mean, log_std = env.policy.apply(params["policy"], rollout.residual[episode, steps], mask)
        each = gaussian_log_prob(mean + bias, log_std, rollout.code[episode, steps])
        return jnp.sum(WEIGHTS[:, None] * each * mask)

    expected = jax.jit(jax.grad(log_prob))(jnp.zeros(3))
    _, scores, _ = measure(rollout)
    np.testing.assert_allclose(jnp.einsum("b,btz->z", WEIGHTS, scores), expected, rtol=1e-3)
    assert np.all(np.asarray(scores)[~np.asarray(rollout.ask)] == 0.0)


def test_raw_scores_sum_to_the_gradient_through_the_base_model(internal, measure):
    env, params, rollout = internal

    def log_prob(bias):
        controlled = env.metacontroller.apply(
            params["metacontroller"], rollout.residual, rollout.code + bias, method="control"
        )
        segment = jnp.zeros(rollout.active.shape, jnp.int32)
        output = env.base.apply(params["base"], controlled, segment, LAYER, method="upper")
        each = action_log_prob("categorical", output.action, rollout.action)
        return jnp.sum(WEIGHTS[:, None] * each * rollout.active)

    expected = jax.jit(jax.grad(log_prob))(jnp.zeros(3))
    scores, _, _ = measure(rollout)
    np.testing.assert_allclose(jnp.einsum("b,btz->z", WEIGHTS, scores), expected, rtol=1e-3)


def test_variances_equal_numpy_over_the_episodes_that_last(internal, measure):
    _, _, rollout = internal
    raw, code, variance = jax.device_get(measure(rollout))
    raw, code = np.cumsum(raw, axis=1), np.cumsum(code, axis=1)
    advantage = np.asarray(rollout.returns - rollout.returns.mean())
    advantage = advantage / (np.std(rollout.returns) + 1e-3)
    ones = np.ones(NUM_EPISODES)
    for n in (1, 3, 6):
        chosen = np.asarray(rollout.active)[:, n - 1]
        assert variance.episodes[n - 1] == chosen.sum() >= 2
        for values, weight, name in [
            (raw, advantage, "raw"),
            (code, advantage, "code"),
            (raw, ones, "raw_score"),
            (code, ones, "code_score"),
        ]:
            gradient = (weight[:, None] * values[:, n - 1])[chosen]
            expected = np.trace(np.cov(gradient.T))
            np.testing.assert_allclose(getattr(variance, name)[n - 1], expected, rtol=1e-3)


def test_raw_variance_grows_with_raw_steps_and_code_variance_only_at_switches(internal, measure):
    _, _, rollout = internal
    _, _, variance = measure(
        rollout.replace(
            ask=rollout.ask & (jnp.arange(rollout.ask.shape[1]) == 0),
            active=jnp.ones_like(rollout.active),
        )
    )
    np.testing.assert_allclose(variance.code_score, variance.code_score[0], rtol=1e-5)
    assert variance.raw_score[-1] > 2.0 * variance.raw_score[0]


def test_the_report_gets_every_curve(internal, measure, monkeypatch):
    env, params, rollout = internal
    variance = measure(rollout)[2]
    monkeypatch.setattr(credit, "gradient_variance", lambda *_: variance)
    results = examination.examine_credit(env, params, rollout)
    names = ("code", "raw", "code_score", "raw_score", "episodes")
    assert set(results) == {f"gradient_{name}" for name in names}
    np.testing.assert_array_equal(results["gradient_raw"], variance.raw)


def test_the_episode_that_went_furthest_is_shown(internal):
    env, _, rollout = internal
    progress = jnp.zeros_like(rollout.progress).at[2, 0].set(1)
    shown = examination.example_episode(env.world, rollout.replace(progress=progress))
    length = int(rollout.length[2])
    for name in ("observation", "beta", "ask", "code"):
        expected = np.asarray(getattr(rollout, name)[2, :length])
        np.testing.assert_array_equal(shown[f"episode_{name}"], expected)
    assert shown["episode_progress"].shape == (length,)
    assert shown["episode_place"].shape == (length, 2)
