"""The GRU that summarises the past, over packed rows.

Its parameters are those of `flax.linen.GRUCell`, which makes single steps. What the inputs add to
the gates is one product for all tokens, so that only the products with the state are left inside of
the loop over time. The derivative is written out for the same reason: gradients of weights are one
product at the end instead of a sum that every step adds to.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from internal_rl.backend import kernels_for_tpu
from internal_rl.models.recurrence import LinearLoop, over_time

GATES = ("r", "z", "n")
"""Letters of reset gate, update gate and candidate in the names of the parameters."""


def input_products(params: chex.ArrayTree, x: chex.Array) -> chex.Array:
    """What inputs `(..., n)` add to both gates and the candidate, `(..., 3 size)`."""
    kernel = jnp.concatenate([params["i" + gate]["kernel"] for gate in GATES], axis=-1)
    bias = jnp.concatenate([params["i" + gate]["bias"] for gate in GATES], axis=-1)
    return x @ kernel + bias


def histories(params: chex.ArrayTree, products: chex.Array, start: chex.Array) -> chex.Array:
    """States before every step of packed rows.

    Args:
      params: of a `flax.linen.GRUCell`.
      products: `(B, S, 3 size)` of `input_products`.
      start: `(B, S)` bool, first steps of trajectories: the state before them is zero.

    Returns:
      `(B, S, size)`, in float32 at least.
    """
    products = products.astype(jnp.promote_types(products.dtype, jnp.float32))
    return _states(*_hidden(params), products, start)


def _hidden(params):
    """Kernel `(size, 3 size)` of the state and bias `(size,)` of the candidate's part of it."""
    kernel = jnp.concatenate([params["h" + gate]["kernel"] for gate in GATES], axis=-1)
    return kernel, params["hn"]["bias"]


def _parts(x: chex.Array) -> tuple[chex.Array, ...]:
    """What belongs to the gates, side by side as CPUs like it, or apart for a kernel of TPUs."""
    return tuple(jnp.split(x, 3, axis=-1)) if kernels_for_tpu() else (x,)


def _three(parts: Sequence[chex.Array]) -> Sequence[chex.Array]:
    """What belongs to the three gates, from `_parts`."""
    return jnp.split(parts[0], 3, axis=-1) if len(parts) == 1 else parts


def _mix(history, hidden, products, bias):
    """The next state from the products with state and input; element by element."""
    reset, update, candidate = products
    hidden_reset, hidden_update, hidden_candidate = hidden
    reset = jax.nn.sigmoid(reset + hidden_reset)
    update = jax.nn.sigmoid(update + hidden_update)
    candidate = jnp.tanh(candidate + reset * (hidden_candidate + bias))
    return (1.0 - update) * candidate + update * history


def _mix_all(history, hidden, products, bias):
    """The same where hidden and products are one array `(..., 3 size)`."""
    return _mix(history, _three([hidden]), _three([products]), bias)


def _keep(start: chex.Array, like: chex.Array) -> chex.Array:
    """`(B, S, 1)`, 0 at first steps, where the state before is none, else 1."""
    return jnp.logical_not(start).astype(like.dtype)[..., None]


def _step(history, inputs, *constants):
    *products, keep = inputs
    *kernels, bias = constants
    before = keep * history
    hidden = _three([before @ kernel for kernel in kernels])
    return _mix(before, hidden, _three(products), bias).astype(history.dtype), before


@jax.custom_jvp
def _states(kernel, bias, products, start):
    inputs = (*_parts(products), _keep(start, products))
    return over_time(_step, kernel.shape[0], inputs, (*_parts(kernel), bias[None]))


def _linear_step(history, inputs, *kernels):
    *slopes, kept, keep, change = inputs
    before = keep * history
    hidden = _three([before @ kernel for kernel in kernels])
    through_gates = sum(slope * part for slope, part in zip(_three(slopes), hidden, strict=True))
    return (kept * before + through_gates + change).astype(history.dtype), before


def _transposed_step(bar, inputs, *kernels):
    """`bar` is the gradient of the state after this step."""
    *slopes, kept, keep, before_bar = inputs
    through_gates = sum(
        (slope * bar) @ kernel for slope, kernel in zip(slopes, kernels, strict=True)
    )
    return keep * (before_bar + kept * bar + through_gates), bar


@_states.defjvp
def _states_jvp(primals, tangents):
    """The loop is linearised around its states for all tokens at once."""
    kernel, bias, products, start = primals
    before = _states(*primals)
    hidden = before @ kernel

    def total(hidden, before):
        return _mix_all(before, hidden, products, bias).sum()

    # `_mix` works element by element, so that these are diagonals of its Jacobians.
    slope, kept = jax.grad(total, argnums=(0, 1))(hidden, before)

    def from_states(kernel, bias, products):
        return _mix_all(before, before @ kernel, products, bias)

    _, change = jax.jvp(from_states, primals[:3], tangents[:3])
    kernels = _parts(kernel)
    loop = LinearLoop(
        _linear_step, kernels, _transposed_step, tuple(kernel.T for kernel in kernels)
    )
    return before, loop.over_time((*_parts(slope), kept, _keep(start, before)), change)
