"""Rollouts under internal control and of the base model alone, against slow references."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from internal_rl import envs
from internal_rl.models.base_model import BaseModel
from internal_rl.models.heads import action_log_prob, gaussian_log_prob, mode_action
from internal_rl.models.metacontroller import Metacontroller
from internal_rl.models.policy import CodePolicy
from internal_rl.rl.internal import InternalTrainer
from internal_rl.rl.internal_env import InternalEnv, abstract_sequence
from internal_rl.rl.raw_action import RawActionTrainer

EPISODES = 32


def randomise(params, key, scale):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree, [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


def make(block="transformer", gate="sigmoid"):
    return _make(block, gate)


@functools.cache
def _make(block, gate):
    world = envs.make("gridworld-pinpad", "smoke")
    base = BaseModel(
        observation_size=world.observation_size, action_head="categorical", action_size=4,
        block=block, width=16, depth=2, num_heads=2, head_size=8, mlp_size=32,
        max_length=world.time_limit, init_scale=1.0,
    )  # fmt: skip
    metacontroller = Metacontroller(
        residual_size=16, code_size=3, history_size=8, rank=2, gate=gate, switch_bias=0.0
    )
    policy = CodePolicy(code_size=3, width=16, num_heads=2, mlp_size=16)
    env = InternalEnv(
        world=world, base=base, metacontroller=metacontroller, policy=policy, layer=1,
        num_slots=8, policy_rows=4,
    )  # fmt: skip
    key = jax.random.key(0)
    segment = jnp.zeros((1, 2), jnp.int32)
    residual = jnp.zeros((1, 2, 16))
    params = {
        "base": jax.jit(base.init)(key, jnp.zeros((1, 2, world.observation_size)), segment),
        "metacontroller": jax.jit(metacontroller.init)(key, residual, segment, key),
        "policy": jax.jit(policy.init)(key, residual, jnp.ones((1, 2), bool)),
    }
    scales = {"base": 0.1, "metacontroller": 0.5, "policy": 0.1}
    randomised = jax.jit(randomise, static_argnums=2)
    params = {k: randomised(v, jax.random.key(1), scales[k]) for k, v in params.items()}
    return env, params


def play(env, params, **keywords):
    run = jax.jit(
        lambda params: env.rollout(
            params, jax.random.key(7), env.world.post_training_task, EPISODES, **keywords
        )
    )
    return jax.tree.map(np.asarray, run(params))


@functools.cache
def played(block):
    env, params = make(block)
    return env, params, play(env, params)


def segments(rollout):
    return jnp.where(rollout.active, 0, -1)


@pytest.mark.parametrize("block", ["transformer", "hawk"])
def test_step_form_agrees_with_the_parallel_models(block):
    env, params, rollout = played(block)
    active = rollout.active
    assert 0 < rollout.ask.sum() < active.sum() and (rollout.ask[:, 0]).all()
    residual = env.base.apply(
        params["base"], rollout.observation, segments(rollout), env.layer, method="lower"
    )
    np.testing.assert_allclose(rollout.residual[active], residual[active], atol=1e-5)
    decisions = abstract_sequence(jax.tree.map(jnp.asarray, rollout), env.world.time_limit)
    mean, log_std = env.policy.apply(params["policy"], decisions.residual, decisions.mask)
    log_prob = gaussian_log_prob(mean, log_std, decisions.code)
    np.testing.assert_allclose(
        log_prob[decisions.mask], decisions.log_prob[decisions.mask], atol=1e-4
    )


def test_switches_follow_the_gate_and_codes_are_kept_between_them():
    env, _, rollout = played("transformer")
    for b in range(EPISODES):
        for t in range(rollout.active[b].sum()):
            asked = t == 0 or rollout.beta[b, t] >= env.threshold
            assert rollout.ask[b, t] == asked
            if not asked:
                np.testing.assert_array_equal(rollout.code[b, t], rollout.code[b, t - 1])


def test_abstract_sequence_agrees_with_a_loop():
    env, _, rollout = played("transformer")
    size = env.world.time_limit
    decisions = jax.tree.map(
        np.asarray, abstract_sequence(jax.tree.map(jnp.asarray, rollout), size)
    )
    for b in range(EPISODES):
        k = -1
        rewards, durations = np.zeros(size), np.zeros(size)
        for t in range(rollout.active[b].sum()):
            if rollout.ask[b, t]:
                k += 1
                np.testing.assert_array_equal(decisions.code[b, k], rollout.code[b, t])
                np.testing.assert_array_equal(decisions.residual[b, k], rollout.residual[b, t])
            rewards[k] += rollout.reward[b, t]
            durations[k] += 1
        assert decisions.mask[b].sum() == k + 1
        np.testing.assert_array_equal(decisions.duration[b], durations)
        np.testing.assert_allclose(decisions.reward[b], rewards)


def test_episodes_do_not_depend_on_the_number_of_slots():
    env, params, few = played("transformer")
    many = play(dataclasses.replace(env, num_slots=EPISODES), params)
    np.testing.assert_array_equal(few.active, many.active)
    active = few.active
    np.testing.assert_array_equal(few.action[active], many.action[active])
    np.testing.assert_allclose(few.code[active], many.code[active], atol=1e-5)


def test_forced_switching_asks_at_every_step():
    env, params = make()
    rollout = play(dataclasses.replace(env, force_switch=True), params)
    np.testing.assert_array_equal(rollout.ask & rollout.active, rollout.active)


def test_random_gate_asks_at_its_rate():
    env, params = make(gate="random")
    rollout = play(env, params)
    later = rollout.active.copy()
    later[:, 0] = False
    share = rollout.ask[later].mean()
    assert abs(share - env.metacontroller.switch_rate) < 4 * np.sqrt(0.16 / later.sum())


def test_deterministic_rollouts_use_the_mean_code_and_the_most_probable_action():
    env, params = make()
    rollout = jax.tree.map(jnp.asarray, play(env, params, deterministic=True))
    decisions = abstract_sequence(rollout, env.world.time_limit)
    mean, _ = env.policy.apply(params["policy"], decisions.residual, decisions.mask)
    np.testing.assert_allclose(decisions.code[decisions.mask], mean[decisions.mask], atol=1e-4)
    controlled = env.metacontroller.apply(
        params["metacontroller"], rollout.residual, rollout.code, method="control"
    )
    output = env.base.apply(
        params["base"], controlled, segments(rollout), env.layer, method="upper"
    )
    best = np.asarray(mode_action("categorical", output.action))
    np.testing.assert_array_equal(rollout.action[rollout.active], best[rollout.active])


def test_raw_rollout_agrees_with_the_parallel_base_model():
    env, params = make()
    trainer = RawActionTrainer(
        world=env.world, base=env.base, optimiser=optax.adamw(1e-3),
        task=env.world.post_training_task, num_episodes=EPISODES,
    )  # fmt: skip

    @jax.jit
    def play(params, deterministic):
        return trainer.rollout(params, jax.random.key(3), EPISODES, deterministic)

    rollout = play(params["base"], False)
    output = env.base.apply(params["base"], rollout.observation, segments(rollout))
    log_prob = action_log_prob("categorical", output.action, rollout.action)
    active = np.asarray(rollout.active)
    np.testing.assert_allclose(log_prob[active], rollout.log_prob[active], atol=1e-4)
    rollout = play(params["base"], True)
    output = env.base.apply(params["base"], rollout.observation, segments(rollout))
    best, active = mode_action("categorical", output.action), np.asarray(rollout.active)
    np.testing.assert_array_equal(rollout.action[active], best[active])


def test_nothing_is_learnt_from_a_batch_without_reward():
    env, params = make()
    trainer = InternalTrainer(
        env=env, optimiser=optax.adamw(1e-2, weight_decay=0.0),
        task=env.world.post_training_task, num_episodes=EPISODES,
    )  # fmt: skip
    state = trainer.init(jax.random.key(0))
    after, metrics = jax.jit(trainer.update)(state, params)
    assert metrics["success"] == 0.0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


@pytest.mark.slow
def test_internal_rl_learns_to_visit_one_colour():
    env, params = make()
    trainer = InternalTrainer(
        env=env, optimiser=optax.adam(3e-3), task=jnp.array([0]), num_episodes=256
    )
    state = trainer.init(jax.random.key(0))
    update = jax.jit(trainer.update)
    success = []
    for _ in range(120):
        state, metrics = update(state, params)
        success.append(float(metrics["success"]))
    assert np.mean(success[-10:]) > np.mean(success[:10]) + 0.1
