"""Copies of a program under vmap share their control flow."""

import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.batching import largest


def test_loops_under_vmap_copy_nothing_to_undo_iterations():
    def loop(count, x):
        return jax.lax.while_loop(
            lambda carry: carry[0] < largest(count),
            lambda carry: (carry[0] + 1, 2 * carry[1]),
            (0, x),
        )

    steps, doubled = jax.vmap(loop)(jnp.array([1, 3]), jnp.ones((2, 4)))
    np.testing.assert_array_equal(steps, 3)
    np.testing.assert_array_equal(doubled, 8.0)
    assert "select" not in str(jax.make_jaxpr(jax.vmap(loop))(jnp.array([1, 3]), jnp.ones((2, 4))))


def test_conditionals_under_vmap_run_one_branch():
    def choose(wanted, x):
        return jax.lax.cond(largest(wanted), lambda x: 2 * x, lambda x: 0 * x, x)

    arguments = jnp.array([False, True]), jnp.ones((2, 4))
    np.testing.assert_array_equal(jax.vmap(choose)(*arguments), 2.0)
    program = str(jax.make_jaxpr(jax.vmap(choose))(*arguments))
    assert "cond" in program and "select" not in program
