"""Supervised linear controllers, one for every subgoal (method §4)."""

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax.nn.initializers import variance_scaling, zeros

from internal_rl.section import SettingError


@struct.dataclass
class Controllers:
    """Linear controllers of `G` subgoals, `U^(g) = write_g read_g`.

    Attributes:
      read: `(G, r, n_e)`; for full controllers `r = n_e`.
      write: `(G, n_e, r)`; None for full controllers, whose matrix is `read` alone.
    """

    read: chex.Array
    write: chex.Array | None


def initial_controllers(key: chex.PRNGKey, num_subgoals: int, width: int, rank: int) -> Controllers:
    """Controllers that change nothing: `write` is zero, `read` random so that it can learn.

    Args:
      key: randomness of `read`.
      num_subgoals: number of subgoals `G`.
      width: size `n_e` of the residual stream.
      rank: rank of the controllers, 0 for full ones (which start at zero altogether).

    Raises:
      SettingError: if the rank is outside `0..n_e`.
    """
    if not 0 <= rank <= width:
        raise SettingError("rank", f"{rank} given, allowed is 0 (full) to {width}")
    if rank == 0:
        return Controllers(jnp.zeros((num_subgoals, width, width), jnp.float32), None)
    read_init = variance_scaling(1.0, "fan_in", "truncated_normal", -1, -2, batch_axis=0)
    return Controllers(
        read_init(key, (num_subgoals, rank, width), jnp.float32),
        zeros(key, (num_subgoals, width, rank), jnp.float32),
    )


def steer(controllers: Controllers, residual: chex.Array, subgoal: chex.Array) -> chex.Array:
    """Applies the controller of each token's subgoal.

    All controllers read every token in one matrix product and a mask keeps the right one, which is
    faster than gathering a matrix per token.

    Args:
      controllers: of `G` subgoals.
      residual: `(..., n_e)`.
      subgoal: `(...)` int32; tokens with -1 stay as they are.

    Returns:
      `e + U^(g) e`, `(..., n_e)`.
    """
    num_subgoals = controllers.read.shape[0]
    chosen = jax.nn.one_hot(subgoal, num_subgoals, dtype=jnp.result_type(residual))[..., None]
    hidden = jnp.einsum("...n,grn->...gr", residual, controllers.read) * chosen
    if controllers.write is None:
        return residual + jnp.sum(hidden, axis=-2)
    return residual + jnp.einsum("...gr,gnr->...n", hidden, controllers.write)
