"""What a model reads in whole episodes: residual streams, gates and codes, some rows at a time."""

import chex
import jax
import jax.numpy as jnp

from internal_rl.models.metacontroller import Discovery
from internal_rl.models.steered_model import SteeredModel

# Rows that are computed at a time, which bounds the memory.
_ROWS_AT_A_TIME = 64


@jax.jit
def residuals_of(model: SteeredModel, observation: chex.Array, active: chex.Array) -> chex.Array:
    """Residual streams at the layer of a model, `(B, T, n_e)`; zeros behind an episode's end.

    Args:
      model: base model that is cut at the layer.
      observation: `(B, T, d)`.
      active: `(B, T)` bool, the episode was running.
    """
    return _while_running(_by_rows(model.lower, observation, _segments(active)), active)


@jax.jit
def found_in(
    model: SteeredModel,
    observation: chex.Array,
    last: chex.Array | None,
    active: chex.Array,
    key: chex.PRNGKey,
) -> Discovery:
    """What is inferred of each step, `(B, T, ...)`; zeros behind an episode's end.

    Args:
      model: base model and metacontroller.
      observation: `(B, T, d)`.
      last: `(B, d)` after the last step, one more token; None where it is not known.
      active: `(B, T)` bool, the episode was running.
      key: noise of the codes.
    """
    num_episodes, num_steps = active.shape
    seen = active
    if last is not None:
        end = jnp.arange(num_episodes), active.sum(1)
        observation = jnp.pad(observation, ((0, 0), (0, 1), (0, 0)))
        observation = observation.at[end].set(last.astype(observation.dtype))
        seen = jnp.pad(active, ((0, 0), (1, 0)), constant_values=True)

    def infer(observation, segment, key):
        return model.infer(observation, segment, key[0])

    keys = jax.random.split(key, num_episodes)
    found = _by_rows(infer, observation, _segments(seen), keys)
    return jax.tree.map(lambda x: _while_running(x[:, :num_steps], active), found)


def _segments(active: chex.Array) -> chex.Array:
    return jnp.where(active, 0, -1)


def _by_rows(function, *arrays: chex.Array):
    """`function` of some rows at a time."""
    return jax.lax.map(
        lambda row: jax.tree.map(lambda x: x[0], function(*(x[None] for x in row))),
        arrays,
        batch_size=_ROWS_AT_A_TIME,
    )


def _while_running(values: chex.Array, active: chex.Array) -> chex.Array:
    """`(B, T, ...)` with zeros where `active (B, T)` is not set."""
    ran = active.reshape(*active.shape, *[1] * (values.ndim - 2))
    return jnp.where(ran, values, jnp.zeros((), values.dtype))
