"""Episodes under a code policy, against the parallel models and slow references."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.acting.code_policy import CodePolicyControl, asks_for_code
from internal_rl.acting.decisions import abstract_sequence
from internal_rl.acting.episodes import play
from internal_rl.models.heads import gaussian_log_prob, mode_action
from internal_rl.models.policy import CodePolicy
from tests.acting.steered import CODE_SIZE, make_model, make_policy, make_world

EPISODES = 32
THRESHOLD = 0.5
KEY = jax.random.key(7)


@functools.partial(jax.jit, static_argnames="num_slots")
def episodes_of(model, control, deterministic, num_slots):
    options = {"deterministic": deterministic, "num_slots": num_slots}
    return play(make_world(), model, control, KEY, EPISODES, **options)


def run(model, num_slots=8, deterministic=False, params=None, policy_rows=4):
    policy, usual = make_policy()
    control = CodePolicyControl(policy, params or usual, THRESHOLD, policy_rows=policy_rows)
    return jax.device_get(episodes_of(model, control, deterministic, num_slots=num_slots))


@functools.cache
def played(block="transformer"):
    return run(make_model(block))


@jax.jit
def parallel_decisions(episodes, params=None):
    """The decisions, their distributions and log-probabilities, by the policy's parallel form."""
    policy, usual = make_policy()
    decisions = abstract_sequence(episodes, make_world().time_limit)
    mean, log_std = policy.apply(params or usual, decisions.residual, decisions.mask)
    return decisions, (mean, log_std), gaussian_log_prob(mean, log_std, decisions.code)


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


def test_a_gate_at_the_threshold_asks():
    beta = np.array([0.0, np.nextafter(np.float32(0.5), np.float32(0)), 0.5, 1.0], np.float32)
    asks = asks_for_code(make_model(), beta, None, THRESHOLD)
    np.testing.assert_array_equal(asks, [False, False, True, True])


def test_the_gate_reads_its_history_and_the_code_in_force():
    model, episodes = make_model(), jax.device_get(played())
    record = episodes.record

    @jax.jit
    def step(residual, history, code):
        beta = model.switch(residual, history, code)
        return beta, model.history_step(residual, history)

    code = np.zeros((EPISODES, CODE_SIZE), np.float32)
    history = np.zeros_like(model.initial_history(EPISODES))
    for t in range(episodes.active.shape[1]):
        beta, history = step(record["residual"][:, t], history, code)
        now = episodes.active[:, t]
        np.testing.assert_allclose(record["beta"][now, t], beta[now], atol=1e-5)
        code = record["code"][:, t]


def test_codes_are_drawn_from_the_policy():
    params = jax.tree.map(np.array, make_policy()[1])
    # Deviations far from each other, and from the one that the policy begins with.
    params["params"]["output"]["bias"][CODE_SIZE:] = -2.0, -0.5, 1.0
    episodes = run(make_model(), params=jax.device_put(params))
    decisions, (mean, log_std), _ = jax.device_get(parallel_decisions(episodes, params))
    _, key = jax.random.split(KEY)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def noise_of(episode, time):
        own = jax.random.fold_in(jax.random.fold_in(key, episode), time)
        return jax.random.normal(jax.random.split(own, 3)[1], (CODE_SIZE,), np.float32)

    ask = episodes.record["ask"] & episodes.active
    noise = np.asarray(noise_of(np.arange(EPISODES), np.arange(ask.shape[1])))
    for b in range(EPISODES):
        count = ask[b].sum()
        expected = mean[b, :count] + np.exp(log_std[b, :count]) * noise[b, ask[b]]
        np.testing.assert_allclose(decisions.code[b, :count], expected, atol=1e-4)


def test_episodes_do_not_depend_on_the_number_of_slots():
    few, many = played(), run(make_model(), num_slots=EPISODES)
    np.testing.assert_array_equal(few.active, many.active)
    active = few.active
    np.testing.assert_array_equal(few.action[active], many.action[active])
    np.testing.assert_allclose(few.record["code"][active], many.record["code"][active], atol=1e-5)


@pytest.mark.parametrize("policy_rows", [3, 5, 64])
def test_episodes_do_not_depend_on_how_many_are_decided_for_at_a_time(policy_rows):
    few, many = played(), run(make_model(), policy_rows=policy_rows)
    np.testing.assert_array_equal(few.active, many.active)
    active = few.active
    np.testing.assert_array_equal(few.action[active], many.action[active])
    for name in ("code", "log_prob"):
        np.testing.assert_allclose(
            few.record[name][active], many.record[name][active], atol=1e-5, err_msg=name
        )


class Counted(CodePolicy):
    """Tells when it is called."""

    def step(self, residual, state, active):
        jax.debug.callback(calls.append, len(residual))
        return super().step(residual, state, active)


calls = []


@pytest.mark.parametrize(("slots", "expected"), [(7, [4, 4]), (8, [4, 4]), (3, [3]), (5, [4, 4])])
def test_the_policy_is_called_for_as_many_as_it_takes(slots, expected):
    policy, params = make_policy()
    counted = Counted(policy.code_size, policy.width, policy.num_heads, policy.mlp_size)
    control = CodePolicyControl(counted, params, THRESHOLD, policy_rows=4)
    context = types.SimpleNamespace(first=jnp.ones(slots, bool), deterministic=False)
    keys = jax.random.split(KEY, slots)

    @jax.jit
    def decide(residual, held):
        return control._decide(residual, jnp.ones(slots, bool), keys, held, context)

    model = make_model()
    residual = jax.random.normal(KEY, (slots, model.base.width))
    calls.clear()
    held = decide(residual, control.init(model, slots)[1])
    jax.effects_barrier()
    assert calls == expected
    assert all((leaf != 0).any(tuple(range(1, leaf.ndim))).all() for leaf in jax.tree.leaves(held))


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
    decisions, (mean, _), _ = jax.device_get(parallel_decisions(episodes))
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
