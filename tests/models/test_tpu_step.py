"""The kernel of the one-step form, interpreted, against plain NumPy and the cache of CPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.backend import traced_for
from internal_rl.models import tpu_step
from internal_rl.models.tpu_block import Weights
from internal_rl.models.tpu_rows import EPSILON
from internal_rl.models.transformer import TransformerBlock
from tests.parameters import drawn

HEADS, SIZE, SLOTS, WIDTH, MLP_SIZE = 4, 32, 32, 128, 256


def norm(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + EPSILON) * scale


def step_of(x, weights, keys, values, visible, slot):
    """The same in NumPy, episode by episode and head by head."""
    size = HEADS * SIZE
    results = []
    for b in range(len(x)):
        qkv = norm(x[b], weights.attention_scale[0]) @ weights.query_key_value
        query, key, value = qkv[:size], qkv[size : 2 * size], qkv[2 * size :]
        own_keys, own_values = keys[b].copy(), values[b].copy()
        own_keys[slot], own_values[slot] = key, value
        attended = np.zeros(size)
        for head in range(HEADS):
            part = slice(head * SIZE, (head + 1) * SIZE)
            scores = own_keys[:, part] @ query[part] * SIZE**-0.5 + weights.bias[head]
            weight = np.exp(scores - scores[visible[b]].max()) * visible[b]
            attended[part] = weight @ own_values[:, part] / weight.sum()
        y = x[b] + attended @ weights.attention_output
        hidden = norm(y, weights.mlp_scale[0]) @ weights.hidden + weights.hidden_bias[0]
        y = y + np.maximum(hidden, 0) @ weights.output + weights.output_bias[0]
        results.append((y, key, value))
    return [np.stack(part) for part in zip(*results, strict=True)]


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    """Fewer episodes in a run of the kernel, which writes each of them out, are compiled sooner."""
    monkeypatch.setattr(tpu_step, "_EPISODES", 2)


@pytest.mark.parametrize("episodes", [2, 5])
def test_a_step_is_that_of_plain_loops(episodes):
    random, size, slot = np.random.default_rng(episodes), HEADS * SIZE, 7

    def draw(*shape, scale=1.0):
        # Numbers that bfloat16 holds.
        return (random.normal(size=shape) * scale).astype(jnp.bfloat16).astype(np.float32)

    weights = Weights(
        attention_scale=draw(1, WIDTH),
        query_key_value=draw(WIDTH, 3 * size, scale=WIDTH**-0.5),
        bias=draw(HEADS, SLOTS),
        attention_output=draw(size, WIDTH, scale=size**-0.5),
        mlp_scale=draw(1, WIDTH),
        hidden=draw(WIDTH, MLP_SIZE, scale=WIDTH**-0.5),
        hidden_bias=draw(1, MLP_SIZE),
        output=draw(MLP_SIZE, WIDTH, scale=MLP_SIZE**-0.5),
        output_bias=draw(1, WIDTH),
    )
    x, keys, values = draw(episodes, WIDTH), *(draw(episodes, SLOTS, size) for _ in range(2))
    # What the cache holds of an earlier step in the place of this one must not be read.
    keys[:, slot], values[:, slot] = 100.0, 100.0
    present = np.arange(SLOTS) == slot
    visible = (random.random((episodes, SLOTS)) < 0.5) | present
    cache = tuple(array.astype(jnp.bfloat16) for array in (keys, values))
    step = jax.jit(functools.partial(tpu_step.block_step, interpret=True))
    found = step(x, weights, cache, visible, present)
    assert [array.dtype for array in found] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    arrays = jax.tree.map(np.float64, (x, weights, keys, values))
    expected = step_of(*arrays, visible, slot)
    for name, mine, theirs in zip(("output", "key", "value"), found, expected, strict=True):
        np.testing.assert_allclose(np.float64(mine), theirs, atol=0.06, err_msg=name)
        assert np.abs(np.float64(mine) - theirs).mean() < 0.01, name


def run(block, params, state, inputs):
    """Outputs `(S, B, n)` of steps, before some of which episodes begin anew."""

    def step(state, inputs):
        x, restart = inputs
        y, state = block.apply(params, x, block.restart(state, restart), method="step")
        return state, y

    return jax.lax.scan(step, state, inputs)[1]


def test_episodes_that_begin_anew_see_what_they_see_in_the_cache_of_a_cpu(monkeypatch):
    steps, episodes, max_length = 60, 3, 19
    interpreted = functools.partial(tpu_step.block_step, interpret=True)
    monkeypatch.setattr(tpu_step, "block_step", interpreted)
    block = TransformerBlock(
        WIDTH, HEADS, SIZE, MLP_SIZE, 1.0, max_length=max_length, dtype=jnp.bfloat16
    )
    segment = jnp.zeros((1, 2), jnp.int32)
    params = drawn(block.init, jnp.zeros((1, 2, WIDTH)), segment)
    x = jax.random.normal(jax.random.key(1), (steps, episodes, WIDTH))
    # No episode is longer than the cache.
    restart = (jnp.arange(steps)[:, None] + jnp.arange(0, 3 * episodes, 3)) % max_length == 0
    with traced_for("tpu"):
        state = block.initial_state(episodes)
    assert state.for_kernel and state.num_slots == 32
    assert not block.initial_state(episodes).for_kernel
    found = jax.jit(functools.partial(run, block))(params, state, (x, restart))
    plain = block.initial_state(episodes)
    expected = jax.jit(functools.partial(run, block))(params, plain, (x, restart))
    assert float(jnp.std(expected - x)) > 0.1
    np.testing.assert_allclose(found, expected, atol=0.08)


@pytest.mark.parametrize(
    ("width", "mlp_size", "heads", "dtype", "expected"),
    [
        (128, 128, 2, jnp.bfloat16, True),
        (128, 128, 2, jnp.float32, False),
        (128, 128, 1, jnp.bfloat16, False),
        (64, 128, 2, jnp.bfloat16, False),
        (128, 64, 2, jnp.bfloat16, False),
        (1024, 1024, 2, jnp.bfloat16, False),
    ],
)
def test_sizes_that_do_not_suit_take_the_other_cache(width, mlp_size, heads, dtype, expected):
    block = TransformerBlock(width, heads, 64, mlp_size, dtype=dtype)
    with traced_for("tpu"):
        assert block.initial_state(2).for_kernel == expected


@pytest.mark.parametrize(
    ("max_length", "heads", "expected"),
    [
        (100, 4, True),
        (256, 4, True),
        (512, 2, True),
        (100, 8, True),
        (500, 4, False),
        (500, 8, False),
    ],
)
def test_a_cache_that_does_not_fit_into_a_core_is_the_other_one(
    max_length, heads, expected, monkeypatch
):
    monkeypatch.setattr(tpu_step, "_EPISODES", 16)
    block = TransformerBlock(256, heads, 64, 512, max_length=max_length, dtype=jnp.bfloat16)
    with traced_for("tpu"):
        state = jax.eval_shape(lambda: block.initial_state(16))
    assert state.for_kernel == expected
    # Of 16 episodes, the next ones beside them; the compiler allows 16 MiB with all the rest.
    size = 2 * sum(array.size * array.dtype.itemsize for array in (*state.key, *state.value))
    assert (size <= 8 * 2**20) == expected
