"""The policy of internal RL: which controller code to use next, given the residual stream."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from internal_rl.backend import with_exact_products
from internal_rl.models.blocks import scaled_initializer
from internal_rl.models.hawk import HawkBlock, HawkState
from internal_rl.section import SettingError

MAX_STD = math.exp(3.0)


class CodePolicy(nn.Module):
    """Gaussian policy `π(z | e)` that lives on the abstract timescale (method §6).

    One element of its input sequence is one decision: the residual `e_{t,l}` at a raw step at which
    the switch asked for a new code. The output layer starts near zero, so that the untrained policy
    is close to a Gaussian around zero whatever it reads: with an `initial_std` of 1 to the prior
    `N(0, I)` of the codes. Its products are float32 in full on all devices: a code has to have the
    same probability when it is drawn and when it is learnt from.

    Attributes:
      code_size: size `n_z` of a code.
      width: width of the single Hawk block.
      num_heads: diagonal blocks of the RG-LRU's gates.
      mlp_size: hidden size of the block's MLP.
      init_scale: variance-scaling factor of the kernels.
      output_init_scale: the same for the output layer.
      initial_std: standard deviation of the untrained policy's codes, above `min_std` and below
        `MAX_STD`. Where little is paid for the KL, codes of the posterior spread wider than the
        prior, and a wider policy meets more of them.
      min_std: smallest standard deviation of a code, above 0 and below `MAX_STD`. The trust region
        moves a mean by a fraction of its deviation: a policy that has become narrow no longer
        learns.
    """

    code_size: int
    width: int = 256
    num_heads: int = 8
    mlp_size: int = 512
    init_scale: float = 0.1
    output_init_scale: float = 1e-4
    initial_std: float = 1.0
    min_std: float = 0.05

    def setup(self):
        if not 0 < self.min_std < MAX_STD:
            raise SettingError(
                "min_std", f"{self.min_std} given, allowed is above 0 and below {MAX_STD:.3f}"
            )
        self.input_norm = nn.RMSNorm()
        self.input_projection = nn.Dense(
            self.width, kernel_init=scaled_initializer(self.init_scale)
        )
        self.block = HawkBlock(self.width, self.num_heads, self.mlp_size, self.init_scale)
        self.output_norm = nn.RMSNorm()
        self.output = nn.Dense(
            2 * self.code_size,
            kernel_init=scaled_initializer(self.output_init_scale),
            bias_init=self._initial_heads,
        )

    def _initial_heads(self, key, shape, dtype=jnp.float32):
        """Bias of the output layer: zero means, and what `_heads` turns into `initial_std`."""
        del key
        if not self.min_std < self.initial_std < MAX_STD:
            raise SettingError(
                "initial_std",
                f"{self.initial_std} given, allowed is above min_std = {self.min_std:.3f} and below"
                f" {MAX_STD:.3f}",
            )
        centre, reach = self._log_std_bounds()
        log_std = centre + reach * math.atanh((math.log(self.initial_std) - centre) / reach)
        return jnp.where(jnp.arange(shape[-1]) < self.code_size, 0.0, log_std).astype(dtype)

    @nn.nowrap
    def _log_std_bounds(self) -> tuple[float, float]:
        """Middle and half width of the range of the log standard deviation."""
        low, high = math.log(self.min_std), math.log(MAX_STD)
        return (high + low) / 2, (high - low) / 2

    def _heads(self, x: chex.Array) -> tuple[chex.Array, chex.Array]:
        mean, log_std = jnp.split(self.output(self.output_norm(x)), 2, axis=-1)
        # A smooth bound: the gradient of the deviation never vanishes entirely.
        centre, reach = self._log_std_bounds()
        return mean, centre + reach * jnp.tanh((log_std - centre) / reach)

    @with_exact_products
    def __call__(self, residual: chex.Array, segment: chex.Array) -> tuple[chex.Array, chex.Array]:
        """Parallel form over whole sequences of decisions.

        Args:
          residual: `(B, K, n_e)` residuals at the decisions, in order.
          segment: `(B, K)` index of the episode for rows that hold several of them, -1 at padding;
            with one episode per row, a bool mask of the entries that hold a decision will do.

        Returns:
          Mean and log standard deviation of the code, each `(B, K, n_z)`; arbitrary at padding.
        """
        x = self.input_projection(self.input_norm(residual))
        return self._heads(self.block(x, segment))

    @nn.nowrap
    def initial_params(self, key: chex.PRNGKey, residual_size: int) -> chex.ArrayTree:
        """Untrained parameters of a policy that reads residuals `(n_e,)`."""
        residual = jnp.zeros((1, 1, residual_size), jnp.float32)
        return self.init(key, residual, jnp.ones((1, 1), bool))

    @nn.nowrap
    def initial_state(self, batch_size: int) -> HawkState:
        """State before the first decision of `batch_size` episodes."""
        return self._detached_block().initial_state(batch_size)

    @nn.nowrap
    def restart(self, state: HawkState, rows: chex.Array) -> HawkState:
        """Begins a new episode in the rows where `rows (B,)` bool is set."""
        return self._detached_block().restart(state, rows)

    @nn.nowrap
    def _detached_block(self) -> HawkBlock:
        """A block outside the module tree, for functions of its state that need no parameters."""
        return HawkBlock(self.width, self.num_heads, self.mlp_size, parent=None)

    @with_exact_products
    def step(
        self, residual: chex.Array, state: HawkState, active: chex.Array
    ) -> tuple[chex.Array, chex.Array, HawkState]:
        """One decision.

        Args:
          residual: `(B, n_e)`.
          state: state after the previous decision.
          active: `(B,)` bool; the state of the other rows stays as it was.

        Returns:
          Mean and log standard deviation, each `(B, n_z)`, and the new state.
        """
        x, advanced = self.block.step(self.input_projection(self.input_norm(residual)), state)

        def keep(new, old):
            return jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return *self._heads(x), jax.tree.map(keep, advanced, state)
