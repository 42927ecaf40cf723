"""Hawk: its two forms agree, equal the paper's equations in NumPy, and restart at borders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from internal_rl.models.hawk import RGLRU, HawkBlock, TemporalConvolution, decay_initializer
from tests.parameters import drawn

BATCH, LENGTH, WIDTH = 3, 11, 8
SEGMENT = np.array([[0] * 11, [0] * 2 + [1] * 6 + [-1] * 3, [0] + [1] + [2] * 9])


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def block():
    module = HawkBlock(WIDTH, num_heads=2, mlp_size=16, init_scale=1.0)
    x = normal(BATCH, LENGTH, WIDTH)
    return module, drawn(module.init, x, SEGMENT), x


def test_step_form_agrees_with_parallel_form_and_restarts(block):
    module, params, x = block
    expected = np.asarray(jax.jit(module.apply)(params, x, SEGMENT))
    restart = jax.jit(module.restart)
    step = jax.jit(functools.partial(module.apply, method="step"))
    state = module.initial_state(BATCH)
    for t in range(LENGTH):
        if t:
            state = restart(state, SEGMENT[:, t] != SEGMENT[:, t - 1])
        y, state = step(params, x[:, t], state)
        np.testing.assert_allclose(y, expected[:, t], atol=1e-5)


def test_a_segment_does_not_see_its_neighbours(block):
    module, params, x = block
    run = jax.jit(module.apply)
    packed = np.asarray(run(params, x, SEGMENT))
    alone = np.asarray(run(params, x[1:2, 2:8], np.zeros((1, 6), np.int32)))
    np.testing.assert_allclose(packed[1, 2:8], alone[0], atol=1e-5)


def test_rg_lru_equals_the_equations_of_the_paper():
    module = RGLRU(WIDTH, num_heads=2, init_scale=1.0)
    x = normal(1, LENGTH, WIDTH, seed=2)
    params = drawn(module.init, x, SEGMENT[:1])
    found = np.asarray(jax.jit(module.apply)(params, x, SEGMENT[:1]))
    p = params["params"]

    def gate(name, value):
        matrix = np.zeros((WIDTH, WIDTH))
        for head, kernel in enumerate(p[name]["kernel"]):
            place = slice(head * WIDTH // 2, (head + 1) * WIDTH // 2)
            matrix[place, place] = kernel
        return 1 / (1 + np.exp(-(value @ matrix + p[name]["bias"])))

    hidden = np.zeros(WIDTH)
    for t, value in enumerate(x[0].astype(np.float64)):
        decay = np.exp(-8 * np.log1p(np.exp(p["decay"])) * gate("recurrence_gate", value))
        hidden = decay * hidden + np.sqrt(1 - decay**2) * gate("input_gate", value) * value
        np.testing.assert_allclose(found[0, t], hidden, atol=1e-5)


def test_convolution_equals_a_loop_over_the_last_four_steps_of_the_segment():
    module = TemporalConvolution(WIDTH, init_scale=1.0)
    x = normal(BATCH, LENGTH, WIDTH, seed=3)
    params = drawn(module.init, x, SEGMENT)
    found = np.asarray(jax.jit(module.apply)(params, x, SEGMENT))
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    for b in range(BATCH):
        for t in range(LENGTH):
            taps = [lag for lag in range(4) if t >= lag and SEGMENT[b, t - lag] == SEGMENT[b, t]]
            expected = bias + sum(kernel[3 - lag] * x[b, t - lag] for lag in taps)
            np.testing.assert_allclose(found[b, t], expected, atol=1e-5)


def test_initial_decays_lie_on_the_ring():
    draw = jax.jit(lambda key: decay_initializer(key, (4000,)))
    radius = np.exp(-np.logaddexp(0, np.asarray(draw(jax.random.key(0)))))
    assert radius.min() >= 0.9 - 1e-6 and radius.max() <= 0.999 + 1e-6
    share_below = (0.95**2 - 0.9**2) / (0.999**2 - 0.9**2)
    assert abs((radius < 0.95).mean() - share_below) < 0.03


def test_gradients_are_finite_with_saturated_gates(block):
    module, params, x = block
    loss = lambda params: jnp.sum(module.apply(params, 1e3 * x, SEGMENT) ** 2)  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(jax.tree.map(lambda value: 30 * value, params))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_gradients_equal_finite_differences():
    with jax.enable_x64(True):
        module = HawkBlock(WIDTH, num_heads=2, mlp_size=16, init_scale=1.0)
        x = normal(BATCH, LENGTH, WIDTH).astype(np.float64)
        params = jax.tree.map(np.float64, drawn(module.init, x, SEGMENT))
        # A smooth function of the output: the MLP's corners must not lie within a step.
        run = jax.jit(lambda params, x: jnp.sum(jnp.sin(module.apply(params, x, SEGMENT))))
        check_grads(run, (params, x), order=1, modes=["rev"], rtol=1e-3, atol=1e-6, eps=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.06)])
def test_ten_thousand_steps_stay_finite_and_the_forms_together(block, dtype, tolerance):
    module, params, _ = block
    x, segment = normal(1, 10_000, WIDTH, seed=4), np.zeros((1, 10_000), np.int32)
    exact = jax.jit(module.apply)(params, x, segment)
    cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)  # noqa: E731
    params, x = cast(params), cast(x)

    @jax.jit
    def step_by_step(params, x):
        def step(state, x_t):
            y, state = module.apply(params, x_t[None], state, method="step")
            return state, y[0]

        state = module.initial_state(1)
        state = state.replace(recent=state.recent.astype(dtype))
        return jax.lax.scan(step, state, x[0])[1]

    parallel = np.asarray(jax.jit(module.apply)(params, x, segment))[0]
    steps = step_by_step(params, x)
    assert parallel.dtype == steps.dtype == dtype
    parallel, steps, exact = (np.asarray(y, np.float64) for y in (parallel, steps, exact))
    assert np.isfinite(parallel).all() and np.isfinite(steps).all()
    exact = exact[0]
    scale = np.abs(exact).max()
    np.testing.assert_allclose(parallel, steps, atol=tolerance * scale)
    np.testing.assert_allclose(parallel, exact, atol=tolerance * scale)


def test_heads_that_do_not_divide_the_width_are_refused():
    module = HawkBlock(WIDTH, num_heads=3, mlp_size=16)
    with pytest.raises(ValueError, match="num_heads: got 3, allowed: divisors of 8"):
        module.init(jax.random.key(0), jnp.zeros((1, 2, WIDTH)), jnp.zeros((1, 2), jnp.int32))
