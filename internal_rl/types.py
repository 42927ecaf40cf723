"""Pytrees that cross the borders between folders."""

import chex
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Timestep:
    """What a world shows after `reset` or `step`.

    Attributes:
      observation: `(d,)`, never contains the task.
      reward: `()` float32, 1.0 on the step that completes the task, otherwise 0.0.
      done: `()` bool, the episode has ended.
    """

    observation: chex.Array
    reward: chex.Array
    done: chex.Array


@struct.dataclass
class Trajectory:
    """A row of `S` tokens that holds one or several whole trajectories one behind the other.

    Packing several trajectories into a row keeps the share of padding low; everything that reads a
    row must respect `segment` so that nothing leaks from one trajectory to its neighbour. All
    fields may carry leading batch axes.

    Attributes:
      observation: `(S, d)` observation `o_t` before the action.
      next_observation: `(S, d)` observation `o_{t+1}` after the action.
      action: `(S,)` int32, or `(S, d_a)` float32 for continuous actions.
      mask: `(S,)` bool, the token carries a next-action target.
      subgoal: `(S,)` int32 ground-truth subgoal `g_t`, annotation only; -1 at padding.
      segment: `(S,)` int32 index of the trajectory inside its row; -1 at padding. A terminal
        observation kept as a token has `segment >= 0` and `mask == False`.
    """

    observation: chex.Array
    next_observation: chex.Array
    action: chex.Array
    mask: chex.Array
    subgoal: chex.Array
    segment: chex.Array

    def num_targets(self) -> chex.Array:
        """Number of tokens with a target over all axes, at least 1, `()` float32."""
        return jnp.maximum(jnp.sum(self.mask, dtype=jnp.float32), 1.0)
