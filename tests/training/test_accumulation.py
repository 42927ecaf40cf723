"""Gradients of parts add up to the gradient of the whole."""

import chex
import jax
import jax.numpy as jnp
import pytest

from internal_rl.training.accumulation import (
    accumulated_gradients,
    filled_up,
    suitable_parts,
)

KEY = jax.random.key(0)
INPUTS = jax.random.normal(KEY, (12, 5))
MASK = jnp.arange(12) % 3 > 0


def masked_loss(params, part, index):
    del index
    inputs, mask = part
    errors = (jnp.tanh(inputs @ params["w"]) - 1.0) ** 2 * mask
    share = errors.sum() / MASK.sum()
    return share, {"tokens": mask.sum()}


@pytest.mark.parametrize("num_parts", [1, 2, 3, 12])
def test_parts_sum_to_the_whole(num_parts):
    params = {"w": jnp.linspace(-1.0, 1.0, 5)}
    whole = jax.value_and_grad(masked_loss, has_aux=True)(params, (INPUTS, MASK), 0)
    parts = jax.jit(accumulated_gradients, static_argnums=(0, 3))(
        jax.value_and_grad(masked_loss, has_aux=True), params, (INPUTS, MASK), num_parts
    )
    chex.assert_trees_all_close(parts, whole, rtol=1e-5)


def test_every_part_knows_its_number():
    def loss(params, part, index):
        return params * 0.0, {"numbers": index * part.shape[0]}

    gradient_of = jax.value_and_grad(loss, has_aux=True)
    (_, metrics), _ = accumulated_gradients(gradient_of, jnp.float32(1.0), INPUTS, 4)
    assert metrics["numbers"] == 3 * (0 + 1 + 2 + 3)


def test_rows_that_are_not_filled_up_are_refused():
    with pytest.raises(ValueError, match="11 rows given in 4 parts, allowed are whole ones"):
        accumulated_gradients(
            jax.value_and_grad(masked_loss), {"w": jnp.ones(5)}, (INPUTS[:11], MASK[:11]), 5
        )


@pytest.mark.parametrize("rows", [1, 5, 12, 66, 133])
@pytest.mark.parametrize("num_parts", [1, 2, 5, 8, 16, 200])
def test_parts_are_equal_once_they_are_filled_up_and_no_larger_than_asked_for(rows, num_parts):
    whole, parts = filled_up(num_parts, rows), suitable_parts(num_parts, rows)
    assert whole % parts == 0 and suitable_parts(num_parts, whole) == parts <= num_parts
    assert whole // parts == -(-rows // num_parts)
    # No part is padding alone.
    assert whole - rows < whole // parts
