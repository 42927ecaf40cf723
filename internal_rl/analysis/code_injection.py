"""Do codes carry over? A code taken from one episode is put into another (method §5).

A code collected on the way to a subgoal is injected into a new episode in another layout, at its
start or after some visits, and held until the gate asks for a new one. How often the subgoal's
colour is then the next one visited is compared with what the base model does alone from the same
states with the same random numbers, and with a code drawn from the prior N(0, I).
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.analysis.abstract_actions import CodeBank
from internal_rl.analysis.rollout import (
    NO_COLOUR,
    Control,
    StepContext,
    reset_batch,
    rollout,
)
from internal_rl.analysis.switching import SWITCH_THRESHOLD
from internal_rl.envs import World
from internal_rl.models.base_model import BaseModel
from internal_rl.models.metacontroller import Metacontroller

ARMS = ("injected", "prior", "uncontrolled")
"""What takes hold of the episode: a collected code, a code from N(0, I), or nothing."""
_ENABLED = (True, True, False)


def first_colours(env: World) -> np.ndarray:
    """Colour that a subgoal visits first, `(G,)` int32: where its code should lead next."""
    return np.array([subgoal[0] for subgoal in env.task_set.subgoals], np.int32)


def choose_codes(
    bank: CodeBank, layout: chex.Array, num_subgoals: int, key: chex.PRNGKey
) -> tuple[chex.Array, chex.Array]:
    """Draws, for every episode and subgoal, a code that was collected in another layout.

    Args:
      bank: `N` codes.
      layout: `(B,)` fingerprints of the episodes' layouts.
      num_subgoals: number of subgoals `G`.
      key: randomness.

    Returns:
      Codes `(B, G, n_z)`, and `(B, G)` bool whether the bank had one.
    """
    score = jax.random.uniform(key, (layout.shape[0], len(bank.subgoal)))
    score = jnp.where(layout[:, None] == bank.layout, -1.0, score)

    def choose(subgoal):
        candidate = jnp.where(bank.subgoal == subgoal, score, -1.0)
        best = jnp.argmax(candidate, axis=1)
        return jnp.asarray(bank.code)[best], jnp.max(candidate, axis=1) >= 0.0

    codes, found = jax.lax.map(choose, jnp.arange(num_subgoals))
    return jnp.moveaxis(codes, 0, 1), found.T


@struct.dataclass
class _Injection:
    """Memory of the injecting control.

    Attributes:
      history: `(B, history_size)` the metacontroller's memory.
      code: `(B, n_z)` code in force, zeros without one.
      held: `(B,)` bool, a code is in force.
      injected: `(B,)` bool, the moment of injection has come.
      target: `(B,)` int32 subgoal aimed at, -1 before.
    """

    history: chex.Array
    code: chex.Array
    held: chex.Array
    injected: chex.Array
    target: chex.Array


def injection_control(
    metacontroller: Metacontroller,
    metacontroller_params: dict,
    layer: int,
    codes: chex.Array,
    preference: chex.Array,
    first_colour: chex.Array,
    after_visits: chex.Array,
    enabled: chex.Array,
) -> Control:
    """Control that injects one code, holds it until the gate's next switch, then lets go.

    Args:
      metacontroller: its gate and decoder are used.
      metacontroller_params: its parameters.
      layer: residual stream that is controlled.
      codes: `(B, G, n_z)` code to inject for each subgoal one may aim at.
      preference: `(B, G)`; the subgoal of largest preference is aimed at, among those whose colour
        is not the one just visited; -inf rules a subgoal out.
      first_colour: `(G,)` colour that a subgoal visits first.
      after_visits: `()` number of visits after which the code is injected, 0 for the first step.
      enabled: `()` bool; False only chooses the target and controls nothing.
    """
    batch_size = codes.shape[0]

    def call(method, *inputs):
        return metacontroller.apply(metacontroller_params, *inputs, method=method)

    def step(memory: _Injection, residual: chex.Array, context: StepContext):
        now = (context.num_visits >= after_visits) & ~memory.injected
        allowed = jnp.asarray(first_colour) != context.last_visit[:, None]
        target = jnp.argmax(jnp.where(allowed, preference, -jnp.inf), axis=1)
        target = jnp.where(now, target, memory.target)
        switch = call("switch", residual, memory.history, memory.code) >= SWITCH_THRESHOLD
        held = (now | (memory.held & ~switch)) & enabled
        chosen = jnp.take_along_axis(codes, jnp.maximum(target, 0)[:, None, None], axis=1)[:, 0]
        code = jnp.where(now[:, None], chosen, memory.code)
        code = jnp.where(held[:, None], code, 0.0)
        history = call("history_step", residual, memory.history)
        controlled = jnp.where(held[:, None], call("control", residual, code), residual)
        memory = _Injection(history, code, held, memory.injected | now, target)
        return memory, controlled, {"target": target, "held": held}

    start = _Injection(
        history=metacontroller.initial_history(batch_size),
        code=jnp.zeros((batch_size, codes.shape[-1])),
        held=jnp.zeros(batch_size, bool),
        injected=jnp.zeros(batch_size, bool),
        target=jnp.full(batch_size, -1),
    )
    return Control(layer, start, step)


def nth_visit(visit: chex.Array, n: chex.Array) -> chex.Array:
    """Colour of the `n`-th visit (from 1) of each episode: `(N, T)` to `(N,)`, -1 if none."""
    is_nth = (jnp.cumsum(visit >= 0, axis=1) == n) & (visit >= 0)
    return jnp.max(jnp.where(is_nth, visit, NO_COLOUR), axis=1)


def inject_codes(
    env: World,
    base: BaseModel,
    base_params: dict,
    metacontroller: Metacontroller,
    metacontroller_params: dict,
    layer: int,
    bank: CodeBank,
    key: chex.PRNGKey,
    num_episodes: int,
    after_visits: chex.Array | int = 0,
    batch_size: int = 256,
) -> dict[str, chex.Array]:
    """Where episodes go next once a code has been injected, against the two controls.

    Until the injection, and after the gate has asked for another code, the base model acts alone.
    All arms start from the same states, aim at the same targets and use the same random numbers.

    Args:
      env: the world; runs free of any task, see `analysis.rollout`.
      base: the base model.
      base_params: its parameters.
      metacontroller: its gate and decoder are used.
      metacontroller_params: its parameters.
      layer: residual stream that is controlled.
      bank: codes to inject, see `collect_codes`.
      key: randomness.
      num_episodes: episodes per arm.
      after_visits: `()` number of visits after which a code is injected, 0 for the start.
      batch_size: episodes in lock-step.

    Returns:
      For each of `ARMS`, `(O + 1, G, O + 1)` float32 counts of episodes by colour visited last
      before the injection, subgoal aimed at, and colour visited next; index `O` stands for none.
      Episodes that never came to an injection are left out.
    """
    num_subgoals, num_colours = env.task_set.num_subgoals, env.config.num_colours
    first_colour = first_colours(env)
    batch_size = min(batch_size, num_episodes)
    num_batches = -(-num_episodes // batch_size)

    def run(key):
        reset_key, code_key, prior_key, target_key, run_key = jax.random.split(key, 5)
        state = reset_batch(env, reset_key, env.post_training_task, batch_size)
        layout = env.layout_fingerprint(jax.vmap(env.observe)(state))
        codes, found = choose_codes(bank, layout, num_subgoals, code_key)
        preference = jax.random.uniform(target_key, found.shape)
        preference = jnp.where(found, preference, -jnp.inf)
        prior = jax.random.normal(prior_key, codes.shape)

        def run_arm(arm):
            control = injection_control(
                metacontroller,
                metacontroller_params,
                layer,
                codes=arm[0],
                preference=preference,
                first_colour=first_colour,
                after_visits=after_visits,
                enabled=arm[1],
            )
            episodes = rollout(env, base, base_params, state, run_key, control, free_running=True)
            before = nth_visit(episodes.visit, after_visits)
            after = nth_visit(episodes.visit, after_visits + 1)
            target = jnp.where(jnp.any(found, axis=1), episodes.record["target"][:, -1], -1)
            return jnp.einsum(
                "ni,nj,nk->ijk",
                jax.nn.one_hot(before % (num_colours + 1), num_colours + 1),
                jax.nn.one_hot(target, num_subgoals),
                jax.nn.one_hot(after % (num_colours + 1), num_colours + 1),
            )

        # One compiled program plays the arms one after the other.
        return jax.lax.map(run_arm, (jnp.stack([codes, prior, codes]), jnp.array(_ENABLED)))

    counts = jax.lax.map(run, jax.random.split(key, num_batches))
    return dict(zip(ARMS, jnp.sum(counts, axis=0), strict=True))


def injection_metrics(
    counts: dict[str, chex.Array], first_colour: chex.Array, unseen: set[tuple[int, int]]
) -> dict[str, float]:
    """How often the colour aimed at is the next one visited.

    Args:
      counts: from `inject_codes`.
      first_colour: `(G,)` from `first_colours`.
      unseen: transitions that the base model's training data never hold.

    Returns:
      `reach_<arm>` for each arm, `reach_gain`: injected over uncontrolled; `reach_unseen_<arm>` the
      same where colour before and colour aimed at make an unseen transition (NaN if none did).
    """
    subgoals = np.arange(len(first_colour))
    num_colours = next(iter(counts.values())).shape[0] - 1
    is_unseen = np.zeros((num_colours + 1, len(subgoals)), bool)
    for before, after in unseen:
        is_unseen[before] |= np.asarray(first_colour) == after
    metrics = {}
    for name, chosen in (("reach", np.ones_like(is_unseen)), ("reach_unseen", is_unseen)):
        for arm in ARMS:
            table = np.asarray(counts[arm]) * chosen[..., None]
            total = table.sum()
            hits = table[:, subgoals, np.asarray(first_colour)].sum()
            metrics[f"{name}_{arm}"] = float(hits / total) if total else float("nan")
    uncontrolled = max(metrics["reach_uncontrolled"], 1e-9)
    metrics["reach_gain"] = metrics["reach_injected"] / uncontrolled
    return metrics
