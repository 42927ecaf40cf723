"""The policy update: gradients over packed parts are exact, and nothing is learnt from nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from internal_rl.backend import traced_for, without_kernels
from internal_rl.methods.reinforcement.objective import clipped_surrogate
from internal_rl.methods.reinforcement.update import (
    Lesson,
    PolicyState,
    UpdateSettings,
    update_policy,
)
from internal_rl.models.heads import gaussian_log_prob
from internal_rl.models.policy import CodePolicy
from internal_rl.training.mesh import side_by_side

SEQUENCES, STEPS, CLIP = 13, 6, 0.2


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    policy = CodePolicy(code_size=2, width=8, num_heads=2, mlp_size=8, output_init_scale=1.0)
    residual = jnp.asarray(rng.normal(size=(SEQUENCES, STEPS, 4)), jnp.float32)
    code = jnp.asarray(rng.normal(size=(SEQUENCES, STEPS, 2)), jnp.float32)
    advantage = jnp.asarray(rng.normal(size=SEQUENCES), jnp.float32)
    lengths = jnp.asarray(rng.integers(0, STEPS + 1, size=SEQUENCES), jnp.int32)
    params = jax.jit(policy.init)(jax.random.key(0), residual, jnp.ones((SEQUENCES, STEPS), bool))
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


def run(sums, settings, start, advantage, lengths):
    """One update from `start`, parameters or the state after another update."""

    @jax.jit
    def update(start, advantage, lengths):
        if not isinstance(start, PolicyState):
            optimiser_state = settings.optimiser.init(start)
            start = PolicyState(start, optimiser_state, jax.random.key(0), jnp.int32(0))
        lesson = Lesson(advantage, lengths, STEPS)
        return update_policy(sums, settings, start, lesson, jax.random.key(1))

    return update(start, advantage, lengths)


def learnt(state):
    return state.params, state.optimiser_state


@pytest.mark.parametrize(
    ("tokens", "platform"), [(1, "cpu"), (2 * STEPS, "cpu"), (1000, "cpu"), (None, "tpu")]
)
def test_the_gradient_over_packed_parts_is_that_of_the_whole_batch(batch, tokens, platform):
    sums, params, advantage, lengths = batch
    settings = UpdateSettings(optax.sgd(1.0), num_epochs=1, tokens=tokens)
    with traced_for(platform), without_kernels():
        after, metrics = run(sums, settings, params, advantage, lengths)

    def loss(params):
        total = unpacked_sums(sums, params, advantage, lengths, jnp.ones(SEQUENCES, bool))
        return total.loss / total.decisions, total

    (value, total), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    step = jax.tree.map(jnp.subtract, params, after.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), step, gradient)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_fraction"], total.clipped / total.decisions, rtol=1e-5)
    assert total.decisions == lengths.sum() and 0 < metrics["clip_fraction"] < 1


@pytest.mark.parametrize(
    ("platform", "seeds", "max_decisions", "expected"),
    [
        ("cpu", 1, 100, (10, 100)),
        ("cpu", 10, 500, (2, 500)),
        ("gpu", 1, 100, (81, 100)),
        ("gpu", 4, 500, (4, 500)),
        # Multiples of 128, which one episode of 100, or several, fill well.
        ("tpu", 1, 100, (16, 512)),
        ("tpu", 1, 50, (25, 256)),
        ("tpu", 1, 500, (16, 512)),
        ("tpu", 1, 600, (12, 640)),
        ("tpu", 4, 100, (4, 512)),
        ("tpu", 1000, 100, (2, 512)),
    ],
)
def test_rows_and_parts_are_what_suits_the_backend(platform, seeds, max_decisions, expected):
    settings = UpdateSettings(optax.sgd(1.0))
    with traced_for(platform), side_by_side(seeds):
        assert settings.part_shape(1024, max_decisions) == expected
        # Of 128 episodes, an eighth of what they may hold at most.
        rows, length = settings.part_shape(128, max_decisions)
        assert rows * length <= max(1024, 16 * max_decisions) and length == expected[1]
        assert settings.part_shape(1, max_decisions)[0] == 1


def test_a_batch_that_teaches_nothing_changes_nothing_and_computes_nothing(batch):
    sums, params, advantage, lengths = batch
    settings, calls = UpdateSettings(optax.adamw(0.1, weight_decay=0.1)), []

    def counted(*arguments):
        jax.debug.callback(lambda: calls.append(1))
        return sums(*arguments)

    update = jax.jit(lambda start, advantage: run(counted, settings, start, advantage, lengths))
    before, metrics = update(params, advantage)
    jax.effects_barrier()
    num_calls = len(calls)
    assert num_calls and metrics["gradient_norm"] > 0
    after, metrics = update(before, 0 * advantage)
    jax.effects_barrier()
    assert len(calls) == num_calls and not any(metrics.values())
    chex.assert_trees_all_equal(learnt(before), learnt(after))
    moved, _ = update(before, advantage)
    assert not np.array_equal(*(jax.tree.leaves(x.params)[0] for x in (before, moved)))


def test_beside_a_copy_that_learns_one_with_nothing_to_learn_stays_as_it_is(batch):
    sums, params, advantage, lengths = batch
    settings = UpdateSettings(optax.adamw(0.1, weight_decay=0.1))
    update = jax.jit(jax.vmap(lambda advantage: run(sums, settings, params, advantage, lengths)))
    after, metrics = update(jnp.stack([0 * advantage, advantage]))
    assert metrics["gradient_norm"][0] == 0 < metrics["gradient_norm"][1]
    idle, busy = (jax.tree.map(lambda x, i=i: x[i], learnt(after)) for i in range(2))
    chex.assert_trees_all_equal(idle, (params, settings.optimiser.init(params)))
    assert not np.array_equal(jax.tree.leaves(busy)[0], jax.tree.leaves(idle)[0])


def test_a_gradient_that_is_not_a_number_shows_in_the_parameters(batch):
    sums, params, advantage, lengths = batch

    def spoilt(*arguments):
        return jax.tree.map(lambda x: jnp.nan * x, sums(*arguments))

    after, _ = run(spoilt, UpdateSettings(optax.adam(0.1)), params, advantage, lengths)
    assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(after.params))


def test_minibatches_share_out_the_episodes(batch):
    _, params, advantage, lengths = batch
    seen = []

    def sums(params, advantage, episode, index, segment):
        mask = segment >= 0
        jax.debug.callback(lambda e, m: seen.extend(e[m].tolist()), episode, mask)
        zeros = jnp.zeros(mask.shape)
        return clipped_surrogate(zeros, zeros, zeros, mask, CLIP)

    settings = UpdateSettings(optax.sgd(1.0), num_epochs=2, num_minibatches=13, tokens=STEPS)
    run(sums, settings, params, advantage, lengths)
    jax.effects_barrier()
    np.testing.assert_array_equal(np.bincount(seen, minlength=SEQUENCES), 2 * np.asarray(lengths))


def test_minibatches_that_do_not_share_out_evenly_are_refused(batch):
    settings = UpdateSettings(optax.sgd(1.0), num_minibatches=2)
    with pytest.raises(
        ValueError, match="num_minibatches: 2 given, allowed are divisors of the 13"
    ):
        run(*batch[:1], settings, *batch[1:])


@pytest.mark.parametrize(
    ("field", "value"), [("num_epochs", 0), ("num_minibatches", 0), ("tokens", 0)]
)
def test_settings_outside_their_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: {value} given, allowed is 1 or more"):
        UpdateSettings(optax.sgd(1.0), **{field: value})
