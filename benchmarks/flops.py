"""Floating-point operations of the models, counted by hand.

A multiply-add counts as 2. Only matrix products are counted (norms, softmax, activations and the
optimiser are left out), and only for what a result needs: tokens that are not padding, pairs of
query and key in which the key is visible, running episodes. What a program computes beyond that
lowers its share of the matrix multiplication rate. A backward pass costs twice its forward pass:
one product for the gradient of the weights and one for that of the input, and the latter is left
out where the input needs no gradient.
"""

import dataclasses

import numpy as np

from internal_rl.models.hawk import CONVOLUTION_WIDTH
from internal_rl.stages.settings import Settings


@dataclasses.dataclass(frozen=True)
class BaseModelShape:
    """What the cost of the base model depends on; names as in `models.base_model.BaseConfig`."""

    observation_size: int
    num_actions: int
    block: str
    width: int
    depth: int
    num_heads: int
    head_size: int
    mlp_size: int

    @classmethod
    def of(cls, settings: Settings):
        """Shape of the base model of a settings."""
        names = ("block", "width", "depth", "num_heads", "head_size", "mlp_size")
        base = {name: getattr(settings.base, name) for name in names}
        world = settings.world
        return cls(world.observation_spec.size, world.action_spec.size, **base)

    @property
    def attention_size(self) -> int:
        """Size of the keys of all heads together."""
        return self.num_heads * self.head_size


def dense(inputs: int, outputs: int) -> float:
    """One row through a dense layer."""
    return 2.0 * inputs * outputs


def hawk_block(width: int, num_heads: int, mlp_size: int) -> float:
    """One token through a Hawk block."""
    branches = 3 * dense(width, width)
    gates = 2 * dense(width, width // num_heads)
    convolution = 2.0 * CONVOLUTION_WIDTH * width
    return branches + gates + convolution + dense(width, mlp_size) + dense(mlp_size, width)


def embedding(shape: BaseModelShape) -> float:
    """One observation through the input embedding, as the dense layer that it is."""
    return dense(shape.observation_size, shape.width)


def blocks(shape: BaseModelShape, tokens: float, pairs: float) -> float:
    """All blocks.

    Args:
      shape: of the model.
      tokens: number of tokens.
      pairs: pairs of query and visible key over all sequences, each token its own key included.
    """
    if shape.block == "hawk":
        block = hawk_block(shape.width, shape.num_heads, shape.mlp_size)
        return shape.depth * tokens * block
    projections = dense(shape.width, 3 * shape.attention_size)
    projections += dense(shape.attention_size, shape.width)
    mlp = dense(shape.width, shape.mlp_size) + dense(shape.mlp_size, shape.width)
    # One multiply-add per number of a key for the score, one per number of a value for the sum.
    attention = pairs * 2 * 2.0 * shape.attention_size
    return shape.depth * (tokens * (projections + mlp) + attention)


def base_forward(
    shape: BaseModelShape, tokens: float, pairs: float, observation_head: bool
) -> float:
    """The whole base model; arguments as in `blocks`, and whether the observation is predicted."""
    heads = dense(shape.width, shape.num_actions)
    if observation_head:
        heads += dense(shape.width, shape.observation_size)
    return tokens * (embedding(shape) + heads) + blocks(shape, tokens, pairs)


def base_training(
    shape: BaseModelShape, tokens: float, pairs: float, observation_head: bool
) -> float:
    """Forward and backward pass; observations need no gradient."""
    forward = base_forward(shape, tokens, pairs, observation_head)
    return 3 * forward - tokens * embedding(shape)


def steering_step(settings: Settings) -> float:
    """One raw step of switch, history, decoder and controller."""
    meta, width = settings.metacontroller, settings.base.width
    switch = dense(width + meta.history_size, meta.switch_size)
    switch += dense(meta.code_size, meta.switch_size) + dense(meta.switch_size, 1)
    history = 3 * dense(width + meta.history_size, meta.history_size)
    numbers = 2 * meta.rank * width if meta.rank else width**2
    decoder = dense(meta.code_size, meta.decoder_size) + dense(meta.decoder_size, numbers)
    return switch + history + decoder + 2.0 * numbers


def policy_forward(settings: Settings, num_heads: int = 8) -> float:
    """One decision of the policy over codes, input projection included."""
    width = settings.internal_rl.policy_width
    output = dense(width, 2 * settings.metacontroller.code_size)
    return policy_input(settings) + hawk_block(width, num_heads, 2 * width) + output


def policy_input(settings: Settings) -> float:
    """The input projection alone, whose input needs no gradient."""
    return dense(settings.base.width, settings.internal_rl.policy_width)


def causal_pairs(lengths: np.ndarray) -> float:
    """Pairs of query and visible key in sequences of `lengths (B,)`."""
    lengths = np.asarray(lengths, np.float64)
    return float(np.sum(lengths * (lengths + 1) / 2))


def cache_bytes(shape: BaseModelShape, lengths: np.ndarray) -> float:
    """Least traffic of the key-value caches of a rollout, in bytes.

    Each step writes one float32 key and value per block and reads those of all steps so far; a Hawk
    block reads and writes its state of `CONVOLUTION_WIDTH` rows (three inputs, one hidden state).

    Args:
      shape: of the base model.
      lengths: `(B,)` steps of each episode.
    """
    steps = float(np.sum(lengths))
    if shape.block == "hawk":
        return shape.depth * steps * 2 * CONVOLUTION_WIDTH * shape.width * 4.0
    per_step = 2 * shape.attention_size * 4.0
    return shape.depth * per_step * (causal_pairs(lengths) + steps)
