"""Parameters of a Hawk block as the kernels for TPUs take them, see `models.tpu_hawk`."""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from internal_rl.backend import LANES


class HawkWeights(NamedTuple):
    """Parameters of a block; gradients have the same form.

    Attributes:
      temporal_scale: `(1, n)` of the norm before the branches.
      branches: `(n, 2 n)`: gate branch, recurrent branch.
      branches_bias: `(1, 2 n)`.
      convolution: `(lags + 1, n)`: the kernel, the present step first, and the bias.
      gates: `(n / 128, 128, 256)`: of 128 channels each, recurrence gate and input gate.
      gates_bias: `(1, 2 n)`: recurrence gate, input gate.
      rate: `(1, n)` logarithm of the decay with an open gate.
      temporal_output: `(n, n)`.
      temporal_output_bias: `(1, n)`.
      mlp_scale: `(1, n)` of the norm before the perceptron.
      hidden: `(n, m)`.
      hidden_bias: `(1, m)`.
      output: `(m, n)`.
      output_bias: `(1, n)`.
    """

    temporal_scale: chex.Array
    branches: chex.Array
    branches_bias: chex.Array
    convolution: chex.Array
    gates: chex.Array
    gates_bias: chex.Array
    rate: chex.Array
    temporal_output: chex.Array
    temporal_output_bias: chex.Array
    mlp_scale: chex.Array
    hidden: chex.Array
    hidden_bias: chex.Array
    output: chex.Array
    output_bias: chex.Array

    def for_products(self, dtype: DTypeLike) -> "HawkWeights":
        """With the factors of products in another type."""
        names = ("branches", "gates", "temporal_output", "hidden", "output")
        return self._replace(**{name: getattr(self, name).astype(dtype) for name in names})


def weights_of(parameters: Mapping, sharpness: float) -> HawkWeights:
    """Parameters of a `HawkBlock` as the kernels take them.

    Args:
      parameters: of the module, by name.
      sharpness: logarithm of an open gate's decay, in units of `-softplus(Λ)`.
    """
    branches = [parameters[name] for name in ("gate_input", "recurrence_input")]
    recurrence, convolution = parameters["recurrence"], parameters["convolution"]
    gates = [recurrence[name] for name in ("recurrence_gate", "input_gate")]
    temporal, mlp = parameters["temporal_output"], parameters["mlp"]

    def side_by_side(layers, name):
        return jnp.concatenate([layer[name] for layer in layers], axis=-1)

    return HawkWeights(
        temporal_scale=parameters["temporal_norm"]["scale"][None],
        branches=side_by_side(branches, "kernel"),
        branches_bias=side_by_side(branches, "bias")[None],
        convolution=jnp.concatenate([convolution["kernel"][::-1], convolution["bias"][None]]),
        gates=jnp.concatenate([_widened(gate["kernel"]) for gate in gates], axis=2),
        gates_bias=side_by_side(gates, "bias")[None],
        rate=-sharpness * jax.nn.softplus(recurrence["decay"])[None],
        temporal_output=temporal["kernel"],
        temporal_output_bias=temporal["bias"][None],
        mlp_scale=parameters["mlp_norm"]["scale"][None],
        hidden=mlp["hidden"]["kernel"],
        hidden_bias=mlp["hidden"]["bias"][None],
        output=mlp["output"]["kernel"],
        output_bias=mlp["output"]["bias"][None],
    )


def _widened(kernel: chex.Array) -> chex.Array:
    """Blocks `(H, s, s)` of a diagonal as `(n / 128, 128, 128)`, filled up with zeros."""
    size = kernel.shape[1]
    number = LANES // size
    blocks = kernel.reshape(-1, number, size, size)
    widened = jnp.einsum("gpij,pq->gpiqj", blocks, jnp.eye(number))
    return widened.reshape(-1, LANES, LANES)
