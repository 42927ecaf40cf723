"""The kernel of the one-step form, interpreted, against plain softmax and the cache of CPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.backend import traced_for
from internal_rl.models import cached_attention, tpu_step

HEADS, SIZE, SLOTS = 4, 32, 32


@pytest.mark.parametrize("episodes", [5, 16, 20])
def test_attention_is_a_softmax_over_what_is_visible(episodes):
    random = np.random.default_rng(episodes)

    def draw(*shape, dtype=jnp.bfloat16):
        return jnp.asarray(random.normal(size=shape), dtype)

    width = HEADS * SIZE
    query = draw(episodes, width) * SIZE**-0.5
    key, value = draw(episodes, SLOTS, width), draw(episodes, SLOTS, width)
    bias = draw(HEADS, SLOTS, dtype=jnp.float32)
    visible = jnp.asarray(random.random((episodes, SLOTS)) < 0.5).at[:, 0].set(True)
    found = tpu_step.attend_step(query, key, value, bias, visible, interpret=True)

    heads = [np.asarray(x, np.float64).reshape(*x.shape[:-1], HEADS, SIZE) for x in (key, value)]
    scores = np.einsum("bhd,bthd->bht", np.float64(query).reshape(-1, HEADS, SIZE), heads[0])
    scores = np.where(np.asarray(visible)[:, None], scores + np.asarray(bias), -np.inf)
    weight = np.exp(scores - scores.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    expected = np.einsum("bht,bthd->bhd", weight, heads[1]).reshape(episodes, width)
    np.testing.assert_allclose(np.float64(found), expected, atol=0.02)


def run(cache, inputs, bias):
    """Outputs `(S, B, H dh)` of steps, before some of which episodes begin anew."""

    def step(cache, inputs):
        query, key, value, restart = inputs
        cache = cache.replace(length=jnp.where(restart, 0, cache.length))
        attended, cache = cached_attention.attend_step(query, key, value, bias, cache)
        return cache, attended

    return jax.lax.scan(step, cache, inputs)[1]


def test_episodes_that_begin_anew_see_what_they_see_in_the_cache_of_a_cpu(monkeypatch):
    steps, episodes, max_length = 60, 3, 19
    interpreted = functools.partial(tpu_step.attend_step, interpret=True)
    monkeypatch.setattr(tpu_step, "attend_step", interpreted)
    keys = jax.random.split(jax.random.key(0), 5)
    shape = (steps, episodes, HEADS * SIZE)
    moved = [jax.random.normal(key, shape).astype(jnp.bfloat16) for key in keys[:3]]
    # No episode is longer than the cache.
    restart = (jnp.arange(steps)[:, None] + jnp.arange(0, 3 * episodes, 3)) % max_length == 0
    inputs = (*moved, restart)

    def start():
        sizes = (HEADS, SIZE, jnp.bfloat16)
        return cached_attention.empty_cache(episodes, max_length, *sizes)

    with traced_for("tpu"):
        cache = start()
    assert cache.for_kernel and cache.num_slots == 32 and not start().for_kernel
    by_distance = jax.random.normal(keys[3], (HEADS, 32))
    found = jax.jit(run)(cache, inputs, by_distance)
    expected = jax.jit(run)(start(), inputs, by_distance[:, : start().num_slots])
    assert float(jnp.std(expected.astype(jnp.float32))) > 0.1
    np.testing.assert_allclose(found.astype(jnp.float32), expected.astype(jnp.float32), atol=0.03)


def test_sizes_that_do_not_fill_registers_take_the_other_cache():
    with traced_for("tpu"):
        assert not cached_attention.empty_cache(2, 8, 1, 64, jnp.bfloat16).for_kernel
        assert not cached_attention.empty_cache(2, 8, 2, 64, jnp.float32).for_kernel
        assert cached_attention.empty_cache(2, 8, 2, 64, jnp.bfloat16).for_kernel
