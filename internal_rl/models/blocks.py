"""Sequence blocks by name, and the pieces that they share."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import chex
import flax.linen as nn
from jax.nn.initializers import Initializer, variance_scaling
from jax.typing import DTypeLike

from internal_rl.arguments import check_registered
from internal_rl.section import SettingError


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
      dtype: of the products; None for that of the inputs.
    """

    hidden_size: int
    output_size: int
    init_scale: float = 1.0
    output_init_scale: float | None = None
    activation: callable = nn.relu
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Maps `(..., n)` to `(..., output_size)`."""
        output_scale = self.init_scale if self.output_init_scale is None else self.output_init_scale
        hidden = nn.Dense(
            self.hidden_size,
            kernel_init=scaled_initializer(self.init_scale),
            dtype=self.dtype,
            name="hidden",
        )(x)
        return nn.Dense(
            self.output_size,
            kernel_init=scaled_initializer(output_scale),
            dtype=self.dtype,
            name="output",
        )(self.activation(hidden))


@dataclasses.dataclass(frozen=True)
class BlockShape:
    """What the base model asks of a block.

    Attributes:
      width: size `n_e` of the residual stream.
      num_heads: attention heads, or heads of block-diagonal gates.
      head_size: size of an attention head.
      mlp_size: hidden size of the MLP.
      init_scale: variance-scaling factor of all kernels.
      max_length: tokens of the longest trajectory, its last observation not counted.
      reach: steps back that the parallel form has to look; at most `max_length`.
      dtype: of products, bfloat16 where precision allows it; None for that of the inputs. Norms,
        softmax, recurrences and the residual stream keep theirs.
    """

    width: int
    num_heads: int
    head_size: int
    mlp_size: int
    init_scale: float
    max_length: int
    reach: int
    dtype: DTypeLike | None = None


class Block(Protocol):
    """A sequence block: a flax module whose parallel and one-step form agree.

    - `block(x (B, S, n_e), segment (B, S)) -> (B, S, n_e)`: packed rows, nothing crosses a segment;
    - `block.step(x (B, n_e), state) -> (B, n_e), state`: one step;
    - `block.initial_state(batch_size) -> state`, arrays `(B, ...)`, or without axes where all rows
      share them; needs no parameters (`flax.linen.nowrap`);
    - `block.restart(state, rows (B,) bool) -> state`: begins a new trajectory in these rows; needs
      no parameters.
    """


@dataclasses.dataclass(frozen=True)
class BlockEntry:
    """A registered block.

    Attributes:
      make: `make(shape: BlockShape, **keywords) -> flax module`; the keywords are flax's own
        (`name`, `parent`).
      check: raises SettingError where the sizes of a shape do not suit the block; asked before
        there is a world, so that `max_length` and `reach` are 1: those `make` may refuse.
      short_reach: `short_reach(max_length)`, a reach that saves work and that most trajectories
        stay within; None where the parallel form costs the same whatever the reach.
    """

    make: Callable[..., nn.Module]
    check: Callable[[BlockShape], None]
    short_reach: Callable[[int], int | None]


SHIPPED_BLOCKS = ("transformer", "hawk")
"""Those of this package, each registered by the module of its name."""

_BLOCKS: dict[str, BlockEntry] = {}


def register_block(
    name: str,
    make: Callable[..., nn.Module],
    *,
    check: Callable[[BlockShape], None] = lambda shape: None,
    short_reach: Callable[[int], int | None] = lambda max_length: None,
) -> None:
    """Makes a block known by name, as `base.block`; the arguments are those of `BlockEntry`.

    Registering a name again replaces it. `internal_rl.testing.check_block` tells what is missing.

    Raises:
      ValueError: the name is no text, or one of the others is no function.
    """
    check_registered("block", name, make=make, check=check, short_reach=short_reach)
    _BLOCKS[name] = BlockEntry(make, check, short_reach)


def registered_blocks() -> tuple[str, ...]:
    """Names of all blocks."""
    return tuple(_BLOCKS)


def block_entry(name: str) -> BlockEntry:
    """The entry of a name.

    Raises:
      SettingError: for an unknown name.
    """
    if name not in _BLOCKS:
        allowed = ", ".join(registered_blocks())
        raise SettingError("block", f"{name!r} given, allowed is {allowed}")
    return _BLOCKS[name]
