"""What the TPU kernels over packed rows have in common."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from internal_rl.backend import LANES, kernels_for_tpu

# A register of a TPU holds so many steps of rows, with a channel in each of its lanes.
STEPS = 8


def suits_kernels(x: chex.Array) -> bool:
    """Whether a program is traced for TPUs and rows `(B, S, n)` fill their registers."""
    filled = x.shape[1] % STEPS == 0 and x.shape[2] % LANES == 0
    return kernels_for_tpu() and filled and x.dtype == jnp.float32


def with_transpose(apply: Callable, transpose: Callable, x: chex.ArrayTree) -> chex.ArrayTree:
    """`apply(x)`, a linear map of `x` whose transpose is known.

    Of the functions of jax that take both, only the one for linear systems works under `jax.vmap`
    and in forward mode. The matrix of the system is never asked for.

    Args:
      apply: gives arrays of the shapes of `x`.
      transpose: the same.
      x: arrays.
    """

    def system(x):
        # Under `jax.vmap` it tells which arrays depend on which: all on all.
        nothing = 0.0 * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(x))
        return jax.tree.map(lambda leaf: leaf + nothing, x)

    return jax.lax.custom_linear_solve(
        system, x, solve=lambda _, x: apply(x), transpose_solve=lambda _, y: transpose(y)
    )
