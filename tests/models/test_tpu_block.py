"""The kernels for TPUs, interpreted, against the block that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.backend import traced_for, without_kernels
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.tpu_block import block_rows, fits
from internal_rl.models.transformer import TransformerBlock
from internal_rl.types import ActionSpec, ObservationSpec
from tests.parameters import drawn

LENGTH, WIDTH = 256, 128
BLOCK = TransformerBlock(WIDTH, num_heads=4, head_size=32, mlp_size=128, init_scale=1.0)


@pytest.fixture(scope="module")
@jax.jit
def case():
    """Parameters none of which is zero, rows with padding, and a gradient of the output."""
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.normal(keys[0], (2, LENGTH, WIDTH))
    segment = jnp.sort(jax.random.randint(keys[1], (2, LENGTH), -1, 6), axis=1)
    params = BLOCK.init(keys[2], x, segment)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(keys[3], p.shape), params)
    return params, x, segment, jax.random.normal(keys[4], x.shape)


def kernels(params, x, segment, dtype=jnp.float32):
    weights = BLOCK.apply(params, LENGTH, method="kernel_weights")
    return block_rows(x, weights, segment, dtype, True)


def with_gradient(apply, bar):
    """Output, and the gradients of parameters and input for a gradient `bar` of the output."""

    def run(params, x, segment):
        output, backward = jax.vjp(lambda params, x: apply(params, x, segment), params, x)
        return output, backward(bar)

    return jax.jit(run)


def distance(found, expected):
    """Relative distance of the leaf that is furthest off."""
    return max(
        float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    )


def test_output_and_gradients_are_those_of_the_block(case):
    params, x, segment, bar = case
    expected = with_gradient(BLOCK.apply, bar)(params, x, segment)
    found = with_gradient(kernels, bar)(params, x, segment)
    assert distance(found[0], expected[0]) < 1e-6
    assert distance(found[1], expected[1]) < 1e-5


def test_products_of_bfloat16_are_as_near_as_those_of_the_block(case):
    params, x, segment, bar = case
    applied = (
        BLOCK.apply,
        BLOCK.clone(dtype=jnp.bfloat16).apply,
        lambda *arguments: kernels(*arguments, dtype=jnp.bfloat16),
    )
    exact, half, found = (with_gradient(apply, bar)(params, x, segment)[1] for apply in applied)
    assert distance(found, exact) < 1.2 * distance(half, exact)


def test_a_frozen_block_gives_the_same_gradient_of_its_input(case):
    params, x, segment, bar = case
    trained = with_gradient(kernels, bar)(params, x, segment)[1][1]
    frozen = jax.jit(jax.grad(lambda x: jnp.sum(kernels(params, x, segment) * bar)))(x)
    np.testing.assert_allclose(frozen, trained, rtol=1e-5, atol=1e-5)


def test_seeds_side_by_side_each_have_their_own_weights(case):
    params, x, segment, bar = case
    params, x = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), (params, x))

    run = with_gradient(kernels, bar)
    found = jax.jit(jax.vmap(run, (0, 0, None)))(params, x, segment)
    one = jax.tree.map(lambda leaf: leaf[1], (params, x))
    assert distance(jax.tree.map(lambda leaf: leaf[1], found), run(*one, segment)) < 1e-6


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((256, 256, 512, 4, 64), True),
        ((128, 128, 128, 1, 128), True),
        ((100, 256, 512, 4, 64), False),
        ((256, 64, 128, 2, 32), False),
        ((256, 256, 512, 4, 48), False),
        ((1024, 256, 512, 4, 64), False),
        ((256, 1024, 4096, 8, 128), False),
    ],
)
def test_rows_and_blocks_that_suit_the_kernels(sizes, expected):
    assert fits(*sizes) is expected


def test_programs_for_tpus_hold_the_kernels_unless_they_are_not_wanted():
    base = BaseModel(
        ObservationSpec("bernoulli", 7),
        ActionSpec("categorical", 4),
        BaseConfig(width=128, depth=3, num_heads=4, head_size=32, mlp_size=128),
        dtype=jnp.bfloat16,
    )
    params = drawn(base.initial_params)
    rows = jnp.zeros((2, 128, 7)), jnp.zeros((2, 128), jnp.int32)

    def number_of_kernels():
        # Not a function that jax has traced before.
        return str(jax.make_jaxpr(lambda *rows: base.apply(params, *rows))(*rows)).count(
            "name=block_forward"
        )

    assert number_of_kernels() == 0
    with traced_for("tpu"):
        assert number_of_kernels() == 3
        with without_kernels():
            assert number_of_kernels() == 0


def test_accelerators_find_what_cpus_find(case):
    params, x, segment, bar = case

    expected = with_gradient(BLOCK.apply, bar)(params, x, segment)
    with traced_for("gpu"):
        found = with_gradient(BLOCK.apply, bar)(params, x, segment)
    assert distance(found, expected) < 1e-5
