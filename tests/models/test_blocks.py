"""Blocks by name: those of this package, and one from outside."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.models import blocks
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.blocks import BlockShape, register_block, registered_blocks
from internal_rl.models.reach import gradient_through
from internal_rl.models.recurrence import starts_segment
from internal_rl.section import SettingError
from internal_rl.types import ActionSpec, ObservationSpec

SPECS = ObservationSpec("gaussian", 5), ActionSpec("categorical", 4)
SEGMENT = jnp.array([[0] * 5 + [1] * 4 + [-1] * 3, [0] * 12])


class GRUBlock(nn.Module):
    """A block that somebody else might write: a gated recurrent unit with a residual connection."""

    width: int

    def setup(self):
        self.cell = nn.GRUCell(self.width)

    def __call__(self, x, segment):
        if self.is_initializing():
            return x + self.step(x[:, 0], self.initial_state(x.shape[0]))[0][:, None]

        def step(block, state, inputs):
            x_t, first = inputs
            return block.step(x_t, block.restart(state, first))[::-1]

        scan = nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        return scan(self, self.initial_state(x.shape[0]), (x, starts_segment(segment)))[1]

    def step(self, x, state):
        state, y = self.cell(state, x)
        return x + y, state

    @nn.nowrap
    def initial_state(self, batch_size):
        return jnp.zeros((batch_size, self.width), jnp.float32)

    @nn.nowrap
    def restart(self, state, rows):
        return jnp.where(rows[:, None], 0.0, state)


@pytest.fixture
def gru(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCKS", dict(blocks._BLOCKS))
    seen = []

    def make(shape, **keywords):
        seen.append(shape)
        return GRUBlock(shape.width, **keywords)

    register_block("gru", make)
    model = BaseModel(*SPECS, BaseConfig(block="gru", width=8, depth=2), max_length=20)
    return model, jax.jit(model.initial_params)(jax.random.key(0)), seen


def test_a_block_from_outside_predicts_steps_and_restarts(gru):
    model, params, seen = gru
    assert "gru" in registered_blocks()
    observation = jax.random.normal(jax.random.key(1), (2, 12, 5))
    expected = jax.jit(model.apply)(params, observation, SEGMENT).action
    assert seen[0] == BlockShape(8, 4, 64, 512, 0.1, max_length=20, reach=20)

    @jax.jit
    def step(state, x, restarts):
        e, state = model.apply(params, x, model.restart(state, restarts), 1, method="lower_step")
        return model.apply(params, e, state, 1, method="upper_step")

    state, restarts = model.initial_state(2), starts_segment(SEGMENT)
    for t in range(12):
        output, state = step(state, observation[:, t], restarts[:, t])
        np.testing.assert_allclose(output.action, expected[:, t], atol=1e-5)


def test_a_block_from_outside_gives_gradients(gru):
    model, params, _ = gru
    assert model.short_reach is None

    class Part:
        segment = SEGMENT
        observation = jnp.ones((2, 12, 5))

    def loss(base, params, part, index):
        output = base.apply(params, part.observation, part.segment)
        return jnp.mean(output.action**2) + index, ()

    (value, _), gradients = gradient_through(model, loss)(params, Part(), 0.0)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_block_may_know_a_reach_that_saves_work(gru, monkeypatch):
    model, _, seen = gru
    register_block(
        "gru",
        lambda shape, **keywords: seen.append(shape) or GRUBlock(shape.width, **keywords),
        short_reach=lambda max_length: max_length // 2,
    )
    assert model.short_reach == 10
    jax.eval_shape(model.clone(reach=10).initial_params, jax.random.key(0))
    assert (seen[-1].max_length, seen[-1].reach) == (20, 10)


def test_what_does_not_suit_a_block_names_the_field():
    with pytest.raises(SettingError, match=r"block: 'lstm' given, allowed is .*transformer"):
        BaseConfig(block="lstm")
    with pytest.raises(SettingError, match="num_heads: 3 given, allowed is a divisor of width = 8"):
        BaseConfig(block="hawk", width=8, num_heads=3)
