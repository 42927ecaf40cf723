"""First-order linear recurrences, the scan under every SSM in this package."""

import chex
import jax
import jax.numpy as jnp


def linear_recurrence(decay: chex.Array, inputs: chex.Array, reverse: bool = False) -> chex.Array:
    """Solves `h_t = decay_t * h_{t-1} + inputs_t` along axis 1 with `h_{-1} = 0`.

    A decay of zero at step `t` makes `h_t` independent of everything before it, which is how a
    recurrence is reset at the border between two packed trajectories.

    Args:
      decay: `(B, S, n)` multipliers.
      inputs: `(B, S, n)` additive inputs.
      reverse: run from the last step to the first.

    Returns:
      `(B, S, n)` states.
    """
    chex.assert_equal_shape((decay, inputs))

    def compose(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    _, states = jax.lax.associative_scan(compose, (decay, inputs), axis=1, reverse=reverse)
    return states


def starts_segment(segment: chex.Array) -> chex.Array:
    """`(B, S)` bool: the token is the first of its packed trajectory."""
    first = jnp.ones_like(segment[:, :1], dtype=bool)
    return jnp.concatenate([first, segment[:, 1:] != segment[:, :-1]], axis=1)


def ends_segment(segment: chex.Array) -> chex.Array:
    """`(B, S)` bool: the token is the last of its packed trajectory."""
    last = jnp.ones_like(segment[:, :1], dtype=bool)
    return jnp.concatenate([segment[:, 1:] != segment[:, :-1], last], axis=1)
