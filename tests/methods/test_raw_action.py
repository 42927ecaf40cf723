"""Raw-action RL: the base model is what acts and what learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.methods.raw_action import Config, RawActionRL
from tests.acting.steered import make_model, make_world
from tests.methods import line

EPISODES = 32
SETTINGS = Config(episodes_per_update=EPISODES, evaluation_episodes=EPISODES, learning_rate=1e-2)


def test_five_lines_make_and_update_it():
    method = RawActionRL(SETTINGS, make_world(), make_model().alone(), task=jnp.array([0]))
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    update = jax.jit(method.update)
    after, metrics = update(state, method.frozen)
    assert 0 < metrics["success"] < 1 and metrics["gradient_norm"] > 0
    assert 0 <= metrics["progress"] <= 1 and after.episodes == EPISODES
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), state.params, after.params)
    assert all(jax.tree.leaves(moved["params"]["action_output"]))
    assert "switches" not in metrics and "beta" not in metrics


def test_it_starts_from_the_pretrained_base_model():
    method = RawActionRL(SETTINGS, make_world(), make_model())
    other = method.frozen.replace(
        base_params=jax.tree.map(jnp.zeros_like, make_model().base_params)
    )
    assert method.init(jax.random.key(0), other).params is other.base_params


def test_the_trained_parameters_act_and_not_the_frozen_ones():
    method = RawActionRL(SETTINGS, make_world(), make_model(), task=jnp.array([0]))
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    evaluate = jax.jit(method.evaluate)
    forgotten = jax.tree.map(jnp.zeros_like, method.frozen)
    assert evaluate(state, method.frozen) == evaluate(state, forgotten)
    changed = state.replace(params=forgotten.base_params)
    assert evaluate(changed, method.frozen) != evaluate(state, method.frozen)


def test_a_metacontroller_plays_no_part():
    alone = RawActionRL(SETTINGS, make_world(), make_model().alone(), task=jnp.array([0]))
    beside = RawActionRL(SETTINGS, make_world(), make_model(), task=jnp.array([0]))
    results = [
        jax.jit(method.evaluate)(method.init(jax.random.key(0), method.frozen), method.frozen)
        for method in (alone, beside)
    ]
    assert results[0] == results[1]


@pytest.mark.slow
def test_nothing_is_learnt_from_a_batch_without_reward():
    method = RawActionRL(SETTINGS, make_world(), make_model())
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    after, metrics = jax.jit(method.update)(state, method.frozen)
    assert metrics["success"] == 0.0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_a_world_that_tells_no_progress_is_trained_without_that_metric():
    method = RawActionRL(SETTINGS, line.Line(), line.make_model().alone())
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    _, metrics = jax.eval_shape(method.update, state, method.frozen)
    assert "progress" not in metrics and {"success", "loss"} <= set(metrics)


@pytest.mark.slow
def test_it_learns_either_end_of_a_line():
    model = line.make_model().alone()
    # Undecided at first: an end that is never reached gives nothing to learn from.
    model.base_params["params"]["action_output"]["kernel"] *= 0.0

    @jax.jit
    def train(task):
        method = RawActionRL(SETTINGS, line.Line(), model, task=task)
        start = method.init(jax.random.key(0), model)
        return jax.lax.scan(lambda state, _: method.update(state, model), start, length=40)

    for end in (0, 1):
        success = np.asarray(train(jnp.array([end]))[1]["success"])
        assert success[0] < 0.85 and success[-5:].mean() > 0.95
