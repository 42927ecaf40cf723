"""The GRU that summarises the past, over packed rows.

Its parameters are those of `flax.linen.GRUCell`, which makes single steps. What the inputs add to
the gates is one product for all tokens, so that only the products with the state are left inside of
the loop over time. The derivative is written out for the same reason: gradients of weights are one
product at the end instead of a sum that every step adds to.
"""

import chex
import jax
import jax.numpy as jnp

from internal_rl.models.recurrence import over_time

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


def _mix(history, hidden, products, bias):
    """The next state from the products with state and input; element by element."""
    reset, update, candidate = jnp.split(products, 3, axis=-1)
    hidden_reset, hidden_update, hidden_candidate = jnp.split(hidden, 3, axis=-1)
    reset = jax.nn.sigmoid(reset + hidden_reset)
    update = jax.nn.sigmoid(update + hidden_update)
    candidate = jnp.tanh(candidate + reset * (hidden_candidate + bias))
    return (1.0 - update) * candidate + update * history


@jax.custom_jvp
def _states(kernel, bias, products, start):
    def step(history, inputs):
        products_t, first = inputs
        before = jnp.where(first[:, None], 0.0, history)
        return _mix(before, before @ kernel, products_t, bias).astype(history.dtype), before

    initial = jnp.zeros((products.shape[0], kernel.shape[0]), products.dtype)
    return over_time(step, initial, (products, start))


@_states.defjvp
def _states_jvp(primals, tangents):
    """The loop is linearised around its states for all tokens at once."""
    kernel, bias, products, start = primals
    before = _states(*primals)
    hidden = before @ kernel

    def total(hidden, before):
        return _mix(before, hidden, products, bias).sum()

    # `_mix` works element by element, so that these are diagonals of its Jacobians.
    slope, kept = jax.grad(total, argnums=(0, 1))(hidden, before)

    def from_states(kernel, bias, products):
        return _mix(before, before @ kernel, products, bias)

    _, change = jax.jvp(from_states, primals[:3], tangents[:3])

    def step(history, inputs):
        slope_t, kept_t, change_t, first = inputs
        before = jnp.where(first[:, None], 0.0, history)
        through_gates = sum(jnp.split(slope_t * (before @ kernel), 3, axis=-1))
        return (kept_t * before + through_gates + change_t).astype(history.dtype), before

    initial = jnp.zeros_like(before[:, 0])
    return before, over_time(step, initial, (slope, kept, change, start))
