"""Hawk: the gated linear recurrence (RG-LRU) and the block around it, De et al. 2024 (2402.19427).

Both classes have a parallel form over packed rows, which restarts at every segment border, and a
one-step form with an explicit state.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from internal_rl.backend import kernels_for_tpu, on_cpu
from internal_rl.models import tpu_hawk
from internal_rl.models.blocks import MLP, BlockShape, register_block, scaled_initializer
from internal_rl.models.hawk_weights import HawkWeights, weights_of
from internal_rl.models.recurrence import age_in_segment, linear_recurrence, starts_segment
from internal_rl.section import SettingError

GATE_SHARPNESS = 8.0
DECAY_RADIUS = (0.9, 0.999)
CONVOLUTION_WIDTH = 4


def products_of_blocks() -> bool:
    """Whether block-diagonal matrices are multiplied block by block.

    Accelerators multiply by the zeros as well: small products leave their units empty, and channels
    had to be moved for them.
    """
    return on_cpu()


@struct.dataclass
class HawkState:
    """State of the one-step form.

    Attributes:
      recent: `(B, 3, n)` inputs of the temporal convolution at the last three steps, oldest first.
      hidden: `(B, n)` state of the RG-LRU.
    """

    recent: chex.Array
    hidden: chex.Array


def decay_initializer(key: chex.PRNGKey, shape: tuple[int, ...]) -> chex.Array:
    """Draws `Λ` such that `exp(-softplus(Λ))` is uniform in area on the ring `DECAY_RADIUS`."""
    low, high = (radius**2 for radius in DECAY_RADIUS)
    area = jax.random.uniform(key, shape, jnp.float32, minval=low, maxval=high)
    log_decay = 0.5 * jnp.log(area)
    return jnp.log(jnp.expm1(-log_decay))


class BlockDiagonalDense(nn.Module):
    """Linear map whose matrix has `num_blocks` equal blocks on its diagonal.

    Attributes:
      width: size of input and output; a multiple of `num_blocks`.
      num_blocks: number of diagonal blocks.
      init_scale: variance-scaling factor of the kernel.
    """

    width: int
    num_blocks: int
    init_scale: float

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Maps `(..., n)` to `(..., n)`."""
        size = self.width // self.num_blocks
        kernel_init = nn.initializers.variance_scaling(
            self.init_scale, "fan_in", "truncated_normal", batch_axis=(0,)
        )
        shape = (self.num_blocks, size, size)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        if products_of_blocks():
            # One axis of tokens behind that of the blocks: plain batched products are fast.
            blocks = x.reshape(-1, self.num_blocks, size).swapaxes(0, 1)
            return (blocks @ kernel).swapaxes(0, 1).reshape(x.shape) + bias
        rows = [
            jnp.pad(block, ((0, 0), (i * size, self.width - (i + 1) * size)))
            for i, block in enumerate(kernel)
        ]
        return x @ jnp.concatenate(rows) + bias


class RGLRU(nn.Module):
    """Real-gated linear recurrent unit.

    `r_t = σ(W_r x_t + b_r)`, `i_t = σ(W_i x_t + b_i)`, `a_t = exp(-8 softplus(Λ) r_t)`,
    `h_t = a_t h_{t-1} + sqrt(1 - a_t²) (i_t x_t)` with `h = 0` before a segment (equations 1-4 of
    the paper).

    Attributes:
      width: size of input and state.
      num_heads: diagonal blocks of the two gates' matrices.
      init_scale: variance-scaling factor of the gates' kernels.
    """

    width: int
    num_heads: int
    init_scale: float

    def setup(self):
        self.recurrence_gate = BlockDiagonalDense(self.width, self.num_heads, self.init_scale)
        self.input_gate = BlockDiagonalDense(self.width, self.num_heads, self.init_scale)
        self.decay = self.param("decay", decay_initializer, (self.width,))

    def _gates(self, x: chex.Array) -> tuple[chex.Array, chex.Array]:
        """Decay `a_t` and gated input of the recurrence, each of the shape of `x`.

        In float32 at least: a decay close to one has no digits to spare.
        """
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        recurrence_gate = jax.nn.sigmoid(self.recurrence_gate(x))
        log_decay = -GATE_SHARPNESS * jax.nn.softplus(self.decay) * recurrence_gate
        # The floor keeps the derivative of the square root finite when the gate is shut.
        scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_decay), 1e-8))
        return jnp.exp(log_decay), scale * jax.nn.sigmoid(self.input_gate(x)) * x

    def __call__(
        self, x: chex.Array, segment: chex.Array, keep: chex.Array | None = None
    ) -> chex.Array:
        """Runs packed rows `(B, S, n)` with segment index `(B, S)`; returns `(B, S, n)`.

        With `keep (B, S)` the state of every step is multiplied by it, `h_t = keep_t (...)`.
        """
        decay, inputs = self._gates(x)
        decay = jnp.where(starts_segment(segment)[..., None], 0.0, decay)
        if keep is not None:
            decay, inputs = decay * keep[..., None], inputs * keep[..., None]
        return linear_recurrence(decay, inputs).astype(x.dtype)

    def step(self, x: chex.Array, hidden: chex.Array) -> chex.Array:
        """The next hidden state `(B, n)`, which is also the output; float32 at least."""
        decay, inputs = self._gates(x)
        return decay * hidden + inputs


class TemporalConvolution(nn.Module):
    """Causal depthwise convolution over the last `CONVOLUTION_WIDTH` steps of a segment.

    Attributes:
      width: number of channels.
      init_scale: variance-scaling factor of the kernel.
    """

    width: int
    init_scale: float

    def setup(self):
        shape = (CONVOLUTION_WIDTH, self.width)
        init = scaled_initializer(self.init_scale)
        self.kernel = self.param("kernel", init, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)

    def __call__(self, x: chex.Array, segment: chex.Array) -> chex.Array:
        """Convolves packed rows `(B, S, n)`; taps beyond the segment's start count as zero."""
        length = x.shape[1]
        output = self.kernel[-1] * x + self.bias
        for lag in range(1, min(CONVOLUTION_WIDTH, length)):
            same = segment[:, lag:] == segment[:, :-lag]
            past = jnp.where(same[..., None], x[:, :-lag], 0.0)
            past = jnp.pad(past, ((0, 0), (lag, 0), (0, 0)))
            output += self.kernel[-1 - lag] * past
        return output

    def step(self, x: chex.Array, recent: chex.Array) -> tuple[chex.Array, chex.Array]:
        """Output `(B, n)` and the new `recent` `(B, 3, n)`."""
        taps = jnp.concatenate([recent, x[:, None]], axis=1)
        return jnp.sum(self.kernel * taps, axis=1) + self.bias, taps[:, 1:]


class HawkBlock(nn.Module):
    """Pre-norm residual block: gated recurrent branch, then an MLP.

    The temporal part multiplies a GeLU branch with a convolution + RG-LRU branch. The MLP is the
    plain ReLU one of method §3 instead of the gated one of De et al.

    Attributes:
      width: size `n_e` of the residual stream and of the recurrence.
      num_heads: diagonal blocks of the RG-LRU's gates; divides `width`.
      mlp_size: hidden size of the MLP.
      init_scale: variance-scaling factor of all kernels.
      dtype: of the dense layers' products; None for that of the inputs. Gates and recurrence are
        float32 at least.
    """

    width: int
    num_heads: int
    mlp_size: int
    init_scale: float = 0.1
    dtype: DTypeLike | None = None

    def setup(self):
        if self.width % self.num_heads:
            raise ValueError(f"num_heads: got {self.num_heads}, allowed: divisors of {self.width}")
        init = scaled_initializer(self.init_scale)
        dense = functools.partial(nn.Dense, self.width, kernel_init=init, dtype=self.dtype)
        self.temporal_norm = nn.RMSNorm()
        self.gate_input = dense()
        self.recurrence_input = dense()
        self.convolution = TemporalConvolution(self.width, self.init_scale)
        self.recurrence = RGLRU(self.width, self.num_heads, self.init_scale)
        self.temporal_output = dense()
        self.mlp_norm = nn.RMSNorm()
        self.mlp = MLP(self.mlp_size, self.width, self.init_scale, dtype=self.dtype)

    def _takes_kernel(self, x: chex.Array) -> bool:
        """Whether rows `(B, S, n)` pass through the kernels for TPUs."""
        wanted = kernels_for_tpu() and self.dtype == jnp.bfloat16 and x.dtype == jnp.float32
        sizes = (x.shape[1], self.width, self.mlp_size, self.num_heads)
        return wanted and not self.is_initializing() and tpu_hawk.fits(*sizes)

    def kernel_weights(self) -> HawkWeights:
        """All parameters, as the kernels take them."""
        return weights_of(self.variables["params"], GATE_SHARPNESS)

    def _finish(self, x: chex.Array, gate: chex.Array, recurrent: chex.Array) -> chex.Array:
        x = x + self.temporal_output(jax.nn.gelu(gate) * recurrent)
        return x + self.mlp(self.mlp_norm(x))

    def __call__(
        self, x: chex.Array, segment: chex.Array, keep: chex.Array | None = None
    ) -> chex.Array:
        """Parallel form.

        Args:
          x: `(B, S, n_e)` residual stream.
          segment: `(B, S)` index of the packed trajectory; the state restarts where it changes.
          keep: `(B, S)` in [0, 1], how much the state keeps of every step: it multiplies the state
            of the RG-LRU and what enters the convolution; None for all of it.

        Returns:
          `(B, S, n_e)`.
        """
        if keep is None and self._takes_kernel(x):
            return tpu_hawk.hawk_rows(x, self.kernel_weights(), age_in_segment(segment))
        # Weight gradients over two token axes are slow on CPUs, so that dense layers see one.
        tokens = x.reshape(-1, self.width)
        normed = self.temporal_norm(tokens)
        entering = self.recurrence_input(normed)
        entering = entering.reshape(x.shape)
        if keep is not None:
            entering = entering * keep[..., None]
        convolved = self.convolution(entering, segment)
        recurrent = self.recurrence(convolved, segment, keep)
        recurrent = recurrent.reshape(tokens.shape).astype(entering.dtype)
        return self._finish(tokens, self.gate_input(normed), recurrent).reshape(x.shape)

    @nn.nowrap
    def initial_state(self, batch_size: int) -> HawkState:
        """State before the first step of `batch_size` sequences."""
        return HawkState(
            recent=jnp.zeros((batch_size, CONVOLUTION_WIDTH - 1, self.width), jnp.float32),
            hidden=jnp.zeros((batch_size, self.width), jnp.float32),
        )

    @nn.nowrap
    def restart(self, state: HawkState, rows: chex.Array) -> HawkState:
        """Begins a new sequence in the rows where `rows (B,)` bool is set."""
        return HawkState(
            recent=jnp.where(rows[:, None, None], 0.0, state.recent),
            hidden=jnp.where(rows[:, None], 0.0, state.hidden),
        )

    def step(self, x: chex.Array, state: HawkState) -> tuple[chex.Array, HawkState]:
        """One-step form: `(B, n_e)` residual and state in, the same out."""
        normed = self.temporal_norm(x)
        convolved, recent = self.convolution.step(self.recurrence_input(normed), state.recent)
        hidden = self.recurrence.step(convolved, state.hidden)
        y = self._finish(x, self.gate_input(normed), hidden.astype(x.dtype))
        return y, HawkState(recent, hidden)


def make_block(shape: BlockShape, **keywords) -> HawkBlock:
    """A block of the base model."""
    sizes = (shape.width, shape.num_heads, shape.mlp_size)
    return HawkBlock(*sizes, shape.init_scale, dtype=shape.dtype, **keywords)


def check_shape(shape: BlockShape) -> None:
    """The gates are cut into equal blocks."""
    if shape.width % shape.num_heads:
        raise SettingError(
            "num_heads", f"{shape.num_heads} given, allowed is a divisor of width = {shape.width}"
        )


register_block("hawk", make_block, check=check_shape)
