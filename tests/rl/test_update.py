"""The policy update: gradients over packed parts are exact, and internal RL learns."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from internal_rl.models.base_model import BaseModel
from internal_rl.models.heads import gaussian_log_prob
from internal_rl.models.metacontroller import Metacontroller
from internal_rl.models.policy import CodePolicy
from internal_rl.rl.internal import InternalTrainer
from internal_rl.rl.internal_env import InternalEnv
from internal_rl.rl.objective import clipped_surrogate
from internal_rl.rl.update import UpdateConfig, update_policy
from internal_rl.types import Timestep

SEQUENCES, STEPS, CLIP = 13, 6, 0.2


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    policy = CodePolicy(code_size=2, width=8, num_heads=2, mlp_size=8, output_init_scale=1.0)
    residual = jnp.asarray(rng.normal(size=(SEQUENCES, STEPS, 4)), jnp.float32)
    code = jnp.asarray(rng.normal(size=(SEQUENCES, STEPS, 2)), jnp.float32)
    advantage = jnp.asarray(rng.normal(size=SEQUENCES), jnp.float32)
    lengths = jnp.asarray(rng.integers(0, STEPS + 1, size=SEQUENCES), jnp.int32)
    params = policy.init(jax.random.key(0), residual, jnp.ones((SEQUENCES, STEPS), bool))
    old = -2.5 + jnp.asarray(rng.normal(size=(SEQUENCES, STEPS)), jnp.float32)

    def sums(params, advantage, episode, index, segment):
        mean, log_std = policy.apply(params, residual[episode, index], segment)
        log_prob = gaussian_log_prob(mean, log_std, code[episode, index])
        return clipped_surrogate(
            log_prob, old[episode, index], advantage[episode], segment >= 0, CLIP
        )

    return sums, params, advantage, lengths


def unpacked_sums(sums, params, advantage, lengths, chosen):
    """Every sequence in a row of its own."""
    episode = jnp.broadcast_to(jnp.arange(SEQUENCES)[:, None], (SEQUENCES, STEPS))
    index = jnp.broadcast_to(jnp.arange(STEPS), (SEQUENCES, STEPS))
    filled = (index < lengths[:, None]) & chosen[:, None]
    return sums(params, advantage, episode, index, jnp.where(filled, 0, -1))


@pytest.mark.parametrize("tokens", [1, 2 * STEPS, 1000])
def test_the_gradient_over_packed_parts_is_that_of_the_whole_batch(batch, tokens):
    sums, params, advantage, lengths = batch
    config = UpdateConfig(clip=CLIP, num_epochs=1, tokens=tokens)
    optimiser = optax.sgd(1.0)
    after, _, metrics = update_policy(
        sums, optimiser, config, params, optimiser.init(params), jax.random.key(1), advantage,
        lengths, STEPS,
    )  # fmt: skip

    def loss(params):
        total = unpacked_sums(sums, params, advantage, lengths, jnp.ones(SEQUENCES, bool))
        return total.loss / total.decisions, total

    (value, total), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    step = jax.tree.map(jnp.subtract, params, after)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), step, gradient)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_fraction"], total.clipped / total.decisions, rtol=1e-5)
    assert total.decisions == lengths.sum() and 0 < metrics["clip_fraction"] < 1


def test_a_batch_that_teaches_nothing_changes_nothing_and_computes_nothing(batch):
    sums, params, advantage, lengths = batch
    optimiser, config, calls = optax.adamw(0.1, weight_decay=0.1), UpdateConfig(clip=CLIP), []

    def counted(*arguments):
        jax.debug.callback(lambda: calls.append(1))
        return sums(*arguments)

    @jax.jit
    def update(params, state, advantage):
        return update_policy(
            counted, optimiser, config, params, state, jax.random.key(1), advantage, lengths, STEPS
        )

    before = update(params, optimiser.init(params), advantage)
    jax.effects_barrier()
    num_calls = len(calls)
    assert num_calls and before[2]["gradient_norm"] > 0
    after = update(*before[:2], 0 * advantage)
    jax.effects_barrier()
    assert len(calls) == num_calls and not any(after[2].values())
    chex.assert_trees_all_equal(before[:2], after[:2])
    moved = update(*before[:2], advantage)
    assert not np.array_equal(*(jax.tree.leaves(x[0])[0] for x in (before, moved)))


def test_beside_a_copy_that_learns_one_with_nothing_to_learn_stays_as_it_is(batch):
    sums, params, advantage, lengths = batch
    optimiser, config = optax.adamw(0.1, weight_decay=0.1), UpdateConfig(clip=CLIP)

    @jax.jit
    @jax.vmap
    def update(advantage):
        return update_policy(
            sums, optimiser, config, params, optimiser.init(params), jax.random.key(1), advantage,
            lengths, STEPS,
        )  # fmt: skip

    after, state, metrics = update(jnp.stack([0 * advantage, advantage]))
    assert metrics["gradient_norm"][0] == 0 < metrics["gradient_norm"][1]
    idle, busy = (jax.tree.map(lambda x, i=i: x[i], (after, state)) for i in range(2))
    chex.assert_trees_all_equal(idle, (params, optimiser.init(params)))
    assert not np.array_equal(jax.tree.leaves(busy)[0], jax.tree.leaves(idle)[0])


def test_a_gradient_that_is_not_a_number_shows_in_the_parameters(batch):
    sums, params, advantage, lengths = batch

    def spoilt(*arguments):
        return jax.tree.map(lambda x: jnp.nan * x, sums(*arguments))

    optimiser = optax.adam(0.1)
    after, _, _ = update_policy(
        spoilt, optimiser, UpdateConfig(clip=CLIP), params, optimiser.init(params),
        jax.random.key(1), advantage, lengths, STEPS,
    )  # fmt: skip
    assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(after))


def test_minibatches_share_out_the_episodes(batch):
    _, params, advantage, lengths = batch
    seen = []

    def sums(params, advantage, episode, index, segment):
        mask = segment >= 0
        jax.debug.callback(lambda e, m: seen.extend(e[m].tolist()), episode, mask)
        zeros = jnp.zeros(mask.shape)
        return clipped_surrogate(zeros, zeros, zeros, mask, CLIP)

    config = UpdateConfig(num_epochs=2, num_minibatches=13, tokens=STEPS)
    optimiser = optax.sgd(1.0)
    update_policy(
        sums, optimiser, config, params, optimiser.init(params), jax.random.key(1), advantage,
        lengths, STEPS,
    )  # fmt: skip
    jax.effects_barrier()
    np.testing.assert_array_equal(np.bincount(seen, minlength=SEQUENCES), 2 * np.asarray(lengths))


@pytest.mark.parametrize(
    ("field", "value"), [("clip", 0.0), ("num_epochs", 0), ("num_minibatches", 0), ("tokens", 0)]
)
def test_settings_outside_their_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: got {value}, allowed:"):
        UpdateConfig(**{field: value})


@struct.dataclass
class LineState:
    cell: jax.Array
    progress: jax.Array
    done: jax.Array


class Line:
    """Seven cells in a row; the task says at which end the reward is, actions lead sideways."""

    time_limit, ends = 6, (0, 6)

    def reset(self, key, task):
        cell = jax.random.randint(key, (), 2, 5)
        state = LineState(cell, task[0], jnp.bool_(False))
        return state, Timestep(self._observe(state), jnp.float32(0.0), state.done)

    def step(self, state, action):
        cell = jnp.where(state.done, state.cell, jnp.clip(state.cell + 2 * (action % 2) - 1, 0, 6))
        done = (cell == 0) | (cell == 6)
        reward = done & ~state.done & (cell == jnp.asarray(self.ends)[state.progress])
        state = state.replace(cell=cell, done=done)
        return state, Timestep(self._observe(state), reward.astype(jnp.float32), done)

    def _observe(self, state):
        return jax.nn.one_hot(state.cell, 7).astype(jnp.uint8)


@functools.cache
def toy():
    base = BaseModel(
        observation_size=7, action_head="categorical", action_size=2, block="hawk", width=8,
        depth=2, num_heads=2, mlp_size=16, max_length=6, init_scale=1.0,
    )  # fmt: skip
    metacontroller = Metacontroller(
        residual_size=8, code_size=2, rank=2, history_size=4, controller_gain=3.0
    )
    policy = CodePolicy(code_size=2, width=8, num_heads=2, mlp_size=16, init_scale=1.0)
    key, segment = jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
    base_params = base.init(key, jnp.zeros((1, 2, 7)), segment)
    # Decisive actions, so that codes can make a difference to a model that was never trained.
    base_params["params"]["action_output"]["kernel"] *= 8.0
    frozen = {
        "base": base_params,
        "metacontroller": metacontroller.init(key, jnp.zeros((1, 2, 8)), segment, key),
    }
    env = InternalEnv(Line(), base, metacontroller, policy, layer=2)
    return env, frozen


def make_trainer(task):
    return InternalTrainer(
        env=toy()[0], optimiser=optax.adamw(1e-2, weight_decay=0.0), task=jnp.array([task]),
        num_episodes=64, update_config=UpdateConfig(num_epochs=2, tokens=64),
    )  # fmt: skip


@pytest.mark.slow
def test_internal_rl_learns_either_end_of_a_line_with_a_frozen_random_model():
    frozen = toy()[1]

    @jax.jit
    def train(task, key):
        trainer = make_trainer(task)
        return jax.lax.scan(
            lambda state, _: trainer.update(state, frozen), trainer.init(key), length=40
        )

    for task in (0, 1):
        state, metrics = train(task, jax.random.key(task))
        success = np.asarray(metrics["success"])
        assert success[0] < 0.85 and success[-5:].mean() > 0.95
        assert state.episodes == 40 * 64


@pytest.mark.slow
def test_seeds_under_vmap_learn_what_they_learn_alone():
    trainer, frozen = make_trainer(0), toy()[1]

    def train(key):
        state, metrics = trainer.update(trainer.init(key), frozen)
        return state.params, metrics

    keys = jax.random.split(jax.random.key(3), 2)
    together = jax.jit(jax.vmap(train))(keys)
    alone = [jax.jit(train)(key) for key in keys]
    jax.tree.map(
        lambda x, *y: np.testing.assert_allclose(x, np.stack(y), atol=1e-4), together, *alone
    )
