"""What breaks the contract of a block is found and named: blocks that are broken on purpose."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from internal_rl import testing
from internal_rl.errors import ContractError
from internal_rl.models import blocks
from internal_rl.models.blocks import register_block
from internal_rl.models.recurrence import linear_recurrence, starts_segment
from internal_rl.section import SettingError
from tests.marks import quick


class Fading(nn.Module):
    """A linear recurrence whose fault is told by name; none without."""

    width: int
    fault: str = ""
    reach: int = 0

    def setup(self):
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.width, self.width))

    def _decay(self, x):
        return jnp.full_like(x, 0.9)

    def __call__(self, x, segment):
        inputs = x @ self.kernel
        starts = starts_segment(segment)
        if self.fault == "half":
            inputs = jax.lax.dot(x[:, 0], self.kernel.astype(jnp.float32), precision=None)[:, None]
            inputs = jax.lax.add(inputs, x @ self.kernel)
        if self.fault == "crossing":
            starts = starts & (segment <= 0)
        if self.fault == "padding":
            inputs = inputs + jnp.where(segment < 0, x.sum(-1, dtype=x.dtype), 0)[..., None].sum(
                1, keepdims=True
            ).astype(x.dtype)
        if self.fault == "future":
            inputs = inputs + jnp.roll(inputs, -1, axis=1)
        if self.fault == "rows":
            inputs = inputs + inputs.mean(0, keepdims=True)
        y = linear_recurrence(jnp.where(starts[..., None], 0.0, self._decay(x)), inputs)
        if self.fault == "shape":
            return y[..., :-1]
        if self.fault == "infinite":
            return y / 0.0
        if self.fault == "gradient":
            y = y + 0 * jnp.sqrt(jnp.maximum(y, 0.0) * 0.0)
        if self.fault == "reach" and self.reach < 24:
            y = y * 1.1
        return x + y.astype(x.dtype)

    def step(self, x, state):
        decay = 0.8 if self.fault == "step" else 0.9
        state = decay * state + (x @ self.kernel).astype(jnp.float32)
        if self.fault == "state":
            return x + state.astype(x.dtype), state.astype(jnp.float16)
        if self.fault == "step shape":
            return x[..., :-1], state
        return x + state.astype(x.dtype), state

    @nn.nowrap
    def initial_state(self, batch_size):
        if self.fault == "parameters":
            return jnp.zeros(batch_size) + self.kernel[0]
        if self.fault == "axes":
            return jnp.zeros((self.width, batch_size))
        return jnp.zeros((batch_size, self.width), jnp.float32)

    @nn.nowrap
    def restart(self, state, rows):
        if self.fault == "memory":
            return state
        if self.fault == "half memory":
            return jnp.where(rows[:, None], 1e-3 * state, state)
        return jnp.where(rows[:, None], 0.0, state)


def making(fault=""):
    return lambda shape, **keywords: Fading(shape.width, fault, shape.reach, **keywords)


BROKEN_BLOCKS = {
    "shape": r"__call__: gives float32\[4, 48, 15\], allowed is float32\[4, 48, 16\]",
    "infinite": "__call__: gives numbers that are not finite",
    "crossing": "__call__: an output depends on another trajectory of its row",
    "padding": "__call__: an output depends on padding",
    "future": "__call__: an output depends on later tokens",
    "rows": "__call__: an output depends on another row",
    "gradient": "__call__: gradients are not finite",
    "half": "__call__: raises TypeError.* in bfloat16",
    "step": r"step: differs from the parallel form \(by .* of the largest .*\), allowed is 1e-05",
    "step shape": r"step: gives float32\[4, 15\], allowed is float32\[4, 16\]",
    "state": r"step: state becomes float16\[4,16\], allowed is what initial_state gives: float32",
    "parameters": "initial_state: raises .* without parameters",
    "axes": r"initial_state: an array has shape \(16, 4\), allowed are \(4, ...\) and \(\)",
    "memory": "restart: a row that begins a new trajectory differs from the parallel form",
    "half memory": "restart: a row that begins a new trajectory differs",
}


@pytest.mark.parametrize(
    "fault",
    quick(BROKEN_BLOCKS, ("shape", "crossing", "gradient", "step", "parameters", "half memory")),
)
def test_a_fault_of_a_block_is_named(fault):
    with pytest.raises(ContractError, match=BROKEN_BLOCKS[fault]):
        testing.check_block(making(fault))


def test_a_whole_block_has_no_fault():
    assert testing.block_faults(making()) == []


def test_a_method_that_is_missing_is_named():
    class Stateless(nn.Module):
        @nn.compact
        def __call__(self, x, segment):
            return nn.Dense(x.shape[-1])(x)

    faults = testing.block_faults(lambda shape, **keywords: Stateless(**keywords))
    assert faults == [
        f"{name}: missing, allowed is a method" for name in ("step", "initial_state", "restart")
    ]


def test_what_cannot_be_made_is_told():
    faults = testing.block_faults(lambda width: Fading(width))
    assert len(faults) == 1 and faults[0].startswith("make: raises TypeError")


@pytest.mark.parametrize(
    ("fault", "reach", "faults"),
    [
        ("", 8, 0),
        ("reach", 8, "short_reach: trajectories within 8 steps are computed otherwise"),
        ("", 99, "short_reach: 99 given, allowed is 1 to max_length = 24"),
    ],
)
def test_a_short_reach_is_tried_out(fault, reach, faults, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCKS", dict(blocks._BLOCKS))
    register_block("fading", making(fault), short_reach=lambda max_length: reach)
    found = testing.block_faults("fading")
    if not faults:
        assert found == []
    else:
        assert len(found) == 1 and found[0].startswith(faults)


@pytest.mark.parametrize("name", ["transformer", "hawk"])
def test_blocks_of_this_package_have_no_fault(name):
    testing.check_block(name)


def test_an_unknown_block_is_refused():
    with pytest.raises(SettingError, match="block: 'lstm' given, allowed is .*transformer"):
        testing.check_block("lstm")
