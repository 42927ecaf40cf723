"""Episodes under a code policy, against the parallel models and slow references."""

import functools

import jax
import numpy as np
import pytest

from internal_rl.acting.code_policy import CodePolicyControl
from internal_rl.acting.decisions import abstract_sequence
from internal_rl.acting.episodes import play
from internal_rl.models.heads import gaussian_log_prob, mode_action
from tests.acting.steered import make_model, make_policy, make_world

EPISODES = 32
THRESHOLD = 0.5


@functools.partial(jax.jit, static_argnames="num_slots")
def episodes_of(model, control, deterministic, num_slots):
    options = {"deterministic": deterministic, "num_slots": num_slots}
    return play(make_world(), model, control, jax.random.key(7), EPISODES, **options)


def run(model, num_slots=8, deterministic=False):
    policy, params = make_policy()
    control = CodePolicyControl(policy, params, THRESHOLD, policy_rows=4)
    return jax.device_get(episodes_of(model, control, deterministic, num_slots=num_slots))


@functools.cache
def played(block="transformer"):
    return run(make_model(block))


@jax.jit
def parallel_decisions(episodes):
    """The decisions, their means and log-probabilities, by the policy's parallel form."""
    policy, params = make_policy()
    decisions = abstract_sequence(episodes, make_world().time_limit)
    mean, log_std = policy.apply(params, decisions.residual, decisions.mask)
    return decisions, mean, gaussian_log_prob(mean, log_std, decisions.code)


def segments(episodes):
    return np.where(episodes.active, 0, -1).astype(np.int32)


@pytest.mark.parametrize("block", ["transformer", "hawk"])
def test_step_form_agrees_with_the_parallel_models(block):
    model, episodes = make_model(block), played(block)
    active, record = episodes.active, episodes.record
    assert 0 < record["ask"].sum() < active.sum() and (record["ask"][:, 0]).all()
    residual = np.asarray(jax.jit(model.lower)(episodes.observation, segments(episodes)))
    np.testing.assert_allclose(record["residual"][active], residual[active], atol=1e-5)
    decisions, _, log_prob = jax.device_get(parallel_decisions(episodes))
    np.testing.assert_allclose(
        log_prob[decisions.mask], decisions.log_prob[decisions.mask], atol=1e-4
    )


def test_switches_follow_the_gate_and_codes_are_kept_between_them():
    episodes = played()
    record = episodes.record
    for b in range(EPISODES):
        for t in range(episodes.active[b].sum()):
            asked = t == 0 or record["beta"][b, t] >= THRESHOLD
            assert record["ask"][b, t] == asked
            if not asked:
                np.testing.assert_array_equal(record["code"][b, t], record["code"][b, t - 1])


def test_episodes_do_not_depend_on_the_number_of_slots():
    few, many = played(), run(make_model(), num_slots=EPISODES)
    np.testing.assert_array_equal(few.active, many.active)
    active = few.active
    np.testing.assert_array_equal(few.action[active], many.action[active])
    np.testing.assert_allclose(few.record["code"][active], many.record["code"][active], atol=1e-5)


def test_a_gate_that_is_always_open_asks_at_every_step():
    episodes = run(make_model(gate="one"))
    np.testing.assert_array_equal(episodes.record["ask"] & episodes.active, episodes.active)


def test_random_gate_asks_at_its_rate():
    model = make_model(gate="random")
    episodes = run(model)
    later = episodes.active.copy()
    later[:, 0] = False
    share = episodes.record["ask"][later].mean()
    rate = model.metacontroller.config.switch_rate
    assert abs(share - rate) < 4 * np.sqrt(0.16 / later.sum())


def test_deterministic_episodes_use_the_mean_code_and_the_most_probable_action():
    model = make_model()
    episodes = run(model, deterministic=True)
    decisions, mean, _ = jax.device_get(parallel_decisions(episodes))
    np.testing.assert_allclose(decisions.code[decisions.mask], mean[decisions.mask], atol=1e-4)

    @jax.jit
    def best_action(residual, code, segment):
        output = model.upper(model.control(residual, code), segment)
        return mode_action(model.base.action_spec, output.action)

    record = episodes.record
    best = np.asarray(best_action(record["residual"], record["code"], segments(episodes)))
    np.testing.assert_array_equal(episodes.action[episodes.active], best[episodes.active])


def test_what_is_recorded_ends_with_the_episode():
    episodes = played()
    over = ~episodes.active
    assert over.any()
    for name, values in episodes.record.items():
        assert not values[over].any(), name
