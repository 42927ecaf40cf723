"""Linear recurrence, in XLA and as a TPU kernel, and convolution, against loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from internal_rl.backend import traced_for
from internal_rl.models import recurrence_kernel
from internal_rl.models.hawk import BlockDiagonalDense, TemporalConvolution
from internal_rl.models.recurrence import age_in_segment, linear_recurrence

SEGMENT = np.sort(np.random.default_rng(0).integers(0, 4, (3, 16)), axis=1).astype(np.int32)
ROWS, LENGTH = SEGMENT.shape
WIDTH = 128


def rows(seed, width=WIDTH):
    return np.random.default_rng(seed).normal(size=(ROWS, LENGTH, width)).astype(np.float32)


def decays(width=WIDTH):
    decay = 1 / (1 + np.exp(-rows(0, width)))
    return np.where(np.diff(SEGMENT, axis=1, prepend=-1)[..., None] > 0, np.float32(0), decay)


def loop(decay, inputs, reverse=False, late=False):
    decay, inputs = np.asarray(decay, np.float64), np.asarray(inputs, np.float64)
    states, carry = np.zeros(inputs.shape), 0.0
    for t in range(LENGTH)[:: -1 if reverse else 1]:
        states[:, t] = inputs[:, t] + (carry if late else decay[:, t] * carry)
        carry = states[:, t] * (decay[:, t] if late else 1.0)
    return states


def scanned(decay, inputs, reverse):
    """The same without derivatives of its own."""

    def step(state, inputs_t):
        state = inputs_t[0] * state + inputs_t[1]
        return state, state

    inputs = (decay.swapaxes(0, 1), inputs.swapaxes(0, 1))
    return jax.lax.scan(step, jnp.zeros_like(inputs[1][0]), inputs, reverse=reverse)[1].swapaxes(
        0, 1
    )


@pytest.fixture(params=["xla", "kernel"])
def anywhere(request, monkeypatch):
    """Runs a test twice: as on CPUs and GPUs, and with the kernels of TPUs, interpreted."""
    if request.param == "xla":
        yield
        return
    solve = functools.partial(recurrence_kernel.solve, interpret=True)
    monkeypatch.setattr(recurrence_kernel, "solve", solve)
    with traced_for("tpu"):
        yield


@functools.partial(jax.jit, static_argnums=0)
def everything(function, inputs, directions, weights):
    value, tangent = jax.jvp(function, inputs, directions)
    loss = lambda *inputs: jnp.sum(weights * function(*inputs))  # noqa: E731
    return value, tangent, jax.grad(loss, argnums=(0, 1))(*inputs)


def assert_same(found, expected, atol=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), found, expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_recurrence_equals_a_loop_and_the_derivatives_of_a_scan(anywhere, reverse):
    inputs = decays(), rows(1)
    rest = (rows(2), rows(3)), rows(4)
    expected = everything(lambda *inputs: scanned(*inputs, reverse), inputs, *rest)
    solve = lambda *inputs: linear_recurrence(*inputs, reverse)  # noqa: E731
    found = everything(solve, inputs, *rest)
    np.testing.assert_allclose(jax.jit(solve)(*inputs), loop(*inputs, reverse), atol=1e-5)
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((155, 512, 256), (4, 256)),
        ((155, 512, 384), (4, 128)),
        ((3, 512, 256), (3, 256)),
        ((155, 688, 256), (2, 256)),
        ((155, 2048, 256), (1, 256)),
        ((155, 4096, 256), (1, 128)),
        ((155, 4104, 256), None),
        ((155, 516, 256), None),
        ((155, 512, 64), None),
    ],
)
def test_rows_that_the_kernel_takes_fit_into_a_core(shape, expected):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)

    def solve():
        return str(jax.make_jaxpr(lambda *inputs: linear_recurrence(*inputs))(x, x))

    assert "pallas_call" not in solve()
    with traced_for("tpu"):
        program = solve()
    if expected is None:
        assert "pallas_call" not in program
        return
    rows, channels = expected
    assert f"{{f32[{rows},{shape[1]},{channels}]}}" in program
    # Three arrays of four bytes, each twice; the compiler allows 16 MiB.
    assert 3 * 2 * 4 * rows * shape[1] * channels <= 12 * 2**20


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_kernel_solves_what_it_says(reverse, late):
    inputs = decays(), rows(1)
    found = recurrence_kernel.solve(*inputs, reverse=reverse, late=late, interpret=True)
    np.testing.assert_allclose(found, loop(*inputs, reverse, late), atol=1e-5)


def test_recurrence_has_second_derivatives_and_runs_inside_of_loops():
    with jax.enable_x64(True):
        decay, inputs = (x.astype(np.float64) for x in (decays(2), rows(1, 2)))
        run = jax.jit(lambda *inputs: jnp.sum(jnp.sin(linear_recurrence(*inputs))))
        check_grads(run, (decay, inputs), order=2, rtol=1e-4, atol=1e-6, eps=1e-5)

        def twice(decay, inputs):
            body = lambda x, _: (linear_recurrence(decay, x, True), None)  # noqa: E731
            return jax.lax.scan(body, inputs, None, length=2)[0].sum()

        check_grads(jax.jit(twice), (decay, inputs), order=1, rtol=1e-4, atol=1e-6, eps=1e-5)


def test_recurrence_works_for_copies_side_by_side(anywhere):
    gradient = jax.grad(lambda x, decay: jnp.sum(jnp.sin(linear_recurrence(decay, x))))
    both = np.stack([rows(1), rows(2)])
    found = jax.jit(jax.vmap(gradient, in_axes=(0, None)))(both, decays())
    alone = jax.jit(gradient)
    assert_same(found, np.stack([alone(x, decays()) for x in both]))


def test_recurrence_is_at_least_float32():
    decay, inputs = (x.astype(jnp.bfloat16) for x in (decays(4), rows(1, 4)))
    found = jax.jit(lambda *inputs: linear_recurrence(*inputs))(decay, inputs)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, loop(decay, inputs), atol=1e-5)


@pytest.fixture(scope="module")
def params():
    module = TemporalConvolution(WIDTH, init_scale=1.0)
    params = jax.jit(module.init)(jax.random.key(0), rows(1), SEGMENT)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: np.float32(p + rng.normal(size=p.shape)), jax.device_get(params))


@pytest.fixture
def convolution(params):
    # A function of its own for every test: what is traced for one backend is no other's.
    module = TemporalConvolution(WIDTH, init_scale=1.0)
    return params, lambda params, x: module.apply(params, x, SEGMENT)


def test_convolution_and_its_derivatives_equal_sums_over_the_last_steps(convolution):
    params, run = convolution
    # By lag: 1 where a step of a row reads an earlier one.
    reads = np.zeros((4, ROWS, LENGTH, LENGTH), np.float32)
    for lag, row, t in np.ndindex(4, ROWS, LENGTH):
        if t >= lag and SEGMENT[row, t - lag] == SEGMENT[row, t]:
            reads[lag, row, t, t - lag] = 1.0

    def slow(params, x):
        kernel, bias = params["params"]["kernel"], params["params"]["bias"]
        return jnp.einsum("lw,lbts,bsw->btw", kernel[::-1], reads, x) + bias

    rest = (params, rows(1)), (jax.tree.map(np.cos, params), rows(2)), rows(3)
    assert_same(everything(run, *rest), everything(slow, *rest), 1e-4)


@pytest.mark.parametrize("argument", [0, 1])
def test_convolution_works_for_copies_side_by_side(convolution, argument):
    params, run = convolution
    gradient = jax.grad(lambda *inputs: jnp.sum(jnp.sin(run(*inputs))), argnums=argument)
    both = np.stack([rows(1), rows(2)])
    found = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(params, both)
    alone = jax.jit(gradient)
    expected = jax.tree.map(lambda *x: np.stack(x), *(alone(params, x) for x in both))
    assert_same(found, expected, 1e-4)


def test_block_diagonal_products_are_the_same_on_all_backends():
    module = BlockDiagonalDense(8, num_blocks=2, init_scale=1.0)
    params = jax.jit(module.init)(jax.random.key(0), rows(1, 8))

    def gradients():
        loss = lambda params, x: jnp.sum(jnp.sin(module.apply(params, x)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, rows(1, 8))

    expected = gradients()
    with traced_for("tpu"):
        assert_same(gradients(), expected)


def test_age_counts_from_the_start_of_every_segment():
    segment = np.array([[0, 0, 1, 1, 1, -1], [3, 3, 3, 3, 3, 3]])
    age = jax.jit(age_in_segment)(segment)
    np.testing.assert_array_equal(age, [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]])
