"""The base autoregressive model: it reads `o_{1:t}` and predicts `a_t` and `o_{t+1}` (method §3).

The model is cut in two at any depth: `lower` (embedding and blocks 1..l) gives the residual
stream `e_{t,l}`, `upper` (blocks l+1..L and the heads) reads it. Everything that steers or probes
the model does so between the two.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from internal_rl.models.blocks import scaled_initializer
from internal_rl.models.hawk import HawkBlock
from internal_rl.models.heads import action_parameter_size
from internal_rl.models.transformer import KEY_ALIGNMENT, SHORT_REACH, TransformerBlock

BLOCKS = ("transformer", "hawk")


@struct.dataclass
class BaseOutput:
    """Parameters of the two predictive distributions, see `internal_rl.models.heads`.

    Attributes:
      action: `(..., A)` logits or `(..., 2 d_a)` Gaussian parameters of `p(a_t | o_{1:t})`.
      observation: `(..., d)` parameters of `p(o_{t+1} | o_{1:t})`.
    """

    action: chex.Array
    observation: chex.Array


class BaseModel(nn.Module):
    """Sequence model of `depth` blocks between an input embedding and two heads.

    Attributes:
      observation_size: numbers `d` in an observation.
      action_head: `"categorical"` or `"gaussian"`.
      action_size: number of actions, or the dimension `d_a` of a continuous action.
      block: `"transformer"` or `"hawk"`.
      width: size `n_e` of the residual stream.
      depth: number of blocks `L`.
      num_heads: attention heads, or heads of the RG-LRU's block-diagonal gates.
      head_size: size of an attention head (transformer only).
      mlp_size: hidden size of each block's MLP.
      max_length: longest episode the one-step form can run.
      reach: how many steps back attention of the parallel form looks at most; None for
        `max_length`.
      init_scale: variance-scaling factor of all kernels.
    """

    observation_size: int
    action_head: str
    action_size: int
    block: str = "transformer"
    width: int = 256
    depth: int = 6
    num_heads: int = 4
    head_size: int = 64
    mlp_size: int = 512
    max_length: int = 100
    init_scale: float = 0.1
    reach: int | None = None

    @property
    def short_reach(self) -> int | None:
        """A reach that saves attention and that most trajectories stay within, if there is one."""
        saves = self.block == "transformer" and self.max_length >= SHORT_REACH + KEY_ALIGNMENT
        return SHORT_REACH if saves else None

    def setup(self):
        if self.block not in BLOCKS:
            raise ValueError(f"base.block: got {self.block!r}, allowed: {', '.join(BLOCKS)}")
        init = scaled_initializer(self.init_scale)
        self.embedding = nn.Dense(self.width, kernel_init=init)
        self.blocks = [self._make_block(name=f"block_{i + 1}") for i in range(self.depth)]
        self.output_norm = nn.LayerNorm(use_bias=False)
        self.action_output = nn.Dense(
            action_parameter_size(self.action_head, self.action_size), kernel_init=init
        )
        self.observation_output = nn.Dense(self.observation_size, kernel_init=init)

    def _make_block(self, **kwargs) -> nn.Module:
        if self.block == "hawk":
            return HawkBlock(self.width, self.num_heads, self.mlp_size, self.init_scale, **kwargs)
        # A trajectory of `max_length` steps ends with one more observation.
        return TransformerBlock(
            self.width,
            self.num_heads,
            self.head_size,
            self.mlp_size,
            self.init_scale,
            reach=self.max_length if self.reach is None else self.reach,
            **kwargs,
        )

    @nn.nowrap
    def _make_detached_block(self) -> nn.Module:
        """A block outside the module tree, for functions of its state that need no parameters."""
        return self._make_block(parent=None)

    def check_layer(self, layer: int) -> None:
        """Raises ValueError unless `0 <= layer <= depth`."""
        if not 0 <= layer <= self.depth:
            raise ValueError(f"layer: got {layer}, allowed: 0 to {self.depth}")

    def _heads(self, residual: chex.Array) -> BaseOutput:
        x = self.output_norm(residual)
        return BaseOutput(self.action_output(x), self.observation_output(x))

    def __call__(self, observation: chex.Array, segment: chex.Array) -> BaseOutput:
        """Predictions for packed rows: `(B, S, d)` observations, `(B, S)` segments."""
        return self.upper(self.lower(observation, segment, self.depth), segment, self.depth)

    def lower(self, observation: chex.Array, segment: chex.Array, layer: int) -> chex.Array:
        """Residual stream `e_{t,l}` after block `layer`, `(B, S, n_e)`; 0 is the embedding."""
        self.check_layer(layer)
        x = self.embedding(observation.astype(jnp.float32))
        for block in self.blocks[:layer]:
            x = block(x, segment)
        return x

    def upper(self, residual: chex.Array, segment: chex.Array, layer: int) -> BaseOutput:
        """Runs blocks `layer + 1 .. L` and the heads on `(B, S, n_e)` residuals."""
        self.check_layer(layer)
        for block in self.blocks[layer:]:
            residual = block(residual, segment)
        return self._heads(residual)

    def residuals(self, observation: chex.Array, segment: chex.Array) -> chex.Array:
        """All residual streams, `(L + 1, B, S, n_e)`; index 0 is the embedding."""
        x = self.embedding(observation.astype(jnp.float32))
        streams = [x]
        for block in self.blocks:
            x = block(x, segment)
            streams.append(x)
        return jnp.stack(streams)

    @nn.nowrap
    def initial_state(self, batch_size: int) -> tuple:
        """State of the one-step form before the first observation: one entry per block."""
        block = self._make_detached_block()
        lengths = (self.max_length,) if self.block == "transformer" else ()
        return tuple(block.initial_state(batch_size, *lengths) for _ in range(self.depth))

    @nn.nowrap
    def restart(self, state: tuple, rows: chex.Array) -> tuple:
        """Begins a new episode in the rows of `state` where `rows (B,)` bool is set."""
        block = self._make_detached_block()
        return tuple(block.restart(block_state, rows) for block_state in state)

    def lower_step(
        self, observation: chex.Array, state: tuple, layer: int
    ) -> tuple[chex.Array, tuple]:
        """One step of `lower`.

        Args:
          observation: `(B, d)`.
          state: the whole state tuple; only the entries of blocks 1..layer are read and renewed.
          layer: cut.

        Returns:
          `(B, n_e)` residual and the new state tuple.
        """
        self.check_layer(layer)
        x = self.embedding(observation.astype(jnp.float32))
        return self._step_blocks(x, state, range(layer))

    def upper_step(
        self, residual: chex.Array, state: tuple, layer: int
    ) -> tuple[BaseOutput, tuple]:
        """One step of `upper` on `(B, n_e)` residuals; arguments as in `lower_step`."""
        self.check_layer(layer)
        x, state = self._step_blocks(residual, state, range(layer, self.depth))
        return self._heads(x), state

    def _step_blocks(self, x, state, indices):
        state = list(state)
        for i in indices:
            x, state[i] = self.blocks[i].step(x, state[i])
        return x, tuple(state)
