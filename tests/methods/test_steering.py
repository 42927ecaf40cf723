"""Supervised controllers learn the expert's actions at every layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.methods.steering import Config, Steering, steering_losses
from internal_rl.models.controllers import Controllers
from internal_rl.section import SettingError
from tests.methods.toy import NUM_SUBGOALS, ToySource

SHORT = {"steps": 41, "batch_size": 16, "num_parts": 1, "learning_rate": 1e-2}


@pytest.mark.parametrize("rank", [0, 4])
def test_controllers_learn_the_experts_actions_at_every_layer(model, rank):
    method = Steering(Config(**SHORT, rank=rank), model, ToySource(), NUM_SUBGOALS)
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    update = jax.jit(method.update)
    state, first = update(state, method.frozen)
    for _ in range(40):
        state, last = update(state, method.frozen)
    assert set(last) == {"loss", *(f"action_nll_layer_{i}" for i in range(3))}
    for name, value in last.items():
        assert value < first[name] - 0.1, name
    params = method.params(state)
    assert set(params) == {"layer_0", "layer_1", "layer_2"}
    assert (params["layer_0"]["write"] is None) == (rank == 0)


def test_loss_without_control_is_that_of_the_base_model(model):
    source = ToySource()
    batch = source.held_out(jax.random.key(1), 3, source.arrays)
    base, params = model.base, model.base_params
    logits = jax.jit(base.apply)(params, batch.observation, batch.segment).action
    chosen = np.take_along_axis(jax.nn.log_softmax(logits), batch.action[..., None], 2)[..., 0]
    expected = -chosen[np.asarray(batch.mask)].mean()
    nothing = Controllers(np.zeros((NUM_SUBGOALS, 16, 16)), None)
    found = jax.jit(steering_losses)([nothing] * 3, model, batch, batch.num_targets())
    np.testing.assert_allclose(found, [expected] * 3, rtol=1e-5)


def one_layer_at_a_time(controllers, model, batch):
    """Losses of one layer's controllers after the other, each with a model of its own above it."""
    losses = []
    for layer, of_layer in enumerate(controllers):
        cut = model.at_layer(layer)
        residual = cut.lower(batch.observation, batch.segment)
        chosen = jax.nn.one_hot(batch.subgoal, NUM_SUBGOALS)
        matrix = jnp.einsum("gnr,grm->gnm", of_layer.write, of_layer.read)
        control = jnp.einsum("bsg,gnm,bsm->bsn", chosen, matrix, residual)
        logits = cut.upper(residual + control, batch.segment).action
        log_prob = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_prob, batch.action[..., None], 2)[..., 0]
        losses.append(-jnp.sum(chosen * batch.mask) / batch.mask.sum())
    return jnp.stack(losses)


def test_layers_side_by_side_have_the_losses_and_gradients_of_each_alone(model):
    source = ToySource()
    batch = source.held_out(jax.random.key(1), 5, source.arrays)
    random = np.random.default_rng(0)
    shapes = (NUM_SUBGOALS, 4, 16), (NUM_SUBGOALS, 16, 4)
    controllers = [
        Controllers(*(random.normal(size=shape).astype(np.float32) * 0.1 for shape in shapes))
        for _ in range(3)
    ]

    def both(losses):
        return jax.jit(lambda c: (losses(c), jax.grad(lambda c: losses(c).sum())(c)))(controllers)

    found, gradients = both(lambda c: steering_losses(c, model, batch, batch.num_targets()))
    expected, their_gradients = both(lambda c: one_layer_at_a_time(c, model, batch))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    jax.tree.map(
        lambda g, h: np.testing.assert_allclose(g, h, rtol=1e-4, atol=1e-6),
        gradients,
        their_gradients,
    )


def test_what_cannot_be_steered_is_refused(model):
    with pytest.raises(ValueError, match="source of steering: labelled is False, allowed are"):
        Steering(Config(), model, ToySource(labelled=False), NUM_SUBGOALS)
    method = Steering(Config(rank=17), model, ToySource(), NUM_SUBGOALS)
    with pytest.raises(SettingError, match=r"rank: 17 given, allowed is 0 \(full\) to 16"):
        method.init(jax.random.key(0), method.frozen)
