"""What steers with codes: a decoder to controllers, and a causal gate that asks for the next code.

Whatever infers codes from whole trajectories (`metacontroller.Metacontroller`, `compile.Compile`),
this is the half of it that acts: in internal RL a policy takes the place of what infers (method
§6). Everything here is causal, and the same function in training and in use.
"""

import dataclasses

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import normal, zeros

from internal_rl.backend import with_exact_products
from internal_rl.models.history import histories, input_products
from internal_rl.section import SCALE, SIZE, Section, SettingError, at_least, setting, within

_LOG_STD = within(-20, 20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeControllerConfig(Section):
    """Fields that the sections `metacontroller` and `compile` share (method §5).

    Attributes:
      code_size: size `n_z` of a code.
      history_size: state size of the GRU that summarises the past.
      switch_size: hidden size of the switch MLP (open).
      decoder_size: hidden size of the hypernetwork.
      rank: rank of the controller; 0 makes it a full `n_e x n_e` matrix.
      initial_log_std: initial posterior log standard deviation (open).
      min_log_std: the least that it is clipped to (open).
      max_log_std: the most that it is clipped to (open).
      switch_bias: initial bias of the gate's logit (open).
      controller_gain: initial size of `U e` relative to `e`, for a code drawn from the prior
        (open).
    """

    code_size: int = setting(8, SIZE)
    history_size: int = setting(32, SIZE)
    switch_size: int = setting(32, SIZE)
    decoder_size: int = setting(32, SIZE)
    rank: int = setting(16, at_least(0))
    initial_log_std: float = setting(-2.0, _LOG_STD)
    min_log_std: float = setting(-6.0, _LOG_STD)
    max_log_std: float = setting(2.0, _LOG_STD)
    switch_bias: float = setting(-1.0, within(-1_000, 1_000))
    controller_gain: float = setting(0.35, SCALE)

    def check(self) -> None:
        """The posterior starts somewhere in its range."""
        super().check()
        low, high = self.min_log_std, self.max_log_std
        self.require(low < high, "min_log_std", f"below max_log_std = {high}")
        allowed = f"min_log_std = {low} to max_log_std = {high}"
        self.require(low <= self.initial_log_std <= high, "initial_log_std", allowed)


class CodeController(nn.Module):
    """History, gate and decoder; those who inherit add how codes are inferred.

    Attributes:
      residual_size: width `n_e` of the residual stream it reads and writes.
      config: its sizes and choices.
    """

    residual_size: int
    config: CodeControllerConfig = CodeControllerConfig()

    reads_observations = False
    """Whether `discover` is given observations in place of the residual stream."""

    def setup(self):
        if self.config.rank > self.residual_size:
            raise SettingError(
                "rank", f"{self.config.rank} given, allowed is 0 (full) to {self.residual_size}"
            )
        self.input_norm = nn.LayerNorm()
        self.history_cell = nn.GRUCell(self.config.history_size)
        self.switch_context = nn.Dense(self.config.switch_size)
        self.switch_code = nn.Dense(self.config.switch_size, use_bias=False)
        self.switch_output = nn.Dense(
            1, bias_init=nn.initializers.constant(self.config.switch_bias)
        )
        self.decoder_hidden = nn.Dense(self.config.decoder_size)
        self.decoder_output = nn.Dense(
            self._controller_size(), kernel_init=self._decoder_init(), bias_init=zeros
        )

    @property
    def draws_switches(self) -> bool:
        """Whether `switch` gives a probability that switches are drawn with."""
        return False

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
    def initial_history(self, batch_size: int) -> chex.Array:
        """`h_0 = 0`, `(B, history_size)`."""
        return jnp.zeros((batch_size, self.config.history_size), jnp.float32)

    @with_exact_products
    def history_step(self, residual: chex.Array, history: chex.Array) -> chex.Array:
        """`h_t = GRU(e_t, h_{t-1})` for `(B, n_e)` residuals."""
        return self.history_cell(history, self.input_norm(residual))[0]

    def _switch_context(self, normed: chex.Array, history: chex.Array) -> chex.Array:
        return self.switch_context(jnp.concatenate([normed, history], axis=-1))

    def _switch_logit(self, context: chex.Array, code: chex.Array) -> chex.Array:
        hidden = nn.gelu(context + self.switch_code(code))
        return self.switch_output(hidden)[..., 0]

    def _histories(self, normed: chex.Array, start: chex.Array) -> chex.Array:
        """`h_{t-1}` for every `t`, `(B, S, history_size)`."""
        params = self.history_cell.variables["params"]
        return histories(params, input_products(params, normed), start)

    @with_exact_products
    def switch(self, residual: chex.Array, history: chex.Array, code: chex.Array) -> chex.Array:
        """Gate `beta_t = f_switch(e_t, h_{t-1}, z_{t-1})` without noise, in [0, 1].

        Args:
          residual: `(..., n_e)`.
          history: `(..., history_size)` before this step.
          code: `(..., n_z)` active before this step; zeros on the first step.

        Returns:
          `(...)`. The caller treats the first step of an episode as a switch whatever the gate
          says, and draws switches with this probability if `draws_switches`.
        """
        return nn.sigmoid(self._gate_logit(self.input_norm(residual), history, code))

    def _gate_logit(self, normed: chex.Array, history: chex.Array, code: chex.Array) -> chex.Array:
        return self._switch_logit(self._switch_context(normed, history), code)

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

    def _posterior(self, parameters: chex.Array) -> tuple[chex.Array, chex.Array]:
        """Mean and log standard deviation, each `(..., n_z)`, from `(..., 2 n_z)` numbers."""
        mean, log_std = jnp.split(parameters, 2, axis=-1)
        log_std = log_std + self.config.initial_log_std
        return mean, jnp.clip(log_std, self.config.min_log_std, self.config.max_log_std)


def apply_controller(factors: tuple[chex.Array, ...], residual: chex.Array) -> chex.Array:
    """`e + U e` for controller factors as returned by `CodeController.decode`."""
    if len(factors) == 1:
        return residual + jnp.einsum("...ij,...j->...i", factors[0], residual)
    read, write = factors
    return residual + jnp.einsum(
        "...r,...rn->...n", jnp.einsum("...rn,...n->...r", read, residual), write
    )
