"""The environment of internal RL: world, base model, switch and decoder as one (method §6).

From the policy's side an episode is a short sequence of decisions: at each of them it reads the
residual `e_{t,l}` and picks a code. Between two decisions the base model acts under the controller
that the last code decodes to.
"""

import dataclasses
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.batching import largest
from internal_rl.envs.slots import Slots, choose_num_slots, run_episodes
from internal_rl.models.base_model import BaseModel
from internal_rl.models.heads import gaussian_log_prob, mode_action, sample_action
from internal_rl.models.metacontroller import Metacontroller
from internal_rl.models.policy import CodePolicy


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
class _Memory:
    """What the models remember of the episodes that are running.

    Attributes:
      base: state of the base model's one-step form.
      history: `(W, history_size)` state of the switch.
      policy: state of the policy, as of the last decision.
      code: `(W, n_z)` code in force.
      log_prob: `(W,)` log-probability of that code, nats.
    """

    base: tuple
    history: chex.Array
    policy: Any
    code: chex.Array
    log_prob: chex.Array


@dataclasses.dataclass(frozen=True)
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
      num_slots: episodes that run side by side, which bounds the memory; 0 leaves the choice to
        `slots.choose_num_slots`.
      policy_rows: episodes per call of the policy among those that ask.
    """

    world: Any
    base: BaseModel
    metacontroller: Metacontroller
    policy: CodePolicy
    layer: int
    threshold: float = 0.5
    force_switch: bool = False
    num_slots: int = 0
    policy_rows: int = 64

    def rollout(
        self,
        params: dict,
        key: chex.PRNGKey,
        task: chex.Array,
        num_episodes: int,
        deterministic: chex.Numeric = False,
    ) -> Rollout:
        """Runs `num_episodes` episodes.

        Args:
          params: `{"base": ..., "metacontroller": ..., "policy": ...}` parameters of the modules.
          key: random key. Every episode has its own share of it, so that what happens in an episode
            does not depend on `num_slots`.
          task: `(K,)` int32 colours of the task, padded with -1.
          num_episodes: batch size `B`.
          deterministic: `()` bool, use the mean code and the most probable action.
        """
        reset_key, step_key = jax.random.split(key)
        num_slots = choose_num_slots(self.num_slots, num_episodes)
        memory = _Memory(
            base=self.base.initial_state(num_slots),
            history=self.metacontroller.initial_history(num_slots),
            policy=self.policy.initial_state(num_slots),
            code=jnp.zeros((num_slots, self.policy.code_size)),
            log_prob=jnp.zeros(num_slots),
        )
        records, length = run_episodes(
            lambda *carry: self._step(params, step_key, deterministic, *carry),
            reset_worlds(self.world, reset_key, task, num_episodes),
            memory,
            num_slots,
            self.world.time_limit,
        )
        active = jnp.arange(self.world.time_limit) < length[:, None]
        return Rollout(**records, active=active)

    def _step(self, params, key, deterministic, slots: Slots, state, memory: _Memory):
        """One raw step of all slots, see `slots.run_episodes`."""
        world, observation = state
        first = slots.time == 0
        residual, base_memory = self.base.apply(
            params["base"],
            observation,
            self.base.restart(memory.base, slots.forgets),
            self.layer,
            method="lower_step",
        )
        history = jnp.where(first[:, None], 0.0, memory.history)
        code = jnp.where(first[:, None], 0.0, memory.code)
        beta = self.metacontroller.apply(
            params["metacontroller"], residual, history, code, method="switch"
        )
        switch_keys, code_keys, action_keys = episode_keys(key, slots, 3)
        wanted = first | self._wants_code(beta, switch_keys)
        code, log_prob, policy_state = self._ask_policy(
            params["policy"],
            residual,
            wanted & slots.active,
            first,
            code_keys,
            deterministic,
            (code, memory.log_prob, memory.policy),
        )
        history = self.metacontroller.apply(
            params["metacontroller"], residual, history, method="history_step"
        )
        controlled = self.metacontroller.apply(
            params["metacontroller"], residual, code, method="control"
        )
        output, base_memory = self.base.apply(
            params["base"], controlled, base_memory, self.layer, method="upper_step"
        )
        action = act(self.base.action_head, output.action, action_keys, deterministic)
        world, timestep = jax.vmap(self.world.step)(world, action)
        record = {
            "observation": observation,
            "residual": residual,
            "beta": beta,
            "ask": wanted,
            "code": code,
            "log_prob": log_prob,
            "action": action,
            "reward": timestep.reward,
            "progress": world.progress,
        }
        memory = _Memory(base_memory, history, policy_state, code, log_prob)
        return (world, timestep.observation), memory, timestep.done, record

    def _wants_code(self, beta: chex.Array, keys: chex.Array) -> chex.Array:
        """`(W,)` bool: the switch asks for a new code."""
        if self.force_switch:
            return jnp.ones(beta.shape, bool)
        if self.metacontroller.gate == "random":
            return jax.vmap(jax.random.uniform)(keys) < beta
        return beta >= self.threshold

    def _ask_policy(self, params, residual, ask, first, keys, deterministic, held):
        """Renews `held` (code, its log-probability, policy state) where `ask` is set.

        Few episodes ask at any one step, so the policy runs on these alone, `policy_rows` at a
        time.
        """
        rows = math.gcd(self.policy_rows, ask.shape[0])
        order = jnp.argsort(~ask, stable=True)
        count = largest(jnp.sum(ask))

        def ask_some(loop):
            index, held = loop
            chosen = jax.lax.dynamic_slice_in_dim(order, index * rows, rows)
            code, log_prob, state = jax.tree.map(lambda x: x[chosen], held)
            asked = ask[chosen]
            mean, log_std, state = self.policy.apply(
                params,
                residual[chosen],
                self.policy.restart(state, first[chosen]),
                asked,
                method="step",
            )
            noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys[chosen])
            drawn = jnp.where(deterministic, mean, mean + jnp.exp(log_std) * noise)
            code = jnp.where(asked[:, None], drawn, code)
            log_prob = jnp.where(asked, gaussian_log_prob(mean, log_std, drawn), log_prob)
            held = jax.tree.map(lambda x, new: x.at[chosen].set(new), held, (code, log_prob, state))
            return index + 1, held

        loop = (jnp.int32(0), held)
        return jax.lax.while_loop(lambda loop: loop[0] * rows < count, ask_some, loop)[1]


def reset_worlds(world, key: chex.PRNGKey, task: chex.Array, num_episodes: int):
    """States and observations of `num_episodes` worlds at their start."""
    state, timestep = jax.vmap(world.reset, (0, None))(jax.random.split(key, num_episodes), task)
    return state, timestep.observation


def episode_keys(key: chex.PRNGKey, slots: Slots, num_uses: int) -> list[chex.Array]:
    """Keys `(W,)` for each of `num_uses` uses, made from episode and time alone."""
    keys = jax.vmap(
        lambda episode, time: jax.random.split(
            jax.random.fold_in(jax.random.fold_in(key, episode), time), num_uses
        )
    )(slots.episode, slots.time)
    return [keys[:, i] for i in range(num_uses)]


def act(
    head: str, parameters: chex.Array, keys: chex.Array, deterministic: chex.Numeric
) -> chex.Array:
    """One action per row: drawn with the row's own key or, `deterministic`, the most probable."""
    drawn = jax.vmap(lambda row, key: sample_action(head, row, key))(parameters, keys)
    return jnp.where(deterministic, mode_action(head, parameters), drawn)
