"""What the copies of a program that `jax.vmap` runs side by side decide together."""

import chex
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


@custom_vmap
def largest(value: chex.Array) -> chex.Array:
    """The largest `value` of all copies of the program that `jax.vmap` runs side by side.

    A loop whose condition reads only such values runs equally long in all copies, and of a
    conditional only one branch is run. Without it, `jax.vmap` would copy everything the loop
    carries at every iteration, to undo the iterations that one copy needed and another did not, and
    run both branches of a conditional. The work must leave a copy unharmed that does not need it.
    """
    return value


@largest.def_vmap
def _largest_of_batch(axis_size, in_batched, value):
    del axis_size, in_batched
    return largest(jnp.max(value, axis=0)), False
