"""The base autoregressive model: it reads `o_{1:t}` and predicts `a_t` and `o_{t+1}` (method §3).

The model is cut in two at any depth: `lower` (embedding and blocks 1..l) gives the residual
stream `e_{t,l}`, `upper` (blocks l+1..L and the heads) reads it. Everything that steers or probes
the model does so between the two.
"""

import dataclasses
import functools
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from internal_rl.arguments import checked_integer
from internal_rl.backend import exact_products
from internal_rl.models import hawk, transformer  # noqa: F401 (registers the blocks of this package)
from internal_rl.models.blocks import (
    BlockEntry,
    BlockShape,
    block_entry,
    scaled_initializer,
)
from internal_rl.models.heads import action_parameter_size
from internal_rl.section import COUNT, LAYERS, SCALE, SIZE, WEIGHT, Section, SettingError, setting
from internal_rl.types import ActionSpec, ObservationSpec, World


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConfig(Section):
    """Section `base`: the base model (method §3).

    Attributes:
      block: name of a registered block: `"transformer"`, `"hawk"`, or one of yours.
      width: size `n_e` of the residual stream.
      depth: number of blocks `L`.
      num_heads: attention heads, or heads of the RG-LRU's block-diagonal gates.
      head_size: size of an attention head (transformer only).
      mlp_size: hidden size of each block's MLP.
      init_scale: variance-scaling factor of all kernels.
      observation_loss: λ, weight of the observation loss.
    """

    block: str = setting("transformer")
    width: int = setting(256, SIZE)
    depth: int = setting(6, LAYERS)
    num_heads: int = setting(4, COUNT)
    head_size: int = setting(64, SIZE)
    mlp_size: int = setting(512, SIZE)
    init_scale: float = setting(0.1, SCALE)
    observation_loss: float = setting(0.01, WEIGHT)

    def check(self) -> None:
        """The block has to be registered and to suit the sizes."""
        self.entry.check(self.block_shape(1, 1))

    @property
    def entry(self) -> BlockEntry:
        """The registered block."""
        return block_entry(self.block)

    def block_shape(
        self, max_length: int, reach: int, dtype: DTypeLike | None = None
    ) -> BlockShape:
        """What a block of the model is made from."""
        sizes = (self.width, self.num_heads, self.head_size, self.mlp_size, self.init_scale)
        return BlockShape(*sizes, max_length, reach, dtype)

    def check_layer(self, field: str, layer: int, lowest: int = 0) -> None:
        """Raises SettingError about `field` unless `lowest <= layer <= depth`."""
        if not lowest <= layer <= self.depth:
            allowed = f"{lowest} to {self.depth} (base.depth)"
            raise SettingError(field, f"{layer} given, allowed is {allowed}")


@struct.dataclass
class BaseOutput:
    """Parameters of the two predictive distributions, see `internal_rl.models.heads`.

    Attributes:
      action: `(..., A)` logits or `(..., 2 d_a)` Gaussian parameters of `p(a_t | o_{1:t})`.
      observation: `(..., d)` parameters of `p(o_{t+1} | o_{1:t})`.
    """

    action: chex.Array
    observation: chex.Array


def _in_its_precision(method: Callable) -> Callable:
    """A method of the model, whose float32 products are exact unless it has a type of products."""

    @functools.wraps(method)
    def run(self, *arguments, **keywords):
        with exact_products(self.dtype is None):
            return method(self, *arguments, **keywords)

    return run


class BaseModel(nn.Module):
    """Sequence model of `depth` blocks between an input embedding and two heads.

    Attributes:
      observation_spec: what it reads, and predicts with the one head.
      action_spec: what it predicts with the other head.
      config: its block, depth and sizes.
      max_length: longest episode the one-step form can run.
      reach: how many steps back attention of the parallel form looks at most; None for
        `max_length`.
      dtype: of products, `jnp.bfloat16` or None for that of the inputs, float32 in full. With
        bfloat16 parameters, residual stream and the action head keep float32.
    """

    observation_spec: ObservationSpec
    action_spec: ActionSpec
    config: BaseConfig = BaseConfig()
    max_length: int = 100
    reach: int | None = None
    dtype: DTypeLike | None = None

    @property
    def width(self) -> int:
        """Size `n_e` of the residual stream."""
        return self.config.width

    @property
    def depth(self) -> int:
        """Number of blocks `L`."""
        return self.config.depth

    @property
    def short_reach(self) -> int | None:
        """A reach that saves work and that most trajectories stay within, if there is one."""
        return self.config.entry.short_reach(self.max_length)

    def setup(self):
        init = scaled_initializer(self.config.init_scale)
        self.embedding = nn.Dense(self.width, kernel_init=init, dtype=self.dtype)
        self.blocks = [self._make_block(name=f"block_{i + 1}") for i in range(self.depth)]
        self.output_norm = nn.LayerNorm(use_bias=False)
        self.action_output = nn.Dense(action_parameter_size(self.action_spec), kernel_init=init)
        self.observation_output = nn.Dense(
            self.observation_spec.size, kernel_init=init, dtype=self.dtype
        )

    def _make_block(self, **keywords) -> nn.Module:
        # A trajectory of `max_length` steps ends with one more observation.
        reach = self.max_length if self.reach is None else self.reach
        shape = self.config.block_shape(self.max_length, reach, self.dtype)
        return self.config.entry.make(shape, **keywords)

    @nn.nowrap
    def _make_detached_block(self) -> nn.Module:
        """A block outside the module tree, for functions of its state that need no parameters."""
        return self._make_block(parent=None)

    @nn.nowrap
    def check_world(self, world: World) -> None:
        """Raises ValueError unless this model can act in a world.

        Observations and actions must be of its kinds and sizes, episodes no longer than its state
        reaches.
        """
        for what, given, own in (
            ("observations", world.observation_spec, self.observation_spec),
            ("actions", world.action_spec, self.action_spec),
        ):
            if (given.head, given.size) != (own.head, own.size):
                raise ValueError(
                    f"the world has {what} of kind {given.head} and size {given.size}, allowed are"
                    f" those of the model: {own.head} and {own.size}"
                )
        if world.time_limit > self.max_length:
            raise ValueError(
                f"episodes of the world last {world.time_limit} steps, allowed are up to"
                f" {self.max_length}, the max_length of the base model"
            )

    @nn.nowrap
    def initial_params(self, key: chex.PRNGKey) -> chex.ArrayTree:
        """Untrained parameters."""
        observation = jnp.zeros((1, 2, self.observation_spec.size), jnp.uint8)
        return self.init(key, observation, jnp.zeros((1, 2), jnp.int32))

    def check_layer(self, layer: int) -> None:
        """Raises ValueError unless it is a whole number and `0 <= layer <= depth`."""
        checked_integer("layer", layer, 0, self.depth)

    def _embed(self, observation: chex.Array) -> chex.Array:
        """The residual stream before the first block, float32 at least."""
        x = self.embedding(observation.astype(jnp.float32))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _heads(self, residual: chex.Array) -> BaseOutput:
        x = self.output_norm(residual)
        # What acts and what learns have to find the same probabilities.
        with exact_products():
            action = self.action_output(x)
        return BaseOutput(action, self.observation_output(x))

    @_in_its_precision
    def __call__(self, observation: chex.Array, segment: chex.Array) -> BaseOutput:
        """Predictions for packed rows: `(B, S, d)` observations, `(B, S)` segments."""
        return self.upper(self.lower(observation, segment, self.depth), segment, self.depth)

    @_in_its_precision
    def lower(self, observation: chex.Array, segment: chex.Array, layer: int) -> chex.Array:
        """Residual stream `e_{t,l}` after block `layer`, `(B, S, n_e)`; 0 is the embedding."""
        self.check_layer(layer)
        x = self._embed(observation)
        for block in self.blocks[:layer]:
            x = block(x, segment)
        return x

    @_in_its_precision
    def upper(self, residual: chex.Array, segment: chex.Array, layer: int) -> BaseOutput:
        """Runs blocks `layer + 1 .. L` and the heads on `(B, S, n_e)` residuals."""
        self.check_layer(layer)
        for block in self.blocks[layer:]:
            residual = block(residual, segment)
        return self._heads(residual)

    @_in_its_precision
    def upper_of_each(self, residuals: chex.Array, segment: chex.Array) -> BaseOutput:
        """What `upper` predicts from every layer's residual stream, with each block called once.

        Args:
          residuals: `(L + 1, B, S, n_e)`, of which the stream `l` runs through blocks `l + 1 .. L`.
          segment: `(B, S)`.

        Returns:
          Outputs `(L + 1, B, S, ...)`.
        """
        layers, rows = residuals.shape[:2]
        below = residuals[0]
        for layer, block in enumerate(self.blocks, start=1):
            above = block(below, jnp.tile(segment, (layer, 1)))
            below = jnp.concatenate([above, residuals[layer]])
        output = self._heads(below)
        return jax.tree.map(lambda leaf: leaf.reshape(layers, rows, *leaf.shape[1:]), output)

    @_in_its_precision
    def residuals(self, observation: chex.Array, segment: chex.Array) -> chex.Array:
        """All residual streams, `(L + 1, B, S, n_e)`; index 0 is the embedding."""
        x = self._embed(observation)
        streams = [x]
        for block in self.blocks:
            x = block(x, segment)
            streams.append(x)
        return jnp.stack(streams)

    @nn.nowrap
    def initial_state(self, batch_size: int) -> tuple:
        """State of the one-step form before the first observation: one entry per block."""
        block = self._make_detached_block()
        return tuple(block.initial_state(batch_size) for _ in range(self.depth))

    @nn.nowrap
    def restart(self, state: tuple, rows: chex.Array) -> tuple:
        """Begins a new episode in the rows of `state` where `rows (B,)` bool is set."""
        block = self._make_detached_block()
        return tuple(block.restart(block_state, rows) for block_state in state)

    @_in_its_precision
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
        x = self._embed(observation)
        return self._step_blocks(x, state, range(layer))

    @_in_its_precision
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
