"""Non-causal sequence embedding `s = f_emb(e_{1:T,l})` of the metacontroller (method §5)."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from internal_rl.models.recurrence import ends_segment, linear_recurrence, starts_segment

DECAY_SHARPNESS = 8.0  # the constant `c` of the RG-LRU, De et al. 2024, eq. 4


class GatedRecurrence(nn.Module):
    """Gated diagonal recurrence over one direction of time (RG-LRU, De et al. 2024, eq. 1-4).

    Attributes:
      size: number of states.
      reverse: read the row from its end to its beginning.
    """

    size: int
    reverse: bool = False

    @nn.compact
    def __call__(self, x: chex.Array, segment: chex.Array) -> chex.Array:
        """Maps `(B, S, n)` to `(B, S, size)`; the state is reset where `segment` changes."""
        value = nn.Dense(self.size, name="input")(x)
        recurrence_gate = nn.sigmoid(nn.Dense(self.size, name="recurrence_gate")(x))
        input_gate = nn.sigmoid(nn.Dense(self.size, name="input_gate")(x))
        slowness = self.param("slowness", nn.initializers.uniform(4.0), (self.size,))
        log_decay = -DECAY_SHARPNESS * recurrence_gate * jax.nn.softplus(-slowness)
        inputs = jnp.sqrt(-jnp.expm1(2 * log_decay) + 1e-6) * input_gate * value
        reset = ends_segment(segment) if self.reverse else starts_segment(segment)
        decay = jnp.where(reset[..., None], 0.0, jnp.exp(log_decay))
        return linear_recurrence(decay, inputs, self.reverse)


class SequenceEmbedding(nn.Module):
    """Bidirectional SSM: at every step a summary of the past and of the future of the trajectory.

    The paper leaves open how the embedding sees the future. Each layer runs one gated recurrence
    forwards and one backwards, joins both through a dense layer, and adds the result to its input.

    Attributes:
      size: width of the embedding.
      depth: number of bidirectional layers.
    """

    size: int = 32
    depth: int = 1

    @nn.compact
    def __call__(self, residual: chex.Array, segment: chex.Array) -> chex.Array:
        """Maps `(B, S, n_e)` residuals to `(B, S, size)`."""
        x = nn.Dense(self.size, name="projection")(residual)
        for i in range(self.depth):
            forward = GatedRecurrence(self.size, name=f"forward_{i + 1}")(x, segment)
            backward = GatedRecurrence(self.size, True, name=f"backward_{i + 1}")(x, segment)
            both = jnp.concatenate([x, forward, backward], axis=-1)
            x = x + nn.Dense(self.size, name=f"mix_{i + 1}")(nn.gelu(both))
        return x
