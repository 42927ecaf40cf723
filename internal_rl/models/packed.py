"""Sums, maxima and distributions over the time of each trajectory in packed rows.

All take `segment`, the `(B, S)` index of the packed trajectory, and let nothing cross its borders:
every step looks at all steps of its row and leaves out those of other trajectories.
"""

import chex
import jax
import jax.numpy as jnp


def same_trajectory(segment: chex.Array) -> chex.Array:
    """`(B, S, S)` bool: two steps belong to one trajectory."""
    return segment[:, :, None] == segment[:, None, :]


def _sums(chosen: chex.Array, x: chex.Array) -> chex.Array:
    """Sums of `x (B, S, n)` over the steps that are `chosen (B, S, S)`, in full precision."""
    return jnp.einsum(
        "bts,bsn->btn", chosen.astype(x.dtype), x, precision=jax.lax.Precision.HIGHEST
    )


def total(x: chex.Array, segment: chex.Array) -> chex.Array:
    """Every step gets the sum of `x (B, S, n)` over its trajectory."""
    return _sums(same_trajectory(segment), x)


def running_sum(x: chex.Array, segment: chex.Array) -> chex.Array:
    """Sums of `x (B, S, n)` from the first step of the trajectory on, the present one included."""
    index = jnp.arange(segment.shape[1])
    return _sums(same_trajectory(segment) & (index[:, None] >= index), x)


def log_softmax(logits: chex.Array, allowed: chex.Array, segment: chex.Array) -> chex.Array:
    """Log-probabilities over the allowed steps of each trajectory.

    Args:
      logits: `(B, S)`.
      allowed: `(B, S)` bool.
      segment: `(B, S)`.

    Returns:
      `(B, S)`, zero at steps that are not allowed.
    """
    top = jax.lax.stop_gradient(_largest(logits, allowed, segment))
    shifted = jnp.where(allowed, logits - top, 0.0)
    weight = jnp.where(allowed, jnp.exp(shifted), 0.0)
    # A trajectory without an allowed step has no distribution, and a sum of zero.
    sums = total(weight[..., None], segment)[..., 0]
    return jnp.where(allowed, shifted - jnp.log(jnp.where(allowed, sums, 1.0)), 0.0)


def _largest(x: chex.Array, allowed: chex.Array, segment: chex.Array) -> chex.Array:
    """The largest `x (B, S)` at an allowed step of the trajectory; 0 where there is none."""
    chosen = same_trajectory(segment) & allowed[:, None]
    largest = jnp.max(jnp.where(chosen, x[:, None], -jnp.inf), axis=2)
    return jnp.where(jnp.isfinite(largest), largest, 0.0)


def softmax(logits: chex.Array, allowed: chex.Array, segment: chex.Array) -> chex.Array:
    """Probabilities over the allowed steps of each trajectory, `(B, S)`, zero elsewhere."""
    return jnp.where(allowed, jnp.exp(log_softmax(logits, allowed, segment)), 0.0)


def one_hot_argmax(logits: chex.Array, allowed: chex.Array, segment: chex.Array) -> chex.Array:
    """1 at the first allowed step of each trajectory with the largest logit, `(B, S)`."""
    top = allowed & (logits == _largest(logits, allowed, segment))
    top = top.astype(logits.dtype)
    return top * (running_sum(top[..., None], segment)[..., 0] == 1)
