"""Loops over packed rows whose derivatives are written out: GRU and integration of codes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from internal_rl.backend import traced_for
from internal_rl.models import loop_kernel
from internal_rl.models.history import histories, input_products
from internal_rl.models.integration import Gate, codes_before

SEGMENT = np.array([[0] * 5 + [1] * 3 + [2] * 12, [0] * 20])
START = np.diff(SEGMENT, axis=1, prepend=-1) != 0
BATCH, LENGTH = SEGMENT.shape
SIZE, WIDTH = 3, 4
BACKENDS = ("cpu", "tpu")


def normal(seed, *shape):
    return 0.7 * jax.random.normal(jax.random.key(seed), shape, jnp.float64)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def gru():
    x = normal(1, BATCH, LENGTH, WIDTH)
    init = nn.GRUCell(SIZE).init
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((BATCH, SIZE)), x[:, 0])["params"]
    names = jax.tree.map(lambda leaf: normal(leaf.size, *leaf.shape), shapes)
    return names, x


def loop_histories(params, x):
    """`h_{t-1}` by the cell of flax, one step after another."""
    history, found = jnp.zeros((BATCH, SIZE)), []
    for t in range(LENGTH):
        history = jnp.where(START[:, t, None], 0.0, history)
        found.append(history)
        history, _ = nn.GRUCell(SIZE).apply({"params": params}, history, x[:, t])
    return jnp.stack(found, axis=1)


def run_histories(params, x):
    return histories(params, input_products(params, x), START)


@pytest.fixture
def gate():
    low = np.where(START, 1.0, 0.1)
    gate = Gate(
        kernel=normal(1, 2, 5),
        context=normal(2, BATCH, LENGTH, 5),
        output=normal(3, 5),
        bias=normal(4, BATCH, LENGTH),
        low=jnp.asarray(low),
        range=jnp.asarray(1 - low),
    )
    return gate, normal(5, BATCH, LENGTH, 2)


def loop_codes(gate, proposal):
    """`z_{t-1}` by the equations, one step after another."""
    code, found = jnp.zeros((BATCH, 2)), []
    for t in range(LENGTH):
        found.append(code)
        hidden = jax.nn.gelu(gate.context[:, t] + code @ gate.kernel)
        beta = jax.nn.sigmoid(hidden @ gate.output + gate.bias[:, t])
        beta = (gate.low[:, t] + gate.range[:, t] * beta)[:, None]
        code = beta * proposal[:, t] + (1 - beta) * code
    return jnp.stack(found, axis=1)


def assert_same(found, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-10), found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("inputs", "run", "slow"),
    [("gru", run_histories, loop_histories), ("gate", codes_before, loop_codes)],
)
def test_values_and_derivatives_are_those_of_slow_loops(request, inputs, run, slow, backend):
    inputs = request.getfixturevalue(inputs)
    directions = jax.tree.map(lambda leaf: normal(leaf.size, *leaf.shape), inputs)
    weights = jnp.cos(jnp.arange(BATCH * LENGTH)).reshape(BATCH, LENGTH, 1)

    def everything(function):
        value, tangent = jax.jvp(function, inputs, directions)
        loss = lambda *inputs: jnp.sum(weights * function(*inputs))  # noqa: E731
        return value, tangent, jax.grad(loss, argnums=(0, 1))(*inputs)

    with traced_for(backend):
        found = jax.jit(lambda: everything(run))()
    assert_same(found, jax.jit(lambda: everything(slow))())


def test_gradients_of_gradients_equal_finite_differences(gate):
    def loss(proposal):
        return jnp.sum(jnp.sin(codes_before(gate[0], proposal)))

    check_grads(jax.jit(loss), (gate[1],), order=2, rtol=1e-4, atol=1e-6, eps=1e-5)


def test_copies_side_by_side_are_those_one_after_another(gru):
    params, x = gru
    xs = jnp.stack([x, -x])
    found = jax.jit(jax.vmap(run_histories, in_axes=(None, 0)))(params, xs)
    assert_same(found, jnp.stack([loop_histories(params, x) for x in xs]))


def kernel_case(which):
    """Inputs of rows that the kernels take: two runs of rows, two chunks of time."""
    rows, length = 11, 128
    random = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(0.7 * random.normal(size=shape), jnp.float32)

    start = random.random((rows, length)) < 0.1
    start[:, 0] = True
    if which == "gru":
        init = nn.GRUCell(SIZE).init
        shapes = jax.eval_shape(init, jax.random.key(0), draw(1, SIZE), draw(1, WIDTH))["params"]
        params = jax.tree.map(lambda leaf: draw(*leaf.shape), shapes)
        return (params, draw(rows, length, WIDTH)), lambda params, x: histories(
            params, input_products(params, x), start
        )
    low = jnp.where(start, 1.0, 0.1).astype(jnp.float32)
    context, bias = draw(rows, length, 5), draw(rows, length)
    gate = Gate(draw(2, 5), context, draw(5), bias, low, 1 - low)
    return (gate, draw(rows, length, 2)), codes_before


@pytest.mark.parametrize("which", ["gru", "gate"])
def test_kernels_give_what_the_loops_of_a_cpu_give(which, monkeypatch):
    inputs, run = kernel_case(which)
    calls, original = [], loop_kernel.run

    def interpreted(step, *arguments, **options):
        calls.append(options.get("reverse", False))
        return original(step, *arguments, **options, interpret=True)

    monkeypatch.setattr(loop_kernel, "run", interpreted)
    monkeypatch.setattr(loop_kernel, "_ROWS", 8)
    monkeypatch.setattr(loop_kernel, "_MEMORY", 2**20)

    def everything(inputs, directions):
        value, tangent = jax.jvp(run, inputs, directions)
        bar = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
        return value, tangent, jax.vjp(run, *inputs)[1](bar)

    directions = jax.tree.map(lambda leaf: jnp.cos(7 * leaf), inputs)
    expected = jax.jit(everything)(inputs, directions)
    assert not calls
    with traced_for("tpu"):
        found = jax.jit(lambda *given: everything(*given))(inputs, directions)
    assert set(calls) == {False, True}
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), found, expected
    )
