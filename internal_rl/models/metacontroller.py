"""The metacontroller: it discovers codes that steer the frozen base model (method §5).

At every step a gate `beta_t` decides between keeping the code `z_{t-1}` and taking a new proposal;
a hypernetwork turns the code into a linear controller of the residual stream. In training,
proposals come from an encoder that sees the whole trajectory; in internal RL they come from a
policy. Gate, integrator, history and decoder are causal and are the same functions in both uses.
"""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.backend import with_exact_products
from internal_rl.models.blocks import MLP
from internal_rl.models.code_controller import CodeController, CodeControllerConfig
from internal_rl.models.integration import Gate, codes_before, mixed
from internal_rl.models.recurrence import starts_segment
from internal_rl.models.sequence_embedding import EMBEDDING_LAYERS, EMBEDDINGS, SequenceEmbedding
from internal_rl.section import COUNT, LAYERS, SCALE, SIZE, Rule, at_least, one_of, setting, within

_SLOWNESS = Rule(lambda value: 0 < value <= 16, "above 0 and up to 16")

GATES = ("sigmoid", "gumbel", "one", "random")


@struct.dataclass
class GateTraining:
    """How gates are helped at one moment of training; without help at the end of it.

    Attributes:
      floor: `()` in [0, 1], the least that a gate is open: `floor + (1 - floor) beta` takes the
        place of `beta`.
      noise: `()` in [0, 1], share of the logistic noise of `"gumbel"` gates.
    """

    floor: chex.Numeric = 0.0
    noise: chex.Numeric = 1.0


UNAIDED = GateTraining()
"""Gates as they are at the end of training."""


@struct.dataclass
class Discovery:
    """What the metacontroller infers about a packed row of trajectories.

    Attributes:
      code: `(B, S, n_z)` active code `z_t`.
      beta: `(B, S)` switching gate in [0, 1]; 1 on the first step of every trajectory.
      proposal: `(B, S, n_z)` sampled proposal.
      mean: `(B, S, n_z)` posterior mean.
      log_std: `(B, S, n_z)` posterior log standard deviation.
      kl: `(B, S)` KL to the standard normal prior, in nats, not weighted by `beta`.
    """

    code: chex.Array
    beta: chex.Array
    proposal: chex.Array
    mean: chex.Array
    log_std: chex.Array
    kl: chex.Array


def kl_to_standard_normal(mean: chex.Array, log_std: chex.Array) -> chex.Array:
    """`KL(N(mean, exp(log_std)^2) || N(0, I))` in nats, summed over the last axis."""
    return 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_std) - 1.0 - 2 * log_std, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetacontrollerConfig(CodeControllerConfig):
    """The part of the section `metacontroller` that describes the module (method §5).

    Attributes:
      embedding: `"trajectory"` for one non-causal embedding `s` per trajectory, `"step"` for one
        per step (open).
      embedding_layers: `"gated"` for layers of bare gated recurrences, `"hawk"` for those of the
        base model in both directions, as published.
      embedding_heads: diagonal blocks of the gates of Hawk layers; divides `embedding_size` (open).
      embedding_mlp_size: hidden size of the perceptrons of Hawk layers (open).
      embedding_size: width of the sequence embedding.
      embedding_depth: its bidirectional layers (open).
      embedding_slowness: how far back it sees at the start, about `e^slowness / 4` steps; of gated
        layers (open).
      embedding_gap: steps of the future that `embedding="step"` skips (open).
      encoder_size: hidden size of the encoder MLP.
      gate: `"sigmoid"`; `"gumbel"` adds logistic noise in training; `"one"` forces `beta = 1`;
        `"random"` switches at random moments, a control whose codes do not follow subgoals.
      temperature: divides the gate's logit.
      switch_rate: probability of a switch per step, for the `"random"` gate.
    """

    embedding: str = setting("trajectory", one_of(EMBEDDINGS))
    embedding_layers: str = setting("gated", one_of(EMBEDDING_LAYERS))
    embedding_heads: int = setting(8, COUNT)
    embedding_mlp_size: int = setting(64, SIZE)
    embedding_size: int = setting(32, SIZE)
    embedding_depth: int = setting(1, LAYERS)
    embedding_slowness: float = setting(4.0, _SLOWNESS)
    embedding_gap: int = setting(0, at_least(0))
    encoder_size: int = setting(64, SIZE)
    gate: str = setting("sigmoid", one_of(GATES))
    temperature: float = setting(1.0, SCALE)
    switch_rate: float = setting(0.2, within(0, 1))

    def check(self) -> None:
        """The gates of Hawk layers are cut into equal blocks."""
        super().check()
        if self.embedding_layers == "hawk":
            divides = self.embedding_size % self.embedding_heads == 0
            allowed = f"a divisor of embedding_size = {self.embedding_size}"
            self.require(divides, "embedding_heads", allowed)


class Metacontroller(CodeController):
    """Encoder, switching gate, integrator and controller decoder.

    Attributes:
      residual_size: width `n_e` of the residual stream it reads and writes.
      config: its sizes and choices.
    """

    residual_size: int
    config: MetacontrollerConfig = MetacontrollerConfig()

    def setup(self):
        super().setup()
        self.summary = SequenceEmbedding(
            self.config.embedding_size,
            self.config.embedding_depth,
            self.config.embedding,
            self.config.embedding_slowness,
            self.config.embedding_gap,
            self.config.embedding_layers,
            self.config.embedding_heads,
            self.config.embedding_mlp_size,
        )
        self.encoder = MLP(self.config.encoder_size, 2 * self.config.code_size, activation=nn.gelu)

    @nn.nowrap
    def initial_params(self, key: chex.PRNGKey) -> chex.ArrayTree:
        """Untrained parameters."""
        residual = jnp.zeros((1, 2, self.residual_size), jnp.float32)
        return self.init(key, residual, jnp.zeros((1, 2), jnp.int32), key)

    @property
    def draws_switches(self) -> bool:
        """The `"random"` gate is a probability."""
        return self.config.gate == "random"

    @with_exact_products
    def switch(self, residual: chex.Array, history: chex.Array, code: chex.Array) -> chex.Array:
        """See `CodeController.switch`."""
        if self.config.gate in ("one", "random"):
            probability = 1.0 if self.config.gate == "one" else self.config.switch_rate
            return jnp.full(residual.shape[:-1], probability, residual.dtype)
        logit = self._gate_logit(self.input_norm(residual), history, code)
        return nn.sigmoid(logit / self.config.temperature)

    @with_exact_products
    def discover(
        self,
        residual: chex.Array,
        segment: chex.Array,
        key: chex.PRNGKey,
        gates: GateTraining = UNAIDED,
    ) -> Discovery:
        """Infers gates and codes for whole trajectories.

        Args:
          residual: `(B, S, n_e)` residual stream of the frozen base model.
          segment: `(B, S)` index of the packed trajectory; nothing crosses its borders.
          key: noise of the proposals (and of the gate, if `"gumbel"`).
          gates: help for the beginning of training, see `methods.discovery`.
        """
        proposal_key, gate_key = jax.random.split(key)
        start = starts_segment(segment)
        normed = self.input_norm(residual)
        history = self._histories(normed, start)
        embedding = self.summary(normed, segment)
        encoded = self.encoder(jnp.concatenate([normed, history, embedding], axis=-1))
        mean, log_std = self._posterior(encoded)
        noise = jax.random.normal(proposal_key, mean.shape, mean.dtype)
        proposal = mean + jnp.exp(log_std) * noise
        beta, code = self._integrate(
            self._switch_context(normed, history), proposal, start, gate_key, gates
        )
        return Discovery(code, beta, proposal, mean, log_std, kl_to_standard_normal(mean, log_std))

    def _integrate(self, context, proposal, start, gate_key, gates):
        """`z_t = beta_t z~_t + (1 - beta_t) z_{t-1}` with the gate evaluated on the way."""
        if self.config.gate == "one":
            return jnp.ones(start.shape, proposal.dtype), proposal
        low = jnp.full(start.shape, gates.floor, proposal.dtype)
        bias = self.switch_output.variables["params"]["bias"]
        if self.config.gate == "gumbel":
            bias = bias + gates.noise * jax.random.logistic(gate_key, start.shape, proposal.dtype)
        if self.config.gate == "random":
            rate = jnp.asarray(self.config.switch_rate, proposal.dtype)
            drawn = jax.random.bernoulli(gate_key, rate, start.shape)
            low = drawn.astype(proposal.dtype)
        fixed = start | (self.config.gate == "random")
        low = jnp.where(start, 1.0, low)
        gate = Gate(
            kernel=self.switch_code.variables["params"]["kernel"],
            context=context,
            output=self.switch_output.variables["params"]["kernel"][:, 0] / self.config.temperature,
            bias=jnp.broadcast_to(bias / self.config.temperature, start.shape),
            low=low,
            range=jnp.where(fixed, 0.0, 1.0 - low),
        )
        before = codes_before(gate, proposal)
        beta = gate.opening(before)
        return beta, mixed(beta, proposal, before)

    def __call__(
        self,
        residual: chex.Array,
        segment: chex.Array,
        key: chex.PRNGKey,
        gates: GateTraining = UNAIDED,
    ) -> tuple[Discovery, chex.Array]:
        """`discover`, and controlled residuals `(B, S, n_e)` of packed rows."""
        if self.is_initializing():  # scans below cannot create parameters
            history = self.history_step(residual[:, 0], self.initial_history(residual.shape[0]))
            self._switch_logit(
                self._switch_context(self.input_norm(residual[:, 0]), history),
                jnp.zeros((residual.shape[0], self.config.code_size), residual.dtype),
            )
        discovery = self.discover(residual, segment, key, gates)
        return discovery, self.control(residual, discovery.code)
