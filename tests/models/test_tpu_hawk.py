"""The kernels for TPUs, interpreted, against the Hawk block that they stand for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.backend import traced_for, without_kernels
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.hawk import HawkBlock
from internal_rl.models.recurrence import age_in_segment
from internal_rl.models.tpu_hawk import fits, hawk_rows
from internal_rl.types import ActionSpec, ObservationSpec
from tests.models.test_tpu_block import distance, with_gradient
from tests.parameters import drawn

# Two chunks of time, dear to compile; 384 steps are three smaller ones.
LENGTH, WIDTH = 512, 256
BLOCK = HawkBlock(WIDTH, num_heads=8, mlp_size=128, init_scale=1.0)


@functools.partial(jax.jit, static_argnums=0)
def drawn_case(length):
    """Parameters none of which is zero, rows with padding, and a gradient of the output."""
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.normal(keys[0], (2, length, WIDTH))
    segment = jnp.sort(jax.random.randint(keys[1], (2, length), -1, 6), axis=1)
    # Borders at the edge of a chunk and one step behind it, and a segment across it.
    edge = jnp.arange(length) - length // 2
    segment = jnp.stack([segment[0] + 2 * (edge >= 0) + 2 * (edge >= 1), segment[1]])
    params = BLOCK.init(keys[2], x, segment)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(keys[3], p.shape), params)
    return params, x, segment, jax.random.normal(keys[4], x.shape)


def kernels(params, x, segment, dtype=jnp.float32):
    weights = BLOCK.apply(params, method="kernel_weights")
    return hawk_rows(x, weights, age_in_segment(segment), dtype, True)


@pytest.mark.parametrize("length", [384, pytest.param(LENGTH, marks=pytest.mark.slow)])
def test_output_and_gradients_are_those_of_the_block(length):
    params, x, segment, bar = drawn_case(length)
    expected = with_gradient(BLOCK.apply, bar)(params, x, segment)
    found = with_gradient(kernels, bar)(params, x, segment)
    assert distance(found[0], expected[0]) < 1e-6
    assert distance(found[1], expected[1]) < 1e-5


@pytest.fixture(scope="module")
def short():
    """One chunk, with a segment of a single step."""
    return drawn_case(128)


def test_products_of_bfloat16_are_as_near_as_those_of_the_block(short):
    params, x, segment, bar = short
    applied = (
        BLOCK.apply,
        BLOCK.clone(dtype=jnp.bfloat16).apply,
        lambda *arguments: kernels(*arguments, dtype=jnp.bfloat16),
    )
    exact, half, found = (with_gradient(apply, bar)(params, x, segment)[1] for apply in applied)
    assert distance(found, exact) < 1.2 * distance(half, exact)


def test_decays_near_one_and_shut_gates_give_the_same_gradients(short):
    params, x, segment, bar = short
    params = jax.tree.map(lambda leaf: leaf, params)
    recurrence = params["params"]["recurrence"]
    # Decays from 1 - 1e-8 to 1e-3, gates from 1e-9 to 1 - 1e-9.
    recurrence["decay"] = jnp.linspace(-18, 2, WIDTH)
    recurrence["recurrence_gate"]["bias"] = 20 * jnp.cos(jnp.arange(WIDTH, dtype=jnp.float32))
    expected = with_gradient(BLOCK.apply, bar)(params, x, segment)
    found = with_gradient(kernels, bar)(params, x, segment)
    assert distance(found, expected) < 1e-4


def test_a_frozen_block_gives_the_same_gradient_of_its_input(short):
    params, x, segment, bar = short
    trained = with_gradient(kernels, bar)(params, x, segment)[1][1]
    frozen = jax.jit(jax.grad(lambda x: jnp.sum(kernels(params, x, segment) * bar)))(x)
    np.testing.assert_allclose(frozen, trained, rtol=1e-5, atol=1e-5)


def test_seeds_side_by_side_each_have_their_own_weights(short):
    params, x, segment, bar = short
    params, x = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), (params, x))
    run = with_gradient(kernels, bar)
    found = jax.jit(jax.vmap(run, (0, 0, None)))(params, x, segment)
    one = jax.tree.map(lambda leaf: leaf[1], (params, x))
    assert distance(jax.tree.map(lambda leaf: leaf[1], found), run(*one, segment)) < 1e-6


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((512, 256, 512, 8), True),
        ((1024, 128, 256, 4), True),
        ((128, 128, 128, 1), True),
        ((100, 256, 512, 8), False),
        ((512, 64, 128, 2), False),
        ((512, 256, 512, 1), False),
        ((1024, 256, 512, 8), False),
        ((256, 512, 1024, 8), False),
    ],
)
def test_rows_and_blocks_that_suit_the_kernels(sizes, expected):
    assert fits(*sizes) is expected


@pytest.mark.parametrize(("dtype", "expected"), [(jnp.bfloat16, 3), (None, 0)])
def test_programs_for_tpus_hold_the_kernels_unless_they_are_not_wanted(dtype, expected):
    base = BaseModel(
        ObservationSpec("bernoulli", 7),
        ActionSpec("categorical", 4),
        BaseConfig(block="hawk", width=128, depth=3, num_heads=4, mlp_size=128),
        dtype=dtype,
    )
    params = drawn(base.initial_params)
    rows = jnp.zeros((2, 128, 7)), jnp.zeros((2, 128), jnp.int32)

    def number_of_kernels():
        # Not a function that jax has traced before.
        text = str(jax.make_jaxpr(lambda *rows: base.apply(params, *rows))(*rows))
        return text.count("name=hawk_forward")

    assert number_of_kernels() == 0
    with traced_for("tpu"):
        assert number_of_kernels() == expected
        with without_kernels():
            assert number_of_kernels() == 0


def test_a_block_that_forgets_on_the_way_holds_no_kernel():
    block = HawkBlock(128, num_heads=4, mlp_size=128, dtype=jnp.bfloat16)
    rows = jnp.zeros((2, 128, 128)), jnp.zeros((2, 128), jnp.int32)
    params = jax.eval_shape(block.init, jax.random.key(0), *rows)

    def kernels(*keep):
        run = jax.make_jaxpr(lambda params, *rows: block.apply(params, *rows, *keep))
        return str(run(params, *rows)).count("name=hawk_forward")

    with traced_for("tpu"):
        assert kernels() == 1
        assert kernels(jnp.ones((2, 128))) == 0
