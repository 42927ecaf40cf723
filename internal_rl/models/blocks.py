"""Pieces shared by all sequence blocks."""

import chex
import flax.linen as nn
from jax.nn.initializers import Initializer, variance_scaling


def scaled_initializer(scale: float) -> Initializer:
    """Variance scaling over fan-in; the paper sets `scale` to 0.1 throughout (method §3)."""
    return variance_scaling(scale, "fan_in", "truncated_normal")


class MLP(nn.Module):
    """Two-layer perceptron.

    Attributes:
      hidden_size: width of the hidden layer.
      output_size: width of the output.
      init_scale: variance-scaling factor of the hidden kernel.
      output_init_scale: the same for the output kernel; None takes `init_scale`.
      activation: hidden non-linearity.
    """

    hidden_size: int
    output_size: int
    init_scale: float = 1.0
    output_init_scale: float | None = None
    activation: callable = nn.relu

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Maps `(..., n)` to `(..., output_size)`."""
        output_scale = self.init_scale if self.output_init_scale is None else self.output_init_scale
        hidden = nn.Dense(
            self.hidden_size, kernel_init=scaled_initializer(self.init_scale), name="hidden"
        )(x)
        return nn.Dense(
            self.output_size, kernel_init=scaled_initializer(output_scale), name="output"
        )(self.activation(hidden))
