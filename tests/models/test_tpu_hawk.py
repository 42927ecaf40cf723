"""The kernels for TPUs, interpreted, against the Hawk block that they stand for."""

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

# Two chunks of time.
LENGTH, WIDTH = 512, 256
BLOCK = HawkBlock(WIDTH, num_heads=8, mlp_size=128, init_scale=1.0)


@pytest.fixture(scope="module", params=[LENGTH, 128])
def case(request):
    """Parameters none of which is zero, rows with padding, and a gradient of the output."""
    length = request.param
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


def test_output_and_gradients_are_those_of_the_block(case):
    params, x, segment, bar = case
    expected = with_gradient(BLOCK.apply, bar)(params, x, segment)
    found = with_gradient(kernels, bar)(params, x, segment)
    assert distance(found[0], expected[0]) < 1e-6
    assert distance(found[1], expected[1]) < 1e-5
