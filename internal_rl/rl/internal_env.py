"""The environment of internal RL: world, base model, switch and decoder as one (method §6).

From the policy's side an episode is a short sequence of decisions: at each of them it reads the
residual `e_{t,l}` and picks a code. Between two decisions the base model acts under the controller
that the last code decodes to.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.models.base_model import BaseModel
from internal_rl.models.heads import gaussian_log_prob, mode_action, sample_action
from internal_rl.models.metacontroller import Metacontroller
from internal_rl.models.policy import CodePolicy
from internal_rl.rl.lockstep import check_rows, largest, run_lockstep


@struct.dataclass
class Rollout:
    """Everything that happened in `B` episodes, at the raw timescale of `T` steps.

    Steps after the end of an episode have `active == False` and carry no meaning.

    Attributes:
      observation: `(B, T, d)` observation `o_t`.
      residual: `(B, T, n_e)` residual stream `e_{t,l}` before control.
      beta: `(B, T)` output of the switch.
      ask: `(B, T)` bool, a new code was asked for at this step.
      code: `(B, T, n_z)` code in force.
      log_prob: `(B, T)` log-probability of the code in force, taken when it was drawn; nats.
      action: `(B, T)` or `(B, T, d_a)` action.
      reward: `(B, T)` reward that followed.
      progress: `(B, T)` int32 colours of the task visited after this step.
      active: `(B, T)` bool, the episode was running at this step.
    """

    observation: chex.Array
    residual: chex.Array
    beta: chex.Array
    ask: chex.Array
    code: chex.Array
    log_prob: chex.Array
    action: chex.Array
    reward: chex.Array
    progress: chex.Array
    active: chex.Array

    @property
    def returns(self) -> chex.Array:
        """`(B,)` sum of rewards."""
        return jnp.sum(self.reward, axis=1)

    @property
    def success(self) -> chex.Array:
        """`(B,)` bool, the task was completed; nothing else is rewarded."""
        return self.returns > 0

    @property
    def length(self) -> chex.Array:
        """`(B,)` int32 raw steps."""
        return jnp.sum(self.active, axis=1)

    @property
    def switches(self) -> chex.Array:
        """`(B,)` int32 decisions, the one at the first step included."""
        return jnp.sum(self.ask, axis=1)


@struct.dataclass
class Decisions:
    """The same episodes on the abstract timescale.

    Attributes:
      residual: `(B, K, n_e)` residual that the policy read.
      code: `(B, K, n_z)` code that it picked.
      log_prob: `(B, K)` log-probability of that code, nats.
      reward: `(B, K)` rewards summed from this decision to the next one or the end.
      duration: `(B, K)` int32 raw steps during which the code was in force.
      mask: `(B, K)` bool, True for the leading entries that hold a decision.
    """

    residual: chex.Array
    code: chex.Array
    log_prob: chex.Array
    reward: chex.Array
    duration: chex.Array
    mask: chex.Array


def decision_steps(ask: chex.Array) -> chex.Array:
    """`(B, T)` raw step of each episode's k-th decision; arbitrary beyond the last decision."""
    return jnp.argsort(~ask, axis=1, stable=True)


def abstract_sequence(rollout: Rollout, max_switches: int) -> Decisions:
    """Compresses raw steps to the first `max_switches` decisions of each episode."""
    steps = decision_steps(rollout.ask)[:, :max_switches]
    episode = jnp.arange(steps.shape[0])[:, None]
    index = jnp.maximum(jnp.cumsum(rollout.ask, axis=1) - 1, 0)
    zeros = jnp.zeros(steps.shape)
    return Decisions(
        residual=rollout.residual[episode, steps],
        code=rollout.code[episode, steps],
        log_prob=rollout.log_prob[episode, steps],
        reward=zeros.at[episode, index].add(rollout.reward * rollout.active, mode="drop"),
        duration=zeros.astype(jnp.int32).at[episode, index].add(rollout.active, mode="drop"),
        mask=jnp.arange(max_switches) < rollout.switches[:, None],
    )


@struct.dataclass
class _Carry:
    """State of `B` running episodes; `time` is shared."""

    world: Any
    observation: chex.Array
    active: chex.Array
    episode: chex.Array
    memory: tuple
    history: chex.Array
    policy_state: Any
    code: chex.Array
    log_prob: chex.Array
    time: chex.Array


@struct.dataclass
class InternalEnv:
    """The parts that the policy cannot tell from the world, and how they are run.

    Attributes:
      world: environment with single-world `reset` and `step`.
      base: base model module.
      metacontroller: metacontroller module; its switch and decoder are used.
      policy: policy module.
      layer: controlled layer `l`.
      threshold: the switch asks for a new code where `β_t >= threshold`.
      force_switch: ask at every step, whatever the switch says.
      num_stages: see `lockstep.run_lockstep`.
      rows: the same, episodes per part.
      policy_rows: episodes per call of the policy among those that ask; divides `rows`.
    """

    world: Any = struct.field(pytree_node=False)
    base: BaseModel = struct.field(pytree_node=False)
    metacontroller: Metacontroller = struct.field(pytree_node=False)
    policy: CodePolicy = struct.field(pytree_node=False)
    layer: int = struct.field(pytree_node=False)
    threshold: float = struct.field(pytree_node=False, default=0.5)
    force_switch: bool = struct.field(pytree_node=False, default=False)
    num_stages: int = struct.field(pytree_node=False, default=4)
    rows: int = struct.field(pytree_node=False, default=256)
    policy_rows: int = struct.field(pytree_node=False, default=64)

    def rollout(
        self,
        params: dict,
        key: chex.PRNGKey,
        task: chex.Array,
        num_episodes: int,
        deterministic: bool = False,
    ) -> Rollout:
        """Runs `num_episodes` episodes.

        Args:
          params: `{"base": ..., "metacontroller": ..., "policy": ...}` parameters of the modules.
          key: random key.
          task: `(K,)` int32 colours of the task, padded with -1.
          num_episodes: batch size `B`.
          deterministic: use the mean code and the most probable action.
        """
        rows = min(self.rows, num_episodes)
        check_rows(min(self.policy_rows, rows), rows)
        reset_key, step_key = jax.random.split(key)
        world, timestep = jax.vmap(self.world.reset, (0, None))(
            jax.random.split(reset_key, num_episodes), task
        )
        code_size = self.policy.code_size
        carry = _Carry(
            world=world,
            observation=timestep.observation,
            active=~timestep.done,
            episode=jnp.arange(num_episodes),
            memory=self.base.clone(max_length=1).initial_state(num_episodes),
            history=self.metacontroller.initial_history(num_episodes),
            policy_state=self.policy.initial_state(num_episodes),
            code=jnp.zeros((num_episodes, code_size)),
            log_prob=jnp.zeros(num_episodes),
            time=jnp.int32(0),
        )
        return run_lockstep(
            lambda carry: self._step(params, step_key, carry, deterministic),
            lambda carry, length: carry.replace(
                memory=extend_memory(self.base, carry.memory, length)
            ),
            carry,
            self.world.time_limit,
            self.num_stages,
            rows,
        )

    def _step(self, params, key, carry: _Carry, deterministic: bool) -> tuple[_Carry, Rollout]:
        """One raw step of all episodes."""
        residual, memory = self.base.apply(
            params["base"], carry.observation, carry.memory, self.layer, method="lower_step"
        )
        beta = self.metacontroller.apply(
            params["metacontroller"], residual, carry.history, carry.code, method="switch"
        )
        wanted = (carry.time == 0) | (beta >= self.threshold) | self.force_switch
        ask = carry.active & wanted
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.fold_in(key, carry.time), carry.episode
        )
        code_keys, action_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        code, log_prob, policy_state = self._ask_policy(
            params["policy"], residual, ask, code_keys, carry, deterministic
        )
        history = self.metacontroller.apply(
            params["metacontroller"], residual, carry.history, method="history_step"
        )
        controlled = self.metacontroller.apply(
            params["metacontroller"], residual, code, method="control"
        )
        output, memory = self.base.apply(
            params["base"], controlled, memory, self.layer, method="upper_step"
        )
        action = act(self.base.action_head, output.action, action_keys, deterministic)
        world, timestep = jax.vmap(self.world.step)(carry.world, action)
        record = Rollout(
            observation=carry.observation,
            residual=residual,
            beta=beta,
            ask=ask,
            code=code,
            log_prob=log_prob,
            action=action,
            reward=jnp.where(carry.active, timestep.reward, 0.0),
            progress=world.progress,
            active=carry.active,
        )
        carry = carry.replace(
            world=world,
            observation=timestep.observation,
            active=carry.active & ~timestep.done,
            memory=memory,
            history=history,
            policy_state=policy_state,
            code=code,
            log_prob=log_prob,
            time=carry.time + 1,
        )
        return carry, record

    def _ask_policy(self, params, residual, ask, keys, carry: _Carry, deterministic: bool):
        """New code, its log-probability and the policy's state, renewed where `ask` is set.

        Few episodes ask at any one step, so the policy runs on these alone, `policy_rows` at a time.
        """
        rows = min(self.policy_rows, ask.shape[0])
        order = jnp.argsort(~ask, stable=True)
        count = largest(jnp.sum(ask))

        def ask_some(loop):
            index, *held = loop
            chosen = jax.lax.dynamic_slice_in_dim(order, index * rows, rows)
            code, log_prob, state = jax.tree.map(lambda x: x[chosen], tuple(held))
            asked = ask[chosen]
            mean, log_std, state = self.policy.apply(
                params, residual[chosen], state, asked, method="step"
            )
            if deterministic:
                drawn = mean
            else:
                noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys[chosen])
                drawn = mean + jnp.exp(log_std) * noise
            code = jnp.where(asked[:, None], drawn, code)
            log_prob = jnp.where(asked, gaussian_log_prob(mean, log_std, drawn), log_prob)
            held = jax.tree.map(
                lambda x, new: x.at[chosen].set(new), tuple(held), (code, log_prob, state)
            )
            return index + 1, *held

        loop = (jnp.int32(0), carry.code, carry.log_prob, carry.policy_state)
        return jax.lax.while_loop(lambda loop: loop[0] * rows < count, ask_some, loop)[1:]


def extend_memory(base: BaseModel, memory: tuple, length: int) -> tuple:
    """Grows the caches of the base model's one-step form to `length` steps."""
    rows = jax.tree.leaves(memory)[0].shape[0]
    target = jax.eval_shape(lambda: base.clone(max_length=length).initial_state(rows))

    def grow(x, like):
        missing = [(0, m - n, 0) for n, m in zip(x.shape, like.shape, strict=True)]
        return jax.lax.pad(x, jnp.zeros((), x.dtype), missing)

    return jax.tree.map(grow, memory, target)


def act(
    head: str, parameters: chex.Array, keys: chex.Array, deterministic: bool
) -> chex.Array:
    """One action per row: drawn with the row's own key, or the most probable one."""
    if deterministic:
        return mode_action(head, parameters)
    return jax.vmap(lambda row, key: sample_action(head, row, key))(parameters, keys)
