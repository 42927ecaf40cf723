"""CompILE: it cuts trajectories into segments, with one code each (method §6).

The baseline of Kipf et al. 2019 (1812.01483) in the place of the metacontroller. A recurrent
encoder passes over a trajectory once for every segment; what earlier segments have consumed is
masked out of its state. Each pass places the end of its segment and reads the code off the encoding
before it: cuts and codes see the whole trajectory. What acts is causal and shared with the
metacontroller, see `code_controller`: the decoder, and a gate that has learnt where segments end.

`segment` stays the index of a packed trajectory, as everywhere; the segments that are inferred lie
along an axis `M` of their own.
"""

import dataclasses
import math
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.backend import with_exact_products
from internal_rl.models import hawk
from internal_rl.models.base_model import BaseModel
from internal_rl.models.blocks import BlockShape, scaled_initializer
from internal_rl.models.code_controller import CodeController, CodeControllerConfig
from internal_rl.models.metacontroller import Discovery, kl_to_standard_normal
from internal_rl.models.packed import log_softmax, one_hot_argmax, running_sum, softmax, total
from internal_rl.models.recurrence import ends_segment, starts_segment
from internal_rl.section import SCALE, SIZE, setting, within


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileConfig(CodeControllerConfig):
    """The part of the section `compile` that describes the module (method §6).

    Attributes:
      num_segments: most segments `M` of a trajectory.
      temperature: of the Gumbel-softmax that boundaries are drawn with in training; the
        paper tries 0.5 and 1.
      encoder_size: hidden size of the heads for boundaries and codes.
    """

    num_segments: int = setting(4, within(2, 64))
    temperature: float = setting(1.0, SCALE)
    encoder_size: int = setting(32, SIZE)


@struct.dataclass
class Segments:
    """How packed rows of trajectories are cut. The `M` segments of a trajectory follow each other.

    Attributes:
      boundary: `(M - 1, B, S)` where a segment ends: how much of its boundary lies at a step, which
        belongs to the next one. The last segment ends behind the trajectory.
      log_prob: `(M - 1, B, S)` log-probability of the boundary; 0 where none may lie.
      left: `(M, B, S)` what earlier segments have left of a step.
      weight: `(M, B, S)` how much of a step belongs to a segment; sums to 1.
      code: `(M, B, S, n_z)` code of a segment, the same at all steps of a trajectory.
      mean: `(M, B, S, n_z)` its posterior mean.
      log_std: `(M, B, S, n_z)` its posterior log standard deviation.
    """

    boundary: chex.Array
    log_prob: chex.Array
    left: chex.Array
    weight: chex.Array
    code: chex.Array
    mean: chex.Array
    log_std: chex.Array

    def in_force(self) -> chex.Array:
        """Codes `(M, B, S, n_z)` under which each segment is reconstructed.

        Steps of earlier segments keep the codes of these, as when the model acts; from then on it
        is the segment's own code.
        """
        weighted = self.weight[..., None] * self.code
        earlier = jnp.cumsum(weighted, axis=0) - weighted
        return earlier + self.left[..., None] * self.code

    def mixed(self, x: chex.Array) -> chex.Array:
        """`x (M, B, S, n)` of every step's own segment, `(B, S, n)`."""
        return jnp.sum(self.weight[..., None] * x, axis=0)


def step_before(x: chex.Array, segment: chex.Array) -> chex.Array:
    """Every step gets the value of `x (B, S, n)` one step earlier, the first ones zero."""
    earlier = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return jnp.where(starts_segment(segment)[..., None], 0.0, earlier)


def may_end(segment: chex.Array) -> chex.Array:
    """`(B, S)` bool: where boundaries may lie, not at first steps and not at padding."""
    return ~starts_segment(segment) & (segment >= 0)


def segment_changes(weight: chex.Array, segment: chex.Array) -> chex.Array:
    """Steps of trajectories at which another segment begins, `(B, S)` bool.

    Args:
      weight: `(M, B, S)` of segments that are 0 or 1.
      segment: `(B, S)`.
    """
    index = jnp.argmax(weight, axis=0)
    before = jnp.pad(index[:, :-1], ((0, 0), (1, 0)))
    return (index != before) & may_end(segment)


class Compile(CodeController):
    """Masked encoder, heads for boundaries and codes, and what acts.

    Attributes:
      residual_size: width `n_e` of the residual stream it controls.
      config: its sizes and choices.
      observation_size: `d`.
      depth: blocks of the encoder.
      block: what its blocks are made from.
    """

    config: CompileConfig = CompileConfig()
    observation_size: int = 1
    depth: int = 1
    block: BlockShape | None = None

    reads_observations = True

    def setup(self):
        super().setup()
        init = scaled_initializer(self.block.init_scale)
        self.embedding = nn.Dense(self.block.width, kernel_init=init)
        blocks = range(1, self.depth + 1)
        self.blocks = [hawk.make_block(self.block, name=f"block_{i}") for i in blocks]
        self.encoding_norm = nn.RMSNorm()
        self.boundary_hidden = nn.Dense(self.config.encoder_size)
        # Without a bias, of which a softmax over steps sees nothing.
        self.boundary_output = nn.Dense(1, use_bias=False)
        self.code_hidden = nn.Dense(self.config.encoder_size)
        self.code_output = nn.Dense(2 * self.config.code_size)

    @nn.nowrap
    def initial_params(self, key: chex.PRNGKey) -> chex.ArrayTree:
        """Untrained parameters."""
        observation = jnp.zeros((1, 2, self.observation_size), jnp.float32)
        return self.init(key, observation, jnp.zeros((1, 2), jnp.int32), key)

    def segments(
        self, observation: chex.Array, segment: chex.Array, key: chex.PRNGKey, relaxed: bool
    ) -> Segments:
        """Cuts whole trajectories and infers a code for each segment.

        Args:
          observation: `(B, S, d)`.
          segment: `(B, S)` index of the packed trajectory; nothing crosses its borders.
          key: noise of the codes, and of the boundaries if they are `relaxed`.
          relaxed: boundaries are drawn by Gumbel-softmax, for training; else each lies where it is
            most probable.
        """
        count = self.config.num_segments
        embedded = self.embedding(observation.astype(jnp.float32))
        encode = self._encoder(segment)
        inputs = (jax.random.split(key, count), jnp.arange(count) + 1 < count)
        one_pass = nn.scan(
            lambda module, left, inputs: module._pass(
                encode(embedded, left), segment, left, inputs, relaxed
            ),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        _, found = one_pass(self, jnp.ones(segment.shape, jnp.float32), inputs)
        return found.replace(boundary=found.boundary[:-1], log_prob=found.log_prob[:-1])

    def _pass(self, encoding, segment, left, inputs, relaxed):
        """Infers the next segment; gives what it has left over, and the segment without its axis.

        Args:
          encoding: `(B, S, n)` of this pass.
          segment: `(B, S)`.
          left: `(B, S)` what earlier segments have left.
          inputs: `()` key, and bool whether the segment ends inside of the trajectory.
          relaxed: see `segments`.
        """
        key, ends_inside = inputs
        boundary_key, code_key = jax.random.split(key)
        encoding = self.encoding_norm(encoding) * left[..., None]
        boundary, log_prob = self._boundary(encoding, segment, boundary_key, relaxed)
        boundary = jnp.where(ends_inside, boundary, 0.0)
        ended = running_sum(boundary[..., None], segment)[..., 0]
        code = self._code(encoding, boundary, segment, code_key)
        return left * ended, Segments(boundary, log_prob, left, left * (1.0 - ended), *code)

    def _encoder(self, segment: chex.Array) -> Callable[[chex.Array, chex.Array], chex.Array]:
        """The blocks, from `(B, S, n)` inputs and what is left `(B, S)` to `(B, S, n)`.

        One loop over the blocks, in which all are compiled once: there are as many copies of it as
        an update has passes, forwards and backwards.
        """
        if self.is_initializing():
            return lambda x, left: self._one_by_one(x, segment, left)
        block = self.blocks[0].clone(parent=None, name=None)
        parts = [block.variables["params"] for block in self.blocks]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

        def encode(x, left):
            def one(x, params):
                return block.apply({"params": params}, x, segment, left), None

            return jax.lax.scan(jax.checkpoint(one), x, stacked)[0]

        return encode

    def _one_by_one(self, x: chex.Array, segment: chex.Array, left: chex.Array) -> chex.Array:
        """The same without a loop, which cannot make parameters."""
        for block in self.blocks:
            x = block(x, segment, left)
        return x

    def _boundary(
        self, encoding: chex.Array, segment: chex.Array, key: chex.PRNGKey, relaxed: bool
    ) -> tuple[chex.Array, chex.Array]:
        """Where the segment of a pass ends, and the log-probabilities, each `(B, S)`."""
        logits = self.boundary_output(nn.relu(self.boundary_hidden(encoding)))[..., 0]
        allowed = may_end(segment)
        log_prob = log_softmax(logits, allowed, segment)
        if not relaxed:
            return one_hot_argmax(logits, allowed, segment), log_prob
        noise = jax.random.gumbel(key, logits.shape, logits.dtype)
        return softmax((logits + noise) / self.config.temperature, allowed, segment), log_prob

    def _code(
        self, encoding: chex.Array, boundary: chex.Array, segment: chex.Array, key: chex.PRNGKey
    ) -> tuple[chex.Array, chex.Array, chex.Array]:
        """Code, mean and log standard deviation, read off one step before the boundary.

        What is not placed inside of the trajectory lies behind it: the last segment, and that of a
        trajectory of one step, is read off the last step. The head's first layer is linear, so that
        its outputs are summed in place of the wider encodings.
        """
        hidden, boundary = self.code_hidden(encoding), boundary[..., None]
        placed = total(boundary, segment)
        last = jnp.where(ends_segment(segment)[..., None], 1.0 - placed, 0.0)
        read = total(boundary * step_before(hidden, segment) + last * hidden, segment)
        mean, log_std = self._posterior(self.code_output(nn.relu(read)))
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        noise = total(jnp.where(starts_segment(segment)[..., None], noise, 0.0), segment)
        return mean + jnp.exp(log_std) * noise, mean, log_std

    def discover(
        self, observation: chex.Array, segment: chex.Array, key: chex.PRNGKey
    ) -> Discovery:
        """Codes and boundaries of whole trajectories, in the form of the metacontroller's.

        Args:
          observation: `(B, S, d)`.
          segment: `(B, S)`.
          key: noise of the codes.

        Returns:
          Where `beta` is 1 at the first step of every segment and 0 elsewhere, and `kl` is paid at
          that step.
        """
        return as_discovery(self.segments(observation, segment, key, relaxed=False), segment)

    @with_exact_products
    def gate_logits(
        self, residual: chex.Array, segment: chex.Array, code: chex.Array
    ) -> chex.Array:
        """Logits of `switch` at all steps of packed rows, `(B, S)`.

        Args:
          residual: `(B, S, n_e)`.
          segment: `(B, S)`.
          code: `(B, S, n_z)` in force at each step; the gate reads that of the step before.
        """
        normed = self.input_norm(residual)
        history = self._histories(normed, starts_segment(segment))
        return self._gate_logit(normed, history, step_before(code, segment))

    def __call__(self, observation: chex.Array, segment: chex.Array, key: chex.PRNGKey) -> Segments:
        """Relaxed segments; makes all parameters."""
        if self.is_initializing():
            residual = jnp.zeros((*segment.shape, self.residual_size), jnp.float32)
            code = jnp.zeros((*segment.shape, self.config.code_size), jnp.float32)
            history = self.initial_history(segment.shape[0])
            self.history_step(residual[:, 0], history)
            self.switch(residual[:, 0], history, code[:, 0])
            self.control(residual, code)
        return self.segments(observation, segment, key, relaxed=True)


def as_discovery(segments: Segments, segment: chex.Array) -> Discovery:
    """Segments with one boundary each as gates and codes, see `Compile.discover`."""
    begins = starts_segment(segment) | segment_changes(segments.weight, segment)
    mean, log_std = segments.mixed(segments.mean), segments.mixed(segments.log_std)
    code = segments.mixed(segments.code)
    kl = jnp.where(begins, kl_to_standard_normal(mean, log_std), 0.0)
    return Discovery(code, begins.astype(jnp.float32), code, mean, log_std, kl)


def make_compile(base: BaseModel, layer: int, config: CompileConfig) -> Compile:
    """The module for a base model that it controls at a layer.

    Its encoder is as wide as the base model and as deep as what lies below the layer. Its blocks
    are Hawk's whatever the base model's are, as a mask needs a recurrent state; they have as many
    heads, or as many of them as their width can be divided by.
    """
    shape = base.config.block_shape(base.max_length, base.max_length)
    shape = dataclasses.replace(shape, num_heads=math.gcd(shape.num_heads, shape.width))
    return Compile(base.width, config, base.observation_spec.size, layer, shape)
