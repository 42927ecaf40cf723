"""Codes drawn from the prior, and one that is put among them: the tests of codes (method §5)."""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.acting.code_policy import asks_for_code
from internal_rl.acting.episodes import StepContext, Visits
from internal_rl.models.steered_model import SteeredModel


@struct.dataclass
class Injection:
    """A code that takes the place of the one in force, once in an episode.

    The moment is the first step in a window at which there is a place that may be aimed at.

    Attributes:
      codes: `(B, O, n_z)` a code of each place, for every episode.
      preference: `(B, O)`; the place of largest preference is aimed at, among those that may be;
        -inf rules a place out.
      allowed: `(O + 1, O)` bool: which places may be aimed at by the place visited last; the last
        row before the first visit.
      first_step: `()` first step of the window.
      last_step: `()` last step of it.
      enabled: `()` bool; False only chooses place and moment, and leaves the codes alone.
    """

    codes: chex.Array
    preference: chex.Array
    allowed: chex.Array
    first_step: chex.Numeric
    last_step: chex.Numeric
    enabled: chex.Numeric = True

    def aim(self, context: StepContext, visits: Visits) -> chex.Array:
        """Place to aim at from this step on, `(W,)` int32; -1 where it is not the moment."""
        row = context.slots.episode % self.preference.shape[0]
        # `NOWHERE` reads the last row.
        allowed = jnp.asarray(self.allowed)[visits.last]
        preference = jnp.where(allowed, self.preference[row], -jnp.inf)
        in_window = (self.first_step <= context.slots.time) & (context.slots.time <= self.last_step)
        moment = in_window & jnp.any(preference > -jnp.inf, axis=1)
        return jnp.where(moment, jnp.argmax(preference, axis=1), -1).astype(jnp.int32)

    def code_of(self, context: StepContext, place: chex.Array) -> chex.Array:
        """Codes `(W, n_z)` of places `(W,)`."""
        row = context.slots.episode % self.codes.shape[0]
        return self.codes[row, jnp.maximum(place, 0)]


@struct.dataclass
class _Held:
    """Memory of `RandomCodes`, for `W` slots.

    Attributes:
      history: `(W, history_size)` what the gate remembers.
      code: `(W, n_z)` code in force.
      target: `(W,)` int32 place aimed at by an injection, -1 before it.
    """

    history: chex.Array
    code: chex.Array
    target: chex.Array


@struct.dataclass
class RandomCodes:
    """Controls with codes from N(0, I): a new one at the first step and where the gate asks.

    An injected code is in force from its step on, whatever the gate says there, until the gate
    asks for the next one. It records `beta`, what the gate says; `code` `(n_z,)`, which is in
    force; `switch` bool, it is a new one; and `target`, the place that an injection aims at, -1
    before it (and 0 after the episode's end, as all that is recorded).

    Attributes:
      injection: what is put among the codes; None for nothing.
      threshold: the gate asks where `β_t >= threshold`, see `asks_for_code`.
    """

    injection: Injection | None = None
    threshold: float = struct.field(pytree_node=False, default=0.5)
    num_keys: int = struct.field(pytree_node=False, default=2)

    def init(self, model: SteeredModel, num_slots: int) -> _Held:
        """No code yet."""
        code_size = model.metacontroller.config.code_size
        return _Held(
            history=model.initial_history(num_slots),
            code=jnp.zeros((num_slots, code_size), jnp.float32),
            target=jnp.full(num_slots, -1, jnp.int32),
        )

    def step(self, model: SteeredModel, memory: _Held, residual: chex.Array, context: StepContext):
        """See `Control`."""
        first, (switch_keys, code_keys) = context.first, context.keys
        history = jnp.where(first[:, None], 0.0, memory.history)
        code = jnp.where(first[:, None], 0.0, memory.code)
        target = jnp.where(first, -1, memory.target)
        beta = model.switch(residual, history, code)
        switch = first | asks_for_code(model, beta, switch_keys, self.threshold)
        drawn = jax.vmap(lambda key: jax.random.normal(key, code.shape[1:], code.dtype))(code_keys)
        code = jnp.where(switch[:, None], drawn, code)
        if self.injection is not None:
            visits = context.visits
            if visits is None:
                visits = Visits.none(len(first))
            aim = jnp.where(target < 0, self.injection.aim(context, visits), -1)
            put = (aim >= 0) & self.injection.enabled
            code = jnp.where(put[:, None], self.injection.code_of(context, aim), code)
            switch = switch | put
            target = jnp.where(aim >= 0, aim, target)
        history = model.history_step(residual, history).astype(memory.history.dtype)
        controlled = model.control(residual, code).astype(residual.dtype)
        record = {"beta": beta, "code": code, "switch": switch, "target": target}
        return _Held(history, code, target), controlled, record
