"""Variance of the two policy-gradient estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.acting.code_policy import CodePolicyControl
from internal_rl.acting.decisions import decision_steps, num_decisions
from internal_rl.acting.episodes import play
from internal_rl.analysis import credit
from internal_rl.models.heads import action_log_prob, gaussian_log_prob
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.policy import CodePolicy

NUM_EPISODES = 32
# Different for every episode, so that a weighted sum tells their gradients apart.
WEIGHTS = jnp.linspace(-1.0, 2.0, NUM_EPISODES)


@pytest.fixture(scope="module")
def acted(world, model):
    """A steered model, an untrained policy as its control, and episodes of it."""
    config = MetacontrollerConfig(code_size=3, rank=2, history_size=8, controller_gain=1.0)
    metacontroller = Metacontroller(model.base.width, config)
    policy = CodePolicy(
        code_size=3, width=8, num_heads=2, mlp_size=8, init_scale=1.0, output_init_scale=1.0
    )
    key = jax.random.key(5)
    model = model.replace(
        metacontroller=metacontroller,
        metacontroller_params=jax.jit(metacontroller.initial_params)(key),
    )
    params = jax.jit(lambda key: policy.initial_params(key, model.base.width))(key)
    control = CodePolicyControl(policy, params, threshold=0.27)
    task = world.pretraining_tasks[0][:1]
    run = jax.jit(
        lambda model, control, key: play(world, model, control, key, NUM_EPISODES, task=task)
    )
    return model, control, run(model, control, jax.random.key(6))


@pytest.fixture(scope="module")
def measure(acted):
    """Compiled once: scores of raw actions and of codes, and the variances, of any episodes."""
    model, control, _ = acted
    return jax.jit(
        lambda episodes: (
            credit.raw_scores(model, episodes),
            credit.code_scores(control, episodes),
            credit.gradient_variance(model, control, episodes),
        )
    )


def test_code_scores_sum_to_the_gradient_of_the_codes_log_probability(acted, measure):
    model, control, episodes = acted
    record, switches = episodes.record, num_decisions(episodes)
    steps = decision_steps(record["ask"])
    episode = jnp.arange(NUM_EPISODES)[:, None]
    mask = jnp.arange(steps.shape[1]) < switches[:, None]
    assert switches.max() > 1

    def log_prob(bias):
        residual = record["residual"][episode, steps]
        mean, log_std = control.policy.apply(control.params, residual, mask)
        each = gaussian_log_prob(mean + bias, log_std, record["code"][episode, steps])
        return jnp.sum(WEIGHTS[:, None] * each * mask)

    expected = jax.jit(jax.grad(log_prob))(jnp.zeros(3))
    _, scores, _ = measure(episodes)
    np.testing.assert_allclose(jnp.einsum("b,btz->z", WEIGHTS, scores), expected, rtol=1e-3)
    assert np.all(np.asarray(scores)[~np.asarray(record["ask"])] == 0.0)


def test_raw_scores_sum_to_the_gradient_through_the_base_model(acted, measure):
    model, control, episodes = acted

    def log_prob(bias):
        controlled = model.control(episodes.record["residual"], episodes.record["code"] + bias)
        output = model.upper(controlled, jnp.zeros(episodes.active.shape, jnp.int32))
        each = action_log_prob(model.base.action_spec, output.action, episodes.action)
        return jnp.sum(WEIGHTS[:, None] * each * episodes.active)

    expected = jax.jit(jax.grad(log_prob))(jnp.zeros(3))
    scores, _, _ = measure(episodes)
    np.testing.assert_allclose(jnp.einsum("b,btz->z", WEIGHTS, scores), expected, rtol=1e-3)


def test_variances_equal_numpy_over_the_episodes_that_last(acted, measure):
    _, _, episodes = acted
    raw, code, variance = jax.device_get(measure(episodes))
    raw, code = np.cumsum(raw, axis=1), np.cumsum(code, axis=1)
    advantage = np.asarray(episodes.returns - episodes.returns.mean())
    advantage = advantage / (np.std(episodes.returns) + 1e-3)
    ones = np.ones(NUM_EPISODES)
    for n in (1, 3, 6):
        chosen = np.asarray(episodes.active)[:, n - 1]
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


def test_raw_variance_grows_with_raw_steps_and_code_variance_only_at_switches(acted, measure):
    _, _, episodes = acted
    ask = episodes.record["ask"]
    first_alone = episodes.record | {"ask": ask & (jnp.arange(ask.shape[1]) == 0)}
    _, _, variance = measure(
        episodes.replace(record=first_alone, active=jnp.ones_like(episodes.active))
    )
    np.testing.assert_allclose(variance.code_score, variance.code_score[0], rtol=1e-5)
    assert variance.raw_score[-1] > 2.0 * variance.raw_score[0]
