"""Pretraining: the loss is the one of the method, and it falls for every kind of data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.experts.dataset import Dataset
from internal_rl.methods.pretraining import Config, Pretraining, prediction_loss
from internal_rl.section import SettingError
from tests.marks import quick
from tests.methods.toy import NUM_ACTIONS, ToySource, make_base
from tests.parameters import drawn

SHORT = {"steps": 40, "batch_size": 16, "num_parts": 1, "evaluation_rows": 4, "learning_rate": 1e-2}


def train(method, num_updates):
    """The state after some updates, and their metrics."""
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    update = jax.jit(method.update)
    lines = []
    for _ in range(num_updates):
        state, metrics = update(state, method.frozen)
        lines.append({name: float(value) for name, value in metrics.items()})
    return state, lines


# The grid world is Bernoulli, and in other tests.
@pytest.mark.parametrize("observation_head", quick(["bernoulli", "gaussian"], ["gaussian"]))
@pytest.mark.parametrize("action_head", ["categorical", "gaussian"])
def test_all_kinds_of_observations_and_actions_are_learned(observation_head, action_head):
    base = make_base(observation_head, action_head, observation_loss=0.1)
    method = Pretraining(Config(**SHORT), base, ToySource(observation_head, action_head))
    state, lines = train(method, 40)
    assert lines[-1]["action_nll"] < lines[0]["action_nll"] - 0.1
    assert lines[-1]["observation_nll"] < lines[0]["observation_nll"] - 0.1
    evaluation = jax.jit(method.evaluate)(state, method.frozen)
    assert set(evaluation) == {"action_nll", "observation_nll"}
    assert abs(evaluation["action_nll"] - lines[-1]["action_nll"]) < 0.3


def test_loss_equals_a_loop_over_the_tokens_with_a_target():
    base = make_base(observation_loss=0.3)
    params = drawn(base.initial_params)
    source = ToySource()
    held_out = jax.jit(functools.partial(source.held_out, num_rows=3))
    batch = jax.device_get(held_out(jax.random.key(1), arrays=source.arrays))
    loss = jax.jit(functools.partial(prediction_loss, base))
    value, metrics = loss(params, batch, batch.mask.sum())
    output = jax.device_get(jax.jit(base.apply)(params, batch.observation, batch.segment))
    action_nll, observation_nll, count = 0.0, 0.0, 0
    for row, t in zip(*np.nonzero(batch.mask), strict=True):
        logits = output.action[row, t].astype(np.float64)
        action_nll -= logits[batch.action[row, t]] - np.log(np.exp(logits).sum())
        chance = 1 / (1 + np.exp(-output.observation[row, t].astype(np.float64)))
        seen = batch.next_observation[row, t]
        observation_nll -= np.log(np.where(seen == 1, chance, 1 - chance)).sum()
        count += 1
    np.testing.assert_allclose(metrics["action_nll"], action_nll / count, rtol=1e-5)
    np.testing.assert_allclose(metrics["observation_nll"], observation_nll / count, rtol=1e-5)
    np.testing.assert_allclose(value, (action_nll + 0.3 * observation_nll) / count, rtol=1e-5)


def test_neither_labels_nor_parts_change_what_is_learned():
    base = make_base(observation_loss=0.0)
    known, lines = train(Pretraining(Config(**SHORT), base, ToySource()), 3)
    blind, _ = train(Pretraining(Config(**SHORT), base, ToySource(labelled=False)), 3)
    assert set(lines[0]) == {"loss", "action_nll", "padding", "gradient_norm"}
    assert lines[0]["padding"] == pytest.approx(4 / 24)
    jax.tree.map(np.testing.assert_array_equal, known.params, blind.params)
    # The rows of a batch are as many, whether the parts divide them or not.
    for num_parts in (3, 4):
        config = Config(**SHORT | {"num_parts": num_parts})
        _, in_parts = train(Pretraining(config, base, ToySource()), 3)
        for whole, parts in zip(lines, in_parts, strict=True):
            assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_the_curriculum_comes_first():
    config = Config(**SHORT, curriculum_steps=2)
    base = make_base(observation_loss=0.0)
    method = Pretraining(config, base, ToySource(), ToySource(padded=False))
    _, lines = train(method, 4)
    np.testing.assert_allclose([line["padding"] for line in lines], [0, 0, 1 / 6, 1 / 6])
    with pytest.raises(ValueError, match="curriculum_steps: 2 given, allowed is 0 without"):
        Pretraining(config, base, ToySource())


def test_data_are_an_argument_of_the_update():
    method = Pretraining(Config(**SHORT), make_base(observation_loss=0.0), ToySource())
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    update = jax.jit(method.update)
    turned = {**method.frozen, "data": {"turn": jnp.int32(1)}}
    losses = [update(state, frozen)[1]["loss"] for frozen in (method.frozen, turned)]
    assert losses[0] != losses[1] and update._cache_size() == 1
    assert losses[0] < 2 * np.log(NUM_ACTIONS)


def test_snapshots_fall_on_lines_of_metrics():
    assert Config.read({"snapshot_steps": [500, 1_000]}).snapshot_steps == (500, 1_000)
    for ages in ((250,), (0,), (-500,), (500.0,), 500):
        with pytest.raises(SettingError, match="allowed is a tuple of multiples of log_every"):
            Config(snapshot_steps=ages)


def test_arrays_that_the_model_would_misread_are_refused():
    rng, config = np.random.default_rng(0), Config(**SHORT, curriculum_steps=1)
    base = make_base(observation_loss=0.0)

    def of(steps, binary=True):
        shape = (4, steps + 1, NUM_ACTIONS + 1)
        seen = rng.integers(0, 2, shape) if binary else rng.normal(size=shape)
        return Dataset.from_arrays(seen, np.zeros((4, steps), int), np.full(4, steps))

    good = of(10)
    Pretraining(config, base, good, good)
    long = "trajectories have up to 11 actions, allowed is 10, the max_length of the base model"
    for wrong, words in (
        (of(11), long),
        (of(10, False), "observations hold .*, allowed are 0 and"),
    ):
        for pair in ((wrong, good), (good, wrong)):
            with pytest.raises(ValueError, match=words):
                Pretraining(config, base, *pair)
