"""The frozen base model and what steers it, as one pytree."""

import chex
from flax import struct

from internal_rl.backend import exact_products
from internal_rl.models.base_model import BaseModel, BaseOutput
from internal_rl.models.code_controller import CodeController
from internal_rl.models.metacontroller import UNAIDED, Discovery, GateTraining


@struct.dataclass
class SteeredModel:
    """A base model that is cut at one layer, and perhaps a metacontroller between its halves.

    Modules and layer are static, the parameters are leaves: it can be passed through `jax.jit`,
    differentiated, stacked over seeds and pickled.

    Attributes:
      base: module of the base model.
      layer: the residual stream `e_{t,l}` that is read and controlled, 0 (embedding) to `L`.
      base_params: parameters of the base model; None for those who draw or bring their own.
      metacontroller: module of the metacontroller, or of what takes its place (`models.compile`);
        None for the base model alone.
      metacontroller_params: its parameters; None without one.
    """

    base: BaseModel = struct.field(pytree_node=False)
    layer: int = struct.field(pytree_node=False)
    base_params: chex.ArrayTree
    metacontroller: CodeController | None = struct.field(pytree_node=False, default=None)
    metacontroller_params: chex.ArrayTree | None = None

    def at_layer(self, layer: int) -> "SteeredModel":
        """The same model cut at this layer.

        At another one than before it is the base model `alone`: a metacontroller reads and controls
        the layer that it was trained at.

        Raises:
          ValueError: unless `0 <= layer <= depth`.
        """
        self.base.check_layer(layer)
        return self if layer == self.layer else self.alone().replace(layer=layer)

    def alone(self) -> "SteeredModel":
        """The base model without its metacontroller."""
        return self.replace(metacontroller=None, metacontroller_params=None)

    def _base(self, method: str, *inputs):
        return self.base.apply(self.base_params, *inputs, method=method)

    def _require_metacontroller(self) -> CodeController:
        if self.metacontroller is None:
            raise ValueError("this model has no metacontroller, allowed is one that has")
        return self.metacontroller

    def _meta(self, method: str, *inputs):
        module = self._require_metacontroller()
        # Control adds to the residual stream as a block does, and is as exact as one.
        with exact_products(self.base.dtype is None):
            return module.apply(self.metacontroller_params, *inputs, method=method)

    # Whole packed rows.

    def lower(self, observation: chex.Array, segment: chex.Array) -> chex.Array:
        """Residual stream `e_{t,l}`: `(B, S, d)` and `(B, S)` to `(B, S, n_e)`."""
        return self._base("lower", observation, segment, self.layer)

    def upper(self, residual: chex.Array, segment: chex.Array) -> BaseOutput:
        """Predictions from `(B, S, n_e)` residuals, controlled or not."""
        return self._base("upper", residual, segment, self.layer)

    def upper_of_each(self, residuals: chex.Array, segment: chex.Array) -> BaseOutput:
        """Predictions from the residual stream of each layer, see `BaseModel.upper_of_each`."""
        return self._base("upper_of_each", residuals, segment)

    def residuals(self, observation: chex.Array, segment: chex.Array) -> chex.Array:
        """Residual streams of all layers, `(L + 1, B, S, n_e)`."""
        return self._base("residuals", observation, segment)

    def discover(
        self,
        residual: chex.Array,
        segment: chex.Array,
        key: chex.PRNGKey,
        gates: GateTraining = UNAIDED,
    ) -> Discovery:
        """Gates and codes of whole trajectories, see `Metacontroller.discover`."""
        return self._meta("discover", residual, segment, key, gates)

    def infer(self, observation: chex.Array, segment: chex.Array, key: chex.PRNGKey) -> Discovery:
        """Gates and codes of whole trajectories, whatever they are inferred from.

        Gates are those that act, without the noise that Gumbel gates have in training.

        Args:
          observation: `(B, S, d)`.
          segment: `(B, S)`.
          key: noise of the codes.
        """
        if self._require_metacontroller().reads_observations:
            return self._meta("discover", observation, segment, key)
        residual = self.lower(observation, segment)
        return self.discover(residual, segment, key, GateTraining(noise=0.0))

    def control(self, residual: chex.Array, code: chex.Array) -> chex.Array:
        """`e + U(z) e`: `(..., n_e)` residuals and `(..., n_z)` codes to `(..., n_e)`."""
        return self._meta("control", residual, code)

    # One step of `B` episodes.

    def initial_state(self, batch_size: int) -> tuple:
        """State of the base model before the first observation."""
        return self.base.initial_state(batch_size)

    def restart(self, state: tuple, rows: chex.Array) -> tuple:
        """Begins a new episode where `rows (B,)` is set."""
        return self.base.restart(state, rows)

    def lower_step(self, observation: chex.Array, state: tuple) -> tuple[chex.Array, tuple]:
        """One step of `lower`: `(B, d)` and state to `(B, n_e)` and state."""
        return self._base("lower_step", observation, state, self.layer)

    def upper_step(self, residual: chex.Array, state: tuple) -> tuple[BaseOutput, tuple]:
        """One step of `upper` on `(B, n_e)` residuals."""
        return self._base("upper_step", residual, state, self.layer)

    def initial_history(self, batch_size: int) -> chex.Array:
        """What the switch remembers before the first step, `(B, history_size)`."""
        return self._require_metacontroller().initial_history(batch_size)

    def history_step(self, residual: chex.Array, history: chex.Array) -> chex.Array:
        """`h_t` from `e_t` and `h_{t-1}`."""
        return self._meta("history_step", residual, history)

    def switch(self, residual: chex.Array, history: chex.Array, code: chex.Array) -> chex.Array:
        """Gate `β_t` from `e_t`, `h_{t-1}` and `z_{t-1}`, `(B,)`."""
        return self._meta("switch", residual, history, code)
