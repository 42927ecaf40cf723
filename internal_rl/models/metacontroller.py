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
from jax.nn.initializers import normal, zeros

from internal_rl.models.blocks import MLP
from internal_rl.models.history import histories, input_products
from internal_rl.models.integration import Gate, codes_before, mixed
from internal_rl.models.recurrence import starts_segment
from internal_rl.models.sequence_embedding import EMBEDDINGS, SequenceEmbedding
from internal_rl.section import POSITIVE, Section, SettingError, at_least, one_of, setting, within

GATES = ("sigmoid", "gumbel", "one", "random")


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
class MetacontrollerConfig(Section):
    """The part of the section `metacontroller` that describes the module (method §5).

    Attributes:
      code_size: size `n_z` of a code.
      history_size: state size of the GRU that summarises the past.
      embedding: `"trajectory"` for one non-causal embedding `s` per trajectory, `"step"` for one
        per step (open).
      embedding_size: width of the sequence embedding.
      embedding_depth: its bidirectional layers (open).
      embedding_slowness: how far back it sees at the start, about `e^slowness / 4` steps (open).
      embedding_gap: steps of the future that `embedding="step"` skips (open).
      encoder_size: hidden size of the encoder MLP.
      switch_size: hidden size of the switch MLP (open).
      decoder_size: hidden size of the hypernetwork.
      rank: rank of the controller; 0 makes it a full `n_e x n_e` matrix.
      gate: `"sigmoid"`; `"gumbel"` adds logistic noise in training; `"one"` forces `beta = 1`;
        `"random"` switches at random moments, a control whose codes do not follow subgoals.
      temperature: divides the gate's logit.
      switch_rate: probability of a switch per step, for the `"random"` gate.
      initial_log_std: initial posterior log standard deviation (open).
      min_log_std: the least that it is clipped to (open).
      max_log_std: the most that it is clipped to (open).
      switch_bias: initial bias of the gate's logit (open).
      controller_gain: initial size of `U e` relative to `e`, for a code drawn from the prior
        (open).
    """

    code_size: int = setting(8, at_least(1))
    history_size: int = setting(32, at_least(1))
    embedding: str = setting("trajectory", one_of(EMBEDDINGS))
    embedding_size: int = setting(32, at_least(1))
    embedding_depth: int = setting(1, at_least(1))
    embedding_slowness: float = setting(4.0, POSITIVE)
    embedding_gap: int = setting(0, at_least(0))
    encoder_size: int = setting(64, at_least(1))
    switch_size: int = setting(32, at_least(1))
    decoder_size: int = setting(32, at_least(1))
    rank: int = setting(16, at_least(0))
    gate: str = setting("sigmoid", one_of(GATES))
    temperature: float = setting(1.0, POSITIVE)
    switch_rate: float = setting(0.2, within(0, 1))
    initial_log_std: float = setting(-2.0)
    min_log_std: float = setting(-6.0)
    max_log_std: float = setting(2.0)
    switch_bias: float = setting(-1.0)
    controller_gain: float = setting(0.35, POSITIVE)


class Metacontroller(nn.Module):
    """Encoder, switching gate, integrator and controller decoder.

    Attributes:
      residual_size: width `n_e` of the residual stream it reads and writes.
      config: its sizes and choices.
    """

    residual_size: int
    config: MetacontrollerConfig = MetacontrollerConfig()

    def setup(self):
        if self.config.rank > self.residual_size:
            raise SettingError(
                "rank", f"{self.config.rank} given, allowed is 0 (full) to {self.residual_size}"
            )
        self.input_norm = nn.LayerNorm()
        self.history_cell = nn.GRUCell(self.config.history_size)
        self.summary = SequenceEmbedding(
            self.config.embedding_size,
            self.config.embedding_depth,
            self.config.embedding,
            self.config.embedding_slowness,
            self.config.embedding_gap,
        )
        self.encoder = MLP(self.config.encoder_size, 2 * self.config.code_size, activation=nn.gelu)
        self.switch_context = nn.Dense(self.config.switch_size)
        self.switch_code = nn.Dense(self.config.switch_size, use_bias=False)
        self.switch_output = nn.Dense(
            1, bias_init=nn.initializers.constant(self.config.switch_bias)
        )
        self.decoder_hidden = nn.Dense(self.config.decoder_size)
        self.decoder_output = nn.Dense(
            self._controller_size(), kernel_init=self._decoder_init(), bias_init=zeros
        )

    def _controller_size(self) -> int:
        if self.config.rank == 0:
            return self.residual_size**2
        return 2 * self.config.rank * self.residual_size

    def _decoder_init(self):
        """Kernel scale at which `|U e|` is about `controller_gain * |e|` for `z ~ N(0, I)`."""
        if self.config.rank == 0:
            entry = self.config.controller_gain / self.residual_size**0.5
        else:
            entry = (
                self.config.controller_gain / (self.config.rank * self.residual_size) ** 0.5
            ) ** 0.5
        return normal(entry * (2 / self.config.decoder_size) ** 0.5)

    @nn.nowrap
    def initial_params(self, key: chex.PRNGKey) -> chex.ArrayTree:
        """Untrained parameters."""
        residual = jnp.zeros((1, 2, self.residual_size), jnp.float32)
        return self.init(key, residual, jnp.zeros((1, 2), jnp.int32), key)

    @nn.nowrap
    def initial_history(self, batch_size: int) -> chex.Array:
        """`h_0 = 0`, `(B, history_size)`."""
        return jnp.zeros((batch_size, self.config.history_size), jnp.float32)

    def history_step(self, residual: chex.Array, history: chex.Array) -> chex.Array:
        """`h_t = GRU(e_t, h_{t-1})` for `(B, n_e)` residuals."""
        return self.history_cell(history, self.input_norm(residual))[0]

    def _switch_context(self, normed: chex.Array, history: chex.Array) -> chex.Array:
        return self.switch_context(jnp.concatenate([normed, history], axis=-1))

    def _switch_logit(self, context: chex.Array, code: chex.Array) -> chex.Array:
        hidden = nn.gelu(context + self.switch_code(code))
        return self.switch_output(hidden)[..., 0]

    def switch(self, residual: chex.Array, history: chex.Array, code: chex.Array) -> chex.Array:
        """Gate `beta_t = f_switch(e_t, h_{t-1}, z_{t-1})` without noise, in [0, 1].

        Args:
          residual: `(..., n_e)`.
          history: `(..., history_size)` before this step.
          code: `(..., n_z)` active before this step; zeros on the first step.

        Returns:
          `(...)`. The caller treats the first step of an episode as a switch whatever the gate
          says, and draws switches with this probability if the gate is `"random"`.
        """
        if self.config.gate in ("one", "random"):
            probability = 1.0 if self.config.gate == "one" else self.config.switch_rate
            return jnp.full(residual.shape[:-1], probability, residual.dtype)
        context = self._switch_context(self.input_norm(residual), history)
        return nn.sigmoid(self._switch_logit(context, code) / self.config.temperature)

    def decode(self, code: chex.Array) -> tuple[chex.Array, ...]:
        """`U = f_hyp(z)`: `(..., n_z)` codes to controller factors.

        Returns:
          `(read, write)`, each `(..., rank, n_e)`, with `U = write^T read`; or `(U,)` of
          `(..., n_e, n_e)` when `rank` is 0.
        """
        parameters = self.decoder_output(nn.gelu(self.decoder_hidden(code)))
        if self.config.rank == 0:
            shape = (*code.shape[:-1], self.residual_size, self.residual_size)
            return (parameters.reshape(shape),)
        shape = (*code.shape[:-1], 2, self.config.rank, self.residual_size)
        factors = parameters.reshape(shape)
        return factors[..., 0, :, :], factors[..., 1, :, :]

    def control(self, residual: chex.Array, code: chex.Array) -> chex.Array:
        """Controlled residual `e + U(z) e` for `(..., n_e)` residuals and `(..., n_z)` codes.

        Axes in front of the last one are broadcast. `U` is never written out: it is linear in the
        hidden layer of the hypernetwork, so that every hidden unit multiplies `e` by matrices of
        its own. All tokens share those, and the products are dense ones.
        """
        if self.is_initializing():
            return apply_controller(self.decode(code), residual)
        leading = jnp.broadcast_shapes(residual.shape[:-1], code.shape[:-1])
        hidden = nn.gelu(self.decoder_hidden(code))
        # The bias is what a further unit does that is always 1.
        hidden = jnp.concatenate([hidden, jnp.ones_like(hidden[..., :1])], axis=-1)
        parameters = self.decoder_output.variables["params"]
        units = jnp.concatenate([parameters["kernel"], parameters["bias"][None]])
        product = self._low_rank_product if self.config.rank else self._full_rank_product
        change = product(
            units, hidden.reshape(-1, units.shape[0]), residual.reshape(-1, self.residual_size)
        )
        return residual + change.reshape(*leading, self.residual_size)

    def _low_rank_product(
        self, units: chex.Array, hidden: chex.Array, residual: chex.Array
    ) -> chex.Array:
        """`U e` for `(T, n_e)` residuals, which takes `rank` numbers per unit and token.

        Args:
          units: `(K, 2 rank n_e)` what every hidden unit adds to the controller.
          hidden: `(T or 1, K)` how much of it.
          residual: `(T or 1, n_e)`.
        """
        rank, size, count = self.config.rank, self.residual_size, units.shape[0]
        factors = units.reshape(count, 2, rank, size)
        read = factors[:, 0].reshape(count * rank, size)
        write = factors[:, 1].reshape(count * rank, size)
        weights = hidden[..., None]
        seen = jnp.sum((residual @ read.T).reshape(-1, count, rank) * weights, axis=1)
        return (seen[:, None] * weights).reshape(-1, count * rank) @ write

    def _full_rank_product(
        self, units: chex.Array, hidden: chex.Array, residual: chex.Array
    ) -> chex.Array:
        """The same with a full `U`, `n_e` numbers per unit and token; units are `(K, n_e²)`."""
        size, count = self.residual_size, units.shape[0]
        # (unit, out, in) to (in, unit * out)
        products = (residual @ units.reshape(count * size, size).T).reshape(-1, count, size)
        return jnp.sum(hidden[..., None] * products, axis=1)

    def discover(
        self,
        residual: chex.Array,
        segment: chex.Array,
        key: chex.PRNGKey,
        gate_floor: chex.Numeric = 0.0,
    ) -> Discovery:
        """Infers gates and codes for whole trajectories.

        Args:
          residual: `(B, S, n_e)` residual stream of the frozen base model.
          segment: `(B, S)` index of the packed trajectory; nothing crosses its borders.
          key: noise of the proposals (and of the gate, if `"gumbel"`).
          gate_floor: in [0, 1], the least that a gate is open: `floor + (1 - floor) beta` takes the
            place of `beta`. For the beginning of training, see `methods.discovery`.
        """
        proposal_key, gate_key = jax.random.split(key)
        start = starts_segment(segment)
        normed = self.input_norm(residual)
        history = self._histories(normed, start)
        embedding = self.summary(normed, segment)
        encoded = self.encoder(jnp.concatenate([normed, history, embedding], axis=-1))
        mean, log_std = jnp.split(encoded, 2, axis=-1)
        log_std = jnp.clip(
            log_std + self.config.initial_log_std, self.config.min_log_std, self.config.max_log_std
        )
        noise = jax.random.normal(proposal_key, mean.shape, mean.dtype)
        proposal = mean + jnp.exp(log_std) * noise
        beta, code = self._integrate(
            self._switch_context(normed, history), proposal, start, gate_key, gate_floor
        )
        return Discovery(code, beta, proposal, mean, log_std, kl_to_standard_normal(mean, log_std))

    def _histories(self, normed: chex.Array, start: chex.Array) -> chex.Array:
        """`h_{t-1}` for every `t`, `(B, S, history_size)`."""
        params = self.history_cell.variables["params"]
        return histories(params, input_products(params, normed), start)

    def _integrate(self, context, proposal, start, gate_key, gate_floor):
        """`z_t = beta_t z~_t + (1 - beta_t) z_{t-1}` with the gate evaluated on the way."""
        if self.config.gate == "one":
            return jnp.ones(start.shape, proposal.dtype), proposal
        low = jnp.full(start.shape, gate_floor, proposal.dtype)
        bias = self.switch_output.variables["params"]["bias"]
        if self.config.gate == "gumbel":
            bias = bias + jax.random.logistic(gate_key, start.shape, proposal.dtype)
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
        gate_floor: chex.Numeric = 0.0,
    ) -> tuple[Discovery, chex.Array]:
        """`discover`, and controlled residuals `(B, S, n_e)` of packed rows."""
        if self.is_initializing():  # scans below cannot create parameters
            history = self.history_step(residual[:, 0], self.initial_history(residual.shape[0]))
            self._switch_logit(
                self._switch_context(self.input_norm(residual[:, 0]), history),
                jnp.zeros((residual.shape[0], self.config.code_size), residual.dtype),
            )
        discovery = self.discover(residual, segment, key, gate_floor)
        return discovery, self.control(residual, discovery.code)


def apply_controller(factors: tuple[chex.Array, ...], residual: chex.Array) -> chex.Array:
    """`e + U e` for controller factors as returned by `Metacontroller.decode`."""
    if len(factors) == 1:
        return residual + jnp.einsum("...ij,...j->...i", factors[0], residual)
    read, write = factors
    return residual + jnp.einsum(
        "...r,...rn->...n", jnp.einsum("...rn,...n->...r", read, residual), write
    )
