"""Non-causal sequence embedding `s = f_emb(e_{1:T,l})` of the metacontroller (method §5)."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from internal_rl.models.hawk import HawkBlock
from internal_rl.models.recurrence import ends_segment, linear_recurrence, starts_segment

DECAY_SHARPNESS = 8.0  # the constant `c` of the RG-LRU, De et al. 2024, eq. 4


class GatedRecurrence(nn.Module):
    """Gated diagonal recurrence over one direction of time (RG-LRU, De et al. 2024, eq. 1-4).

    Attributes:
      size: number of states.
      slowness: upper end of the range in which `slowness`, the logit of a decay, starts.
      reverse: read the row from its end to its beginning.
    """

    size: int
    slowness: float = 4.0
    reverse: bool = False

    @nn.compact
    def __call__(self, x: chex.Array, segment: chex.Array) -> chex.Array:
        """Maps `(B, S, n)` to `(B, S, size)`; the state is reset where `segment` changes.

        Gates and states are float32 at least: a decay close to one has no digits to spare.
        """

        def dense(name):
            y = nn.Dense(self.size, name=name)(x)
            return y.astype(jnp.promote_types(y.dtype, jnp.float32))

        value = dense("input")
        recurrence_gate = nn.sigmoid(dense("recurrence_gate"))
        input_gate = nn.sigmoid(dense("input_gate"))
        init = nn.initializers.uniform(self.slowness)
        slowness = self.param("slowness", init, (self.size,), jnp.float32)
        log_decay = -DECAY_SHARPNESS * recurrence_gate * jax.nn.softplus(-slowness)
        inputs = jnp.sqrt(-jnp.expm1(2 * log_decay) + 1e-6) * input_gate * value
        reset = ends_segment(segment) if self.reverse else starts_segment(segment)
        decay = jnp.where(reset[..., None], 0.0, jnp.exp(log_decay))
        return linear_recurrence(decay, inputs, self.reverse)


EMBEDDINGS = ("trajectory", "step")
EMBEDDING_LAYERS = ("gated", "hawk")
# As in the base model, method §3.
HAWK_INIT_SCALE = 0.1


class BidirectionalHawk(nn.Module):
    """A layer of the base model's, made non-causal by running in both directions (appendix D.1.1).

    Attributes:
      width: of input and output.
      num_heads: diagonal blocks of the gates; divides `width`.
      mlp_size: hidden size of the perceptrons.
    """

    width: int
    num_heads: int
    mlp_size: int

    @nn.compact
    def __call__(self, x: chex.Array, segment: chex.Array) -> tuple[chex.Array, chex.Array]:
        """What a block that reads forwards and one that reads backwards make of `(B, S, n)`.

        Both are as wide as `x`, which they carry on as their residual stream; nothing crosses a
        border of `segment (B, S)`.
        """

        def block(name):
            sizes = (self.width, self.num_heads, self.mlp_size)
            return HawkBlock(*sizes, HAWK_INIT_SCALE, name=name)

        backwards = jnp.flip(x, axis=1), jnp.flip(segment, axis=1)
        return block("forward")(x, segment), jnp.flip(block("backward")(*backwards), axis=1)


def later_in_segment(x: chex.Array, segment: chex.Array, gap: int) -> chex.Array:
    """Every step gets the value `gap` steps later, or at the end of its own trajectory.

    Args:
      x: `(B, S, n)` values.
      segment: `(B, S)` index of the packed trajectory.
      gap: 0 or more steps.

    Returns:
      `(B, S, n)`.
    """
    index = jnp.arange(segment.shape[1])
    marked = jnp.where(ends_segment(segment), index, segment.shape[1] - 1)
    end = jax.lax.cummin(marked, axis=1, reverse=True)
    # A gap beyond the row would leave the range of its numbers.
    source = jnp.minimum(index + min(gap, segment.shape[1]), end)
    return jnp.take_along_axis(x, source[..., None], axis=1)


def first_in_segment(x: chex.Array, segment: chex.Array) -> chex.Array:
    """Every step gets the value at the first step of its own trajectory, `(B, S, n)`."""
    index = jnp.arange(segment.shape[1])
    source = jax.lax.cummax(jnp.where(starts_segment(segment), index, 0), axis=1)
    return jnp.take_along_axis(x, source[..., None], axis=1)


class SequenceEmbedding(nn.Module):
    """Non-causal SSM over a trajectory.

    `s` carries no time index in the method, so that by default it is *one* vector for the whole
    trajectory: what the forward recurrences hold at its end and the backward ones at its start. All
    that the encoder learns about the future then passes through `size` numbers, which have room for
    the goals of a trajectory but not for its actions; with one embedding per step the encoder reads
    off the next action instead, and codes name directions.

    Attributes:
      size: width of the embedding.
      depth: number of bidirectional layers.
      kind: `"trajectory"` for one vector per trajectory, `"step"` for one per step.
      slowness: how far back the slowest recurrences see at the start, as the logarithm of a number
        of steps: about `exp(slowness) / 4`; of gated layers alone.
      gap: with `"step"`, how many steps of the future are skipped: what is left tells where the
        agent is going, not what it does next.
      layers: `"gated"` for bare gated recurrences; `"hawk"` for the layers of the base model as
        published, of width `size` behind a projection.
      num_heads: diagonal blocks of the gates of Hawk layers.
      mlp_size: hidden size of the perceptrons of Hawk layers.
    """

    size: int = 32
    depth: int = 1
    kind: str = "trajectory"
    slowness: float = 4.0
    gap: int = 0
    layers: str = "gated"
    num_heads: int = 8
    mlp_size: int = 64

    @nn.compact
    def __call__(self, residual: chex.Array, segment: chex.Array) -> chex.Array:
        """Maps `(B, S, n_e)` residuals to `(B, S, size)`.

        Raises:
          ValueError: for an unknown `kind`.
        """
        if self.kind not in EMBEDDINGS:
            raise ValueError(
                f"metacontroller.embedding: got {self.kind!r}, allowed: {', '.join(EMBEDDINGS)}"
            )
        if self.layers == "hawk":
            return self._of_hawk(residual, segment)
        if self.kind == "step":
            x = nn.Dense(self.size, name="projection")(residual)
            for i in range(1, self.depth + 1):
                forward, backward = self._recurrences(x, segment, i)
                backward = later_in_segment(backward, segment, self.gap)
                x = x + self._mix([x, forward, backward], i)
            return x
        x = residual
        for i in range(1, self.depth):
            forward, backward = self._recurrences(x, segment, i)
            mixed = self._mix([x, forward, backward], i)
            x = jnp.concatenate([residual, mixed], axis=-1)
        forward, backward = self._recurrences(x, segment, self.depth)
        return self._summary(forward, backward, segment)

    def _of_hawk(self, residual: chex.Array, segment: chex.Array) -> chex.Array:
        """The same with layers of the base model's.

        A layer adds what its two blocks add to the residual stream; with one embedding per step
        the backward block's part comes from `gap` steps later.
        """
        x = nn.Dense(self.size, name="projection")(residual)
        for i in range(1, self.depth + 1):
            sizes = (self.size, self.num_heads, self.mlp_size)
            forward, backward = BidirectionalHawk(*sizes, name=f"layer_{i}")(x, segment)
            if self.kind == "trajectory" and i == self.depth:
                return self._summary(forward, backward, segment)
            added = backward - x
            if self.kind == "step":
                added = later_in_segment(added, segment, self.gap)
            x = forward + added
        return nn.RMSNorm(name="output_norm")(x)

    def _summary(
        self, forward: chex.Array, backward: chex.Array, segment: chex.Array
    ) -> chex.Array:
        """One vector per trajectory, `(B, S, size)`: what was read in each direction at its end."""
        end = later_in_segment(forward, segment, segment.shape[1])
        start = first_in_segment(backward, segment)
        return nn.Dense(self.size, name="summary")(jnp.concatenate([end, start], axis=-1))

    def _recurrences(self, x, segment, i):
        return tuple(
            GatedRecurrence(self.size, self.slowness, reverse, name=f"{name}_{i}")(x, segment)
            for name, reverse in (("forward", False), ("backward", True))
        )

    def _mix(self, parts, i):
        return nn.Dense(self.size, name=f"mix_{i}")(nn.gelu(jnp.concatenate(parts, axis=-1)))
