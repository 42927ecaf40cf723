"""Controls without a policy: supervised controllers (method §4) and injected codes (method §5)."""

import chex
import jax.numpy as jnp
from flax import struct

from internal_rl.acting.code_policy import asks_for_code
from internal_rl.acting.episodes import NOWHERE, StepContext, Visits
from internal_rl.models.controllers import Controllers, steer
from internal_rl.models.steered_model import SteeredModel


@struct.dataclass
class SupervisedControl:
    """Always applies the controller of the subgoal that the task asks for next.

    The model has to be cut at the layer that the controllers were trained at.

    Attributes:
      controllers: of all subgoals.
    """

    controllers: Controllers
    num_keys: int = struct.field(pytree_node=False, default=0)

    def init(self, model: SteeredModel, num_slots: int) -> tuple:
        """Nothing is remembered."""
        del model, num_slots
        return ()

    def step(self, model: SteeredModel, memory: tuple, residual: chex.Array, context: StepContext):
        """See `Control`.

        Raises:
          ValueError: the world emits no subgoals.
        """
        del model
        subgoal = context.timestep.subgoal
        if subgoal is None:
            raise ValueError("subgoal of a timestep is None, allowed are worlds that emit subgoals")
        return memory, steer(self.controllers, residual, subgoal).astype(residual.dtype), {}


@struct.dataclass
class _Injection:
    """Memory of `InjectedCode`, for `W` slots.

    Attributes:
      history: `(W, history_size)` what the gate remembers.
      code: `(W, n_z)` code in force, zeros without one.
      held: `(W,)` bool, a code is in force.
      injected: `(W,)` bool, the moment of injection has come.
      target: `(W,)` int32 subgoal aimed at, -1 before or where there was none.
    """

    history: chex.Array
    code: chex.Array
    held: chex.Array
    injected: chex.Array
    target: chex.Array


@struct.dataclass
class InjectedCode:
    """Injects one code into every episode, holds it until the gate asks for another, then lets go.

    Before and afterwards the base model acts alone. It records `beta`, what the gate says; `held`,
    whether the code is in force; and `target`, the subgoal aimed at, -1 before the injection (and 0
    after the episode's end, as all that is recorded).

    Attributes:
      codes: `(B, G, n_z)` code of each subgoal that an episode may aim at; with `(1, G, n_z)` the
        same for all episodes.
      preference: `(B, G)`, or `(1, G)`; the subgoal of largest preference is aimed at, among those
        whose place is not the one just visited; -inf rules a subgoal out. If all are when
        the moment comes, nothing is injected.
      first_place: `(G,)` int32 place that each subgoal enters first.
      after_visits: `()` number of visits after which the code is injected, 0 for none. In a world
        that does not tell visits there never are any.
      at_step: `()` first step at which it may be injected.
      enabled: `()` bool; False only chooses the target and controls nothing.
      threshold: the gate asks where `β_t >= threshold`, see `asks_for_code`.
      num_keys: 1 where the module draws its switches, see `keys_for`.
    """

    codes: chex.Array
    preference: chex.Array
    first_place: chex.Array
    after_visits: chex.Numeric = 0
    at_step: chex.Numeric = 0
    enabled: chex.Numeric = True
    threshold: float = struct.field(pytree_node=False, default=0.5)
    num_keys: int = struct.field(pytree_node=False, default=0)

    @classmethod
    def of_code(
        cls, code: chex.Array, at_step: chex.Numeric = 0, *, num_keys: int = 0
    ) -> "InjectedCode":
        """The same code `(n_z,)` for every episode, from step `at_step` on."""
        code = jnp.asarray(code)
        chex.assert_rank(code, 1)
        # With one subgoal there is nothing to choose, whatever its place: `Visits` know no such.
        elsewhere = jnp.full(1, NOWHERE - 1)
        arrays = code[None, None], jnp.zeros((1, 1)), elsewhere
        return cls(*arrays, at_step=at_step, num_keys=num_keys)

    @staticmethod
    def keys_for(model: SteeredModel) -> int:
        """Random keys that each step needs: one where the module draws its switches."""
        return int(model.metacontroller.draws_switches)

    def init(self, model: SteeredModel, num_slots: int) -> _Injection:
        """No code is in force."""
        return _Injection(
            history=model.initial_history(num_slots),
            code=jnp.zeros((num_slots, self.codes.shape[-1]), self.codes.dtype),
            held=jnp.zeros(num_slots, bool),
            injected=jnp.zeros(num_slots, bool),
            target=jnp.full(num_slots, -1, jnp.int32),
        )

    def step(
        self, model: SteeredModel, memory: _Injection, residual: chex.Array, context: StepContext
    ):
        """See `Control`.

        Raises:
          ValueError: the module draws its switches, and there is no key for it.
        """
        if len(context.keys) < self.keys_for(model):
            raise ValueError(
                f"num_keys is {self.num_keys}, allowed is 1 for a module that draws its switches"
            )
        memory = _without_memory(memory, context.first)
        visits = context.visits
        if visits is None:
            visits = Visits.none(residual.shape[0])
        moment = (visits.count >= self.after_visits) & (context.slots.time >= self.at_step)
        now = moment & ~memory.injected
        target = jnp.where(now, self._aim(context, visits), memory.target)
        beta = model.switch(residual, memory.history, memory.code)
        asks = asks_for_code(model, beta, *(context.keys or (None,)), self.threshold)
        held = ((now & (target >= 0)) | (memory.held & ~asks)) & self.enabled
        chosen = self.codes[self._row(context), jnp.maximum(target, 0)]
        code = jnp.where(now[:, None], chosen, memory.code)
        code = jnp.where(held[:, None], code, 0.0)
        history = model.history_step(residual, memory.history).astype(memory.history.dtype)
        controlled = model.control(residual, code).astype(residual.dtype)
        controlled = jnp.where(held[:, None], controlled, residual)
        memory = _Injection(history, code, held, memory.injected | now, target)
        return memory, controlled, {"beta": beta, "held": held, "target": target}

    def _row(self, context: StepContext) -> chex.Array:
        """Which row of `codes` each slot's episode has, `(W,)`."""
        return context.slots.episode % self.codes.shape[0]

    def _aim(self, context: StepContext, visits: Visits) -> chex.Array:
        """Subgoal to aim at, should this be the moment, `(W,)` int32; -1 if all are ruled out."""
        allowed = jnp.asarray(self.first_place) != visits.last[:, None]
        preference = jnp.where(allowed, self.preference[self._row(context)], -jnp.inf)
        some = jnp.any(preference > -jnp.inf, axis=1)
        return jnp.where(some, jnp.argmax(preference, axis=1), -1).astype(jnp.int32)


def _without_memory(memory: _Injection, rows: chex.Array) -> _Injection:
    """Memory as at the start in the rows where `rows (W,)` is set."""
    return _Injection(
        history=jnp.where(rows[:, None], 0.0, memory.history),
        code=jnp.where(rows[:, None], 0.0, memory.code),
        held=memory.held & ~rows,
        injected=memory.injected & ~rows,
        target=jnp.where(rows, -1, memory.target),
    )
