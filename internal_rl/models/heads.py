"""Distributions of the base model's two heads: the next action and the next observation.

The head modules emit plain parameter arrays; the functions here give them their meaning. Actions
and observations have a distribution each, which stands in `ActionSpec` and `ObservationSpec`:
`"categorical"` (parameters: `A` logits) or `"gaussian"` (parameters: `d_a` means followed by `d_a`
log standard deviations) for actions, `"bernoulli"` or `"gaussian"` for observations.
"""

import math

import chex
import jax
import jax.numpy as jnp
import optax

from internal_rl.types import ActionSpec, ObservationSpec

LOG_STD_RANGE = (-5.0, 2.0)
"""Of a Gaussian; outside of it there is no gradient (the paper is silent: docs/decisions.md)."""


def action_parameter_size(spec: ActionSpec) -> int:
    """Number of parameters that the head emits per token."""
    return spec.size if spec.discrete else 2 * spec.size


def split_gaussian(parameters: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Splits `(..., 2 d)` into mean and clipped log standard deviation, each `(..., d)`."""
    mean, log_std = jnp.split(parameters, 2, axis=-1)
    return mean, jnp.clip(log_std, *LOG_STD_RANGE)


def gaussian_log_prob(mean: chex.Array, log_std: chex.Array, value: chex.Array) -> chex.Array:
    """Log density of a diagonal Gaussian, summed over the last axis, in nats."""
    standardised = (value - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * standardised**2 - log_std - 0.5 * jnp.log(2 * jnp.pi), axis=-1)


def action_log_prob(
    spec: ActionSpec, parameters: chex.Array, action: chex.Array, min_std: float = 0.0
) -> chex.Array:
    """`ln p(a)` in nats: `(..., A or 2 d_a)` parameters and `(...)` or `(..., d_a)` actions.

    Args:
      spec: of the action.
      parameters: of the distribution.
      action: what was done.
      min_std: least standard deviation that a Gaussian is taken to have, for actions that are
        known no more exactly than that.
    """
    if spec.discrete:
        return -optax.softmax_cross_entropy_with_integer_labels(parameters, action)
    mean, log_std = split_gaussian(parameters)
    if min_std:
        log_std = jnp.maximum(log_std, math.log(min_std))
    return gaussian_log_prob(mean, log_std, action)


def sample_action(spec: ActionSpec, parameters: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """Draws one action for every leading index of `parameters`."""
    if spec.discrete:
        return jax.random.categorical(key, parameters, axis=-1)
    mean, log_std = split_gaussian(parameters)
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)


def mode_action(spec: ActionSpec, parameters: chex.Array) -> chex.Array:
    """The most probable action for every leading index of `parameters`."""
    if spec.discrete:
        return jnp.argmax(parameters, axis=-1).astype(jnp.int32)
    return split_gaussian(parameters)[0]


def observation_log_prob(
    spec: ObservationSpec, parameters: chex.Array, next_observation: chex.Array
) -> chex.Array:
    """`ln p(o_{t+1})` in nats, summed over the observation's `d` numbers.

    The numbers are independent: those of a `"bernoulli"` observation are 0 or 1 with `parameters`
    as logits, those of a `"gaussian"` one have `parameters` as means and unit variance.
    """
    target, parameters = next_observation.astype(jnp.float32), parameters.astype(jnp.float32)
    if spec.head == "bernoulli":
        # `x ln σ(l) + (1 - x) ln σ(-l)` with one logarithm instead of two.
        return jnp.sum(target * parameters - jax.nn.softplus(parameters), axis=-1)
    return gaussian_log_prob(parameters, jnp.zeros_like(parameters), target)
