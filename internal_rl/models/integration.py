"""The code of every step: `z_t = β_t z~_t + (1 - β_t) z_{t-1}`, with a gate that reads `z_{t-1}`.

The derivative is written out: linearised around the codes, which is done for all tokens at once,
the loop over time is a few multiplications, and gradients of weights are products at the end.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.models.recurrence import LinearLoop, over_time


@struct.dataclass
class Gate:
    """The switch `β = low + range σ(logit)`, with what it reads at every step besides the code.

    Attributes:
      kernel: `(n_z, H)` from the code before to the hidden layer.
      context: `(..., H)` what else goes into that.
      output: `(H,)` from there to the logit.
      bias: `(...)` of the logit.
      low: `(...)` its least opening.
      range: `(...)` how much wider it opens.
    """

    kernel: chex.Array
    context: chex.Array
    output: chex.Array
    bias: chex.Array
    low: chex.Array
    range: chex.Array

    def opening(self, code: chex.Array) -> chex.Array:
        """`β` after codes `(..., n_z)`, `(...)`."""
        hidden = jax.nn.gelu(self.context + code @ self.kernel)
        return self.low + self.range * jax.nn.sigmoid(hidden @ self.output + self.bias)

    def next_code(self, code: chex.Array, proposal: chex.Array) -> chex.Array:
        """The code of the next step, `(..., n_z)`."""
        return mixed(self.opening(code), proposal, code)


def mixed(beta: chex.Array, proposal: chex.Array, code: chex.Array) -> chex.Array:
    """`β z~ + (1 - β) z`, `(..., n_z)`."""
    beta = beta[..., None]
    return beta * proposal + (1 - beta) * code


def _step(code, inputs, kernel, output):
    context, bias, low, span, proposal = inputs
    hidden = jax.nn.gelu(context + code @ kernel)
    beta = low + span * jax.nn.sigmoid(hidden @ output + bias)
    return (beta * proposal + (1 - beta) * code).astype(code.dtype), code


@jax.custom_jvp
def codes_before(gate: Gate, proposal: chex.Array) -> chex.Array:
    """Codes before every step of packed rows, `(B, S, n_z)`.

    Args:
      gate: fields with `(B, S, ...)`; it opens fully at the first steps of trajectories, which
        hides what was before.
      proposal: `(B, S, n_z)` in float32 at least.
    """
    scalars = (x[..., None] for x in (gate.bias, gate.low, gate.range))
    inputs = (gate.context, *scalars, proposal)
    return over_time(_step, proposal.shape[2], inputs, (gate.kernel, gate.output[:, None]))


def _linear_step(code, inputs):
    slope, kept, way, change = inputs
    opening = jnp.sum(slope * code, axis=-1, keepdims=True)
    return kept * code + opening * way + change, code


def _transposed_step(bar, inputs):
    """`bar` is the gradient of the code after this step."""
    slope, kept, way, code_bar = inputs
    opening_bar = jnp.sum(way * bar, axis=-1, keepdims=True)
    return code_bar + kept * bar + opening_bar * slope, bar


@codes_before.defjvp
def _codes_before_jvp(primals, tangents):
    gate, proposal = primals
    before = codes_before(gate, proposal)
    # A gate depends on the code of its own step alone.
    slope = jax.grad(lambda before: gate.opening(before).sum())(before)
    kept = 1 - gate.opening(before)[..., None]
    _, change = jax.jvp(lambda *inputs: inputs[0].next_code(before, inputs[1]), primals, tangents)
    loop = LinearLoop(_linear_step, (), _transposed_step, ())
    return before, loop.over_time((slope, kept, proposal - before), change)
