"""Raw-action RL: the base model is what acts and what learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.acting.episodes import start_worlds
from internal_rl.backend import traced_for
from internal_rl.methods.raw_action import Config, RawActionRL
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.steered_model import SteeredModel
from internal_rl.training.randomness import named_key
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


def test_on_tpus_the_update_passes_through_the_kernels():
    world = make_world()
    base = BaseModel(
        world.observation_spec,
        world.action_spec,
        BaseConfig(width=128, depth=1, num_heads=2, head_size=64, mlp_size=128),
        world.time_limit,
        dtype=jnp.bfloat16,
    )
    model = SteeredModel(base, 1, jax.eval_shape(base.initial_params, jax.random.key(0)))
    method = RawActionRL(SETTINGS, world, model, task=jnp.array([0]))
    with traced_for("tpu"):
        state = jax.eval_shape(method.init, jax.random.key(0), model)
        program = str(jax.make_jaxpr(lambda *inputs: method.update(*inputs))(state, model))
    for kernel in ("block_step", "block_forward", "block_backward"):
        assert f"name={kernel}" in program, kernel


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


class Told:
    """The grid world, which claims that a task can be completed from every other cell."""

    def __getattr__(self, name):
        return getattr(make_world(), name)

    @staticmethod
    def solvable(state):
        return state.cell % 2 == 0


def test_success_is_also_told_of_the_layouts_that_allow_it():
    world, model, task = Told(), make_model().alone(), jnp.array([0])
    method = RawActionRL(SETTINGS, world, model, task=task)
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    found = jax.jit(method.evaluate)(state, method.frozen)
    key = named_key(jax.random.key(1), "evaluation")
    play = jax.jit(lambda params, model: method.rollout(params, model, key, EPISODES))
    success = np.asarray(play(state.params, method.frozen).success)
    starts = jax.jit(lambda key: start_worlds(world, key, task, EPISODES))
    solvable = np.asarray(starts(jax.random.split(key)[0])[0].cell) % 2 == 0
    assert 0 < solvable.sum() < EPISODES
    np.testing.assert_allclose(found["solvable"], solvable.mean(), rtol=1e-6)
    np.testing.assert_allclose(found["solvable_success"], success[solvable].mean(), rtol=1e-6)
    np.testing.assert_allclose(found["success"], success.mean(), rtol=1e-6)
    # Training batches are not asked, nor are worlds that do not tell.
    assert "solvable" not in jax.eval_shape(method.update, state, method.frozen)[1]
    plain = RawActionRL(SETTINGS, make_world(), model, task=task)
    assert "solvable" not in jax.eval_shape(plain.evaluate, state, plain.frozen)
