"""Distributions of the base model's two heads: the next action and the next observation.

The head modules emit plain parameter arrays; the functions here give them their meaning. Two action
heads exist: `"categorical"` (parameters: `A` logits) and `"gaussian"` (parameters: `d_a` means
followed by `d_a` log standard deviations).
"""

import math

import chex
import jax
import jax.numpy as jnp
import optax

ACTION_HEADS = ("categorical", "gaussian")
LOG_STD_RANGE = (-5.0, 2.0)


def check_action_head(head: str) -> None:
    """Raises ValueError unless `head` is one of `ACTION_HEADS`."""
    if head not in ACTION_HEADS:
        raise ValueError(f"action_head: got {head!r}, allowed: {', '.join(ACTION_HEADS)}")


def action_parameter_size(head: str, action_size: int) -> int:
    """Number of parameters that the head emits per token."""
    check_action_head(head)
    return action_size if head == "categorical" else 2 * action_size


def split_gaussian(parameters: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Splits `(..., 2 d)` into mean and clipped log standard deviation, each `(..., d)`."""
    mean, log_std = jnp.split(parameters, 2, axis=-1)
    return mean, jnp.clip(log_std, *LOG_STD_RANGE)


def gaussian_log_prob(mean: chex.Array, log_std: chex.Array, value: chex.Array) -> chex.Array:
    """Log density of a diagonal Gaussian, summed over the last axis, in nats."""
    standardised = (value - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * standardised**2 - log_std - 0.5 * jnp.log(2 * jnp.pi), axis=-1)


def action_log_prob(
    head: str, parameters: chex.Array, action: chex.Array, min_std: float = 0.0
) -> chex.Array:
    """`ln p(a)` in nats: `(..., A or 2 d_a)` parameters and `(...)` or `(..., d_a)` actions.

    Args:
      head: one of `ACTION_HEADS`.
      parameters: of the distribution.
      action: what was done.
      min_std: least standard deviation that a Gaussian is taken to have, for actions that are
        known no more exactly than that.
    """
    if head == "categorical":
        return -optax.softmax_cross_entropy_with_integer_labels(parameters, action)
    mean, log_std = split_gaussian(parameters)
    if min_std:
        log_std = jnp.maximum(log_std, math.log(min_std))
    return gaussian_log_prob(mean, log_std, action)


def sample_action(head: str, parameters: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """Draws one action for every leading index of `parameters`."""
    if head == "categorical":
        return jax.random.categorical(key, parameters, axis=-1)
    mean, log_std = split_gaussian(parameters)
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)


def mode_action(head: str, parameters: chex.Array) -> chex.Array:
    """The most probable action for every leading index of `parameters`."""
    if head == "categorical":
        return jnp.argmax(parameters, axis=-1).astype(jnp.int32)
    return split_gaussian(parameters)[0]


def action_entropy(head: str, parameters: chex.Array) -> chex.Array:
    """Entropy of the action distribution in nats, `(...)`."""
    if head == "categorical":
        log_probs = jax.nn.log_softmax(parameters)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    _, log_std = split_gaussian(parameters)
    return jnp.sum(log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e), axis=-1)


def observation_log_prob(
    head: str, parameters: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """`ln p(o_{t+1})` in nats, summed over the observation's `d` numbers.

    With discrete actions the observation is binary and each of its numbers is an independent
    Bernoulli with `parameters` as logits; with continuous actions it is real-valued and
    `parameters` are the means of a Gaussian of unit variance.
    """
    target = next_observation.astype(jnp.float32)
    if head == "categorical":
        # `x ln σ(l) + (1 - x) ln σ(-l)` with one logarithm instead of two.
        return jnp.sum(target * parameters - jax.nn.softplus(parameters), axis=-1)
    return gaussian_log_prob(parameters, jnp.zeros_like(parameters), target)
