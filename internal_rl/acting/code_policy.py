"""A policy over codes in control of the base model: what acts in internal RL (method §6).

From the policy's side an episode is a short sequence of decisions: at each of them it reads the
residual `e_{t,l}` and picks a code. Between two decisions the base model acts under the controller
that the last code decodes to.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.acting.episodes import StepContext
from internal_rl.batching import largest
from internal_rl.models.hawk import HawkState
from internal_rl.models.heads import gaussian_log_prob
from internal_rl.models.policy import CodePolicy
from internal_rl.models.steered_model import SteeredModel


def asks_for_code(
    model: SteeredModel, beta: chex.Array, keys: chex.Array, threshold: float
) -> chex.Array:
    """Whether the switch asks for a new code, `(W,)` bool.

    Args:
      model: base model and metacontroller.
      beta: `(W,)` output of the switch.
      keys: `(W,)` read where the module draws its switches.
      threshold: it asks where `β_t >= threshold`; where the module draws its switches, with
        probability `β_t`.
    """
    if model.metacontroller.draws_switches:
        return jax.vmap(jax.random.uniform)(keys) < beta
    return beta >= threshold


@struct.dataclass
class _Held:
    """What was decided last, for `W` slots; renewed where the switch asks for a new code.

    Attributes:
      code: `(W, n_z)` code in force.
      log_prob: `(W,)` its log-probability when it was drawn, nats.
      policy: state of the policy, as of the last decision.
    """

    code: chex.Array
    log_prob: chex.Array
    policy: HawkState


@struct.dataclass
class CodePolicyControl:
    """Asks a policy for a new code where the switch says so, and controls with the code in force.

    The first step of an episode always asks. Recorded are, at every raw step:

    - `residual` `(n_e,)` residual stream before control;
    - `beta` output of the switch;
    - `ask` bool, a new code was asked for;
    - `code` `(n_z,)` code in force;
    - `log_prob` log-probability of the code in force, taken when it was drawn; nats.

    Attributes:
      policy: module of the policy.
      params: its parameters.
      threshold: of the switch, see `asks_for_code`.
      policy_rows: episodes per call of the policy among those that ask.
    """

    policy: CodePolicy = struct.field(pytree_node=False)
    params: chex.ArrayTree
    threshold: float = struct.field(pytree_node=False, default=0.5)
    policy_rows: int = struct.field(pytree_node=False, default=64)
    num_keys: int = struct.field(pytree_node=False, default=2)

    def init(self, model: SteeredModel, num_slots: int) -> tuple[chex.Array, _Held]:
        """History of the switch, and no code yet."""
        held = _Held(
            code=jnp.zeros((num_slots, self.policy.code_size), jnp.float32),
            log_prob=jnp.zeros(num_slots, jnp.float32),
            policy=self.policy.initial_state(num_slots),
        )
        return model.initial_history(num_slots), held

    def step(self, model: SteeredModel, memory: tuple, residual: chex.Array, context: StepContext):
        """See `Control`."""
        history, held = memory
        first = context.first
        history = jnp.where(first[:, None], 0.0, history)
        held = held.replace(code=jnp.where(first[:, None], 0.0, held.code))
        beta = model.switch(residual, history, held.code)
        switch_keys, code_keys = context.keys
        ask = first | asks_for_code(model, beta, switch_keys, self.threshold)
        held = self._decide(residual, ask & context.slots.active, code_keys, held, context)
        history = model.history_step(residual, history).astype(history.dtype)
        record = {
            "residual": residual,
            "beta": beta,
            "ask": ask,
            "code": held.code,
            "log_prob": held.log_prob,
        }
        controlled = model.control(residual, held.code).astype(residual.dtype)
        return (history, held), controlled, record

    def _decide(
        self,
        residual: chex.Array,
        ask: chex.Array,
        keys: chex.Array,
        held: _Held,
        context: StepContext,
    ) -> _Held:
        """Renews `held` where `ask (W,)` is set.

        Few episodes ask at any one step, so the policy runs on these alone, `policy_rows` at a
        time.
        """
        num_slots = ask.shape[0]
        rows = min(self.policy_rows, num_slots)
        # Those that ask come first. Parts are whole: behind the last slot stands one that is not
        # there, from which nothing is kept; a shorter last part would take slots a second time.
        order = jnp.argsort(~ask, stable=True)
        if num_slots % rows:
            order = jnp.pad(order, (0, -num_slots % rows), constant_values=num_slots)
        count = largest(jnp.sum(ask))

        def ask_some(loop):
            index, held = loop
            chosen = jax.lax.dynamic_slice_in_dim(order, index * rows, rows)
            before = jax.tree.map(lambda x: x[chosen], held)
            asked = ask[chosen]
            mean, log_std, state = self.policy.apply(
                self.params,
                residual[chosen],
                self.policy.restart(before.policy, context.first[chosen]),
                asked,
                method="step",
            )
            noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(
                keys[chosen]
            )
            drawn = jnp.where(context.deterministic, mean, mean + jnp.exp(log_std) * noise)
            log_prob = gaussian_log_prob(mean, log_std, drawn)
            after = _Held(
                code=jnp.where(asked[:, None], drawn, before.code),
                log_prob=jnp.where(asked, log_prob, before.log_prob),
                policy=state,
            )

            def put(x, new):
                return x.at[chosen].set(new.astype(x.dtype), mode="drop")

            return index + 1, jax.tree.map(put, held, after)

        loop = (jnp.int32(0), held)
        with jax.named_scope("policy_calls"):
            return jax.lax.while_loop(lambda loop: loop[0] * rows < count, ask_some, loop)[1]
