"""Gradients through a base model whose attention reaches no further back than the data need."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from internal_rl.backend import on_cpu
from internal_rl.batching import largest
from internal_rl.models.base_model import BaseModel

Loss = Callable[[BaseModel, chex.ArrayTree, chex.ArrayTree, jax.Array], tuple]
Gradient = Callable[[chex.ArrayTree, chex.ArrayTree, jax.Array], tuple]


def reaches_further(segment: chex.Array, reach: int) -> chex.Array:
    """Whether a packed trajectory has two tokens more than `reach` steps apart.

    Args:
      segment: `(B, S)` index of the packed trajectory, -1 for padding.
      reach: in steps.

    Returns:
      `()` bool.
    """
    later, earlier = segment[:, reach + 1 :], segment[:, : -(reach + 1)]
    return jnp.any((later == earlier) & (later >= 0))


def gradient_through(base: BaseModel, loss: Loss) -> Gradient:
    """`jax.value_and_grad` of a loss that reads a base model's parallel form.

    Trajectories may last `base.max_length` steps, but most are much shorter, and a row of packed
    ones spends a third of its attention on pairs that never belong together. So the program holds
    the gradient once for short reach and once for the whole, and each batch takes the first that
    loses nothing. The choice is made here, around the whole gradient, because a conditional inside
    of it would have to hand what the backward pass needs from either branch.

    Args:
      base: the base model.
      loss: `(base, params, part, index) -> (value, metrics)`; `part.segment` is `(B, S)`.

    Returns:
      `(params, part, index) -> ((value, metrics), gradients)`.
    """

    def gradient_of(reach):
        narrowed = base.clone(reach=reach)
        return jax.value_and_grad(
            lambda params, part, index: loss(narrowed, params, part, index), has_aux=True
        )

    def chosen(params, part, index):
        short = base.short_reach
        # Accelerators attend to whole rows.
        if not on_cpu() or short is None or short + 1 >= part.segment.shape[1]:
            return gradient_of(base.max_length)(params, part, index)
        return jax.lax.cond(
            largest(reaches_further(part.segment, short)),
            gradient_of(base.max_length),
            gradient_of(short),
            params,
            part,
            index,
        )

    return chosen
