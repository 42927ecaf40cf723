"""What the TPU kernels over packed rows have in common."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from internal_rl.backend import backend

ROWS = "data"
"""Axis of the mesh that rows are spread over, see `training.mesh`."""

# A register of a TPU holds 8 steps of 128 channels.
STEPS, CHANNELS = 8, 128


def suits_kernels(x: chex.Array) -> bool:
    """Whether a program is traced for TPUs and rows `(B, S, n)` fill their registers."""
    filled = x.shape[1] % STEPS == 0 and x.shape[2] % CHANNELS == 0
    return backend() == "tpu" and filled and x.dtype == jnp.float32


def channels_of(width: int) -> int:
    """How many channels of a row one run of a kernel takes."""
    return next(count for count in (2 * CHANNELS, CHANNELS) if width % count == 0)


def over_rows(run: Callable, *arrays: chex.Array, shared: tuple = ()) -> chex.ArrayTree:
    """`run(*shared, *arrays)` with the rows spread over the devices of the mesh that is set.

    The compiler cannot split a kernel: it has to be told that rows do not know each other.

    Args:
      run: gives arrays with a leading axis of rows, and reads nothing but its arguments.
      arrays: `(B, ...)`; a last device may get rows of zeros in addition.
      shared: arrays that every device gets.

    Returns:
      What `run` gives, its rows as many as the devices make of `B`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or ROWS not in mesh.axis_names:
        return run(*shared, *arrays)
    missing = -arrays[0].shape[0] % mesh.shape[ROWS]
    filled = [jnp.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1))) for x in arrays]
    spread, whole = PartitionSpec(ROWS), PartitionSpec()
    specs = (whole,) * len(shared) + (spread,) * len(filled)
    split = jax.shard_map(run, in_specs=specs, out_specs=spread, check_vma=False)
    return split(*shared, *filled)


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
