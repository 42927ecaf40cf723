"""Internal RL: what an update does, what is refused, and that it learns."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.methods.internal_rl import Config, InternalRL
from internal_rl.section import SettingError
from tests.acting import steered
from tests.methods import line

EPISODES = 32
SMALL = Config(
    policy_width=16, episodes_per_update=EPISODES, evaluation_episodes=EPISODES, learning_rate=1e-2
)
ON_A_LINE = dataclasses.replace(SMALL, policy_width=8, episodes_per_update=64, num_epochs=2)


@pytest.fixture(scope="module")
def updated():
    """A method, its first state, and what one update makes of it."""
    method = InternalRL(SMALL, steered.make_world(), steered.make_model(), task=jnp.array([0]))
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    update = jax.jit(method.update)
    after, metrics = update(state, method.frozen)
    return method, state, after, metrics


def test_five_lines_make_and_update_it(updated):
    _, state, after, metrics = updated
    assert 0 < metrics["success"] < 1 and metrics["gradient_norm"] > 0
    assert 1 <= metrics["switches"] <= metrics["episode_length"]
    np.testing.assert_allclose(
        metrics["reward_per_decision"] * metrics["switches"], metrics["return"], rtol=1e-5
    )
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), state.params, after.params)
    assert all(jax.tree.leaves(moved["params"]["output"])) and after.episodes == EPISODES


@pytest.mark.parametrize("change", [{}, {"steps": 50, "decay_steps": 10}])
def test_the_rate_falls_over_updates_whatever_their_gradient_steps(change):
    config = Config(
        steps=10, warmup_steps=4, learning_rate=1e-2, final_learning_rate=2e-3, num_epochs=3
    )
    config = dataclasses.replace(config, num_minibatches=2, episodes_per_update=4)
    optimiser = dataclasses.replace(config, **change).update_settings().optimiser
    params = jnp.zeros(())
    state, sizes = optimiser.init(params), []
    for _ in range(10 * 3 * 2 + 1):
        # Adam's steps under a gradient that stays the same are those of the rate.
        step, state = optimiser.update(jnp.ones(()), state, params)
        sizes.append(-float(step))
    share = (np.arange(4, 11) - 4) / 6
    falling = 2e-3 + 8e-3 * (1 + np.cos(np.pi * share)) / 2
    expected = np.concatenate([[0.0, 2.5e-3, 5e-3, 7.5e-3], falling])
    np.testing.assert_allclose(sizes[::6], expected, rtol=1e-4, atol=1e-9)


def test_the_policy_improves_the_objective_on_the_batch_it_learns_from(updated):
    """The update follows the gradient of the surrogate of what it has played itself."""
    method, state, after, _ = updated
    rollout_key, _, key = jax.random.split(state.key, 3)
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(key))
    play = jax.jit(lambda params, frozen: method.rollout(params, frozen, rollout_key, EPISODES))
    # Off the device, where every part that is looked at would be a program.
    episodes = jax.device_get(play(state.params, method.frozen))
    returns = np.asarray(episodes.returns)
    advantage = (returns - returns.mean()) / (returns.std() + 1e-3)
    log_prob_of = jax.jit(method.log_prob)
    num_steps = episodes.record["ask"].shape[1]
    gain = []
    for params in (state.params, after.params):
        total = 0.0
        for b in range(EPISODES):
            steps = np.flatnonzero(episodes.record["ask"][b])
            # Filled up to one length, so that one program serves all episodes.
            filled = np.resize(steps, num_steps)
            read = episodes.record["residual"][b, filled][None]
            chosen = episodes.record["code"][b, filled][None]
            segment = np.where(np.arange(num_steps) < len(steps), 0, -1)[None]
            log_prob = np.asarray(log_prob_of(params, read, segment, chosen))[0, : len(steps)]
            ratio = np.exp(log_prob - episodes.record["log_prob"][b, steps])
            clipped = np.clip(ratio, 1 - SMALL.clip, 1 + SMALL.clip)
            total += np.minimum(ratio * advantage[b], clipped * advantage[b]).sum()
        gain.append(total)
    assert gain[1] > gain[0] + 0.1


@pytest.mark.slow
def test_nothing_is_learnt_from_a_batch_without_reward():
    method = InternalRL(SMALL, steered.make_world(), steered.make_model())
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    after, metrics = jax.jit(method.update)(state, method.frozen)
    assert metrics["success"] == 0.0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_evaluations_repeat_and_leave_the_state_alone():
    method = InternalRL(SMALL, steered.make_world(), steered.make_model(), task=jnp.array([0]))
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    evaluate = jax.jit(method.evaluate)
    first = evaluate(state, method.frozen)
    again = evaluate(state.replace(key=jax.random.key(9)), method.frozen)
    assert first == again and 0 < first["success"] < 1
    assert "loss" not in first and method.params(state) is state.params


def test_the_frozen_model_is_the_one_that_acts():
    method = InternalRL(SMALL, steered.make_world(), steered.make_model(), task=jnp.array([0]))
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    other = jax.tree.map(lambda x: x + 0.3, method.frozen)
    evaluate = jax.jit(method.evaluate)
    assert evaluate(state, method.frozen)["beta"] != evaluate(state, other)["beta"]


def test_the_task_is_read_from_the_section():
    world, model = steered.make_world(), steered.make_model()
    told = InternalRL(dataclasses.replace(SMALL, task="2-1"), world, model)
    assert [colour for colour in np.asarray(told.task).tolist() if colour >= 0] == [2, 1]
    own = InternalRL(SMALL, world, model)
    np.testing.assert_array_equal(own.task, world.post_training_task)


@pytest.mark.parametrize("text", ["0-9", "somewhere"])
def test_a_task_that_the_world_cannot_read_is_refused(text):
    settings = dataclasses.replace(SMALL, task=text)
    with pytest.raises(SettingError, match="task: .*") as error:
        InternalRL(settings, steered.make_world(), steered.make_model())
    assert error.value.field == "task"


def test_a_world_that_reads_no_tasks_says_so():
    with pytest.raises(SettingError, match="task: '0' given, allowed is '': this world reads no"):
        InternalRL(dataclasses.replace(SMALL, task="0"), line.Line(), line.make_model())


def test_a_model_without_metacontroller_is_refused():
    with pytest.raises(ValueError, match="model has no metacontroller, allowed is one that has"):
        InternalRL(SMALL, steered.make_world(), steered.make_model().alone())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": 0.0}, "clip: 0.0 given, allowed is above 0"),
        ({"num_epochs": 0}, "num_epochs: 0 given, allowed is 1 to 1000"),
        ({"num_minibatches": 0}, "num_minibatches: 0 given, allowed is 1 or more"),
        (
            {"num_minibatches": 3},
            "num_minibatches: 3 given, allowed is a divisor of episodes_per_update = 1024",
        ),
        ({"episodes_per_update": 1}, "episodes_per_update: 1 given, allowed is 2 or more"),
        ({"threshold": 1.5}, "threshold: 1.5 given, allowed is 0 to 1"),
        ({"min_std": 2.0}, "min_std: 2.0 given, allowed is below initial_std = 1.0"),
        ({"policy_width": 20}, "policy_width: 20 given, allowed is a multiple of 8"),
    ],
)
def test_settings_outside_their_range_are_refused(changes, message):
    with pytest.raises(SettingError, match=message):
        Config(**changes)


def test_configs_from_before_there_was_a_smallest_deviation_mean_what_they_meant():
    assert Config.read({}).min_std == math.exp(-3.0) != Config().min_std


def test_a_world_that_tells_no_progress_is_trained_without_that_metric():
    method = InternalRL(ON_A_LINE, line.Line(), line.make_model())
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    _, metrics = jax.eval_shape(method.update, state, method.frozen)
    assert "progress" not in metrics and {"success", "switches", "loss"} <= set(metrics)


@pytest.mark.slow
def test_it_learns_either_end_of_a_line_with_a_frozen_random_model():
    world, model = line.Line(), line.make_model()

    @jax.jit
    def train(task, key):
        method = InternalRL(ON_A_LINE, world, model, task=task)
        return jax.lax.scan(
            lambda state, _: method.update(state, model), method.init(key, model), length=40
        )

    for end in (0, 1):
        state, metrics = train(jnp.array([end]), jax.random.key(end))
        success = np.asarray(metrics["success"])
        assert success[0] < 0.85 and success[-5:].mean() > 0.95
        assert state.episodes == 40 * 64


@pytest.mark.slow
def test_seeds_under_vmap_learn_what_they_learn_alone():
    method = InternalRL(ON_A_LINE, line.Line(), line.make_model())

    def train(key):
        state, metrics = method.update(method.init(key, method.frozen), method.frozen)
        return state.params, metrics

    keys = jax.random.split(jax.random.key(3), 2)
    together = jax.jit(jax.vmap(train))(keys)
    alone = [jax.jit(train)(key) for key in keys]
    jax.tree.map(
        lambda x, *y: np.testing.assert_allclose(x, np.stack(y), atol=1e-4), together, *alone
    )


@pytest.mark.slow
def test_it_learns_to_visit_one_colour():
    settings = dataclasses.replace(SMALL, episodes_per_update=256, learning_rate=3e-3)
    model = steered.make_model()
    method = InternalRL(settings, steered.make_world(), model, task=jnp.array([0]))
    state = jax.jit(method.init)(jax.random.key(0), model)
    update = jax.jit(method.update)
    success = []
    for _ in range(120):
        state, metrics = update(state, model)
        success.append(float(metrics["success"]))
    assert np.mean(success[-10:]) > np.mean(success[:10]) + 0.1
