"""Batches of episodes in which the frozen base model acts, perhaps under a controller.

All episodes of a batch run in lock-step through the base model's one-step form. What happens to the
residual stream between its two halves is a `Control`; without one the base model acts alone.

In a *free-running* rollout the task has no say: after every step the episode is put back to
"running, nothing visited yet", so that it goes on to the time limit whatever colours are entered
(but not after a fall). Movement and observation do not depend on the task, so this is the same
world that only records.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.envs import World, WorldState
from internal_rl.models import heads
from internal_rl.models.base_model import BaseModel

NO_COLOUR = -1


@struct.dataclass
class StepContext:
    """What a control may know at one step, besides the residual stream.

    Attributes:
      state: state of the worlds before the action, batched.
      time: `()` int32 steps taken.
      num_visits: `(B,)` int32 colours entered so far.
      last_visit: `(B,)` int32 last colour entered, -1 for none.
      key: randomness of this step.
    """

    state: WorldState
    time: chex.Array
    num_visits: chex.Array
    last_visit: chex.Array
    key: chex.PRNGKey


class Control(NamedTuple):
    """A way to change the residual stream while the base model acts.

    Attributes:
      layer: the residual stream `e_{t,l}` to change.
      carry: initial memory of the control, a pytree.
      step: `(carry, e (B, n_e), StepContext) -> (carry, e' (B, n_e), record)`; the record is a
        pytree of `(B, ...)` arrays that the rollout keeps for every step.
    """

    layer: int
    carry: Any
    step: Callable[[Any, chex.Array, StepContext], tuple[Any, chex.Array, Any]]


@struct.dataclass
class EpisodeBatch:
    """What happened in `N` episodes of up to `T` steps.

    Attributes:
      success: `(N,)` bool, the task was completed (never in a free-running rollout).
      visit: `(N, T)` int32 colour entered by the step, -1 for none.
      action: `(N, T)` int32 or `(N, T, d_a)`.
      mask: `(N, T)` bool, the episode was still running before the step.
      progress: `(N,)` int32 colours visited in the order of the task.
      record: what the control recorded, `(N, T, ...)` leaves; None without a control.
      observation: `(N, T, d)` before the step; None unless asked for.
    """

    success: chex.Array
    visit: chex.Array
    action: chex.Array
    mask: chex.Array
    progress: chex.Array
    record: Any
    observation: chex.Array | None


def reset_batch(env: World, key: chex.PRNGKey, task: chex.Array, batch_size: int) -> WorldState:
    """Fresh states of `batch_size` worlds, all with the same task `(K,)`."""
    keys = jax.random.split(key, batch_size)
    state, _ = jax.vmap(env.reset, in_axes=(0, None))(keys, jnp.asarray(task))
    return state


def entered_colour(state: WorldState, cell_before: chex.Array) -> chex.Array:
    """Colour that was entered from another cell, `(B,)` int32, -1 for none."""
    entered = (state.objects == state.cell[:, None]) & (state.cell != cell_before)[:, None]
    return jnp.where(jnp.any(entered, axis=1), jnp.argmax(entered, axis=1), NO_COLOUR)


def rollout(
    env: World,
    base: BaseModel,
    base_params: dict,
    state: WorldState,
    key: chex.PRNGKey,
    control: Control | None = None,
    *,
    free_running: bool = False,
    keep_observations: bool = False,
) -> EpisodeBatch:
    """Runs one batch of episodes to their end or the time limit.

    Args:
      env: the world.
      base: the base model; its `max_length` holds an episode.
      base_params: its parameters.
      state: batched states to start from, see `reset_batch`.
      key: randomness of actions and control.
      control: what happens to the residual stream; None leaves it alone.
      free_running: record visits and let no episode end before the time limit.
      keep_observations: return the observations too.

    Returns:
      What happened, `N` the size of the batch.
    """
    layer = control.layer if control else 0
    base.check_layer(layer)
    batch_size = state.cell.shape[0]
    observe, step_env = jax.vmap(env.observe), jax.vmap(env.step)

    def step(carry, time):
        state, model_state, memory, num_visits, last_visit = carry
        action_key, control_key = jax.random.split(jax.random.fold_in(key, time))
        observation = observe(state)
        residual, model_state = base.apply(
            base_params, observation, model_state, layer, method="lower_step"
        )
        record = None
        if control:
            context = StepContext(state, time, num_visits, last_visit, control_key)
            memory, residual, record = control.step(memory, residual, context)
        output, model_state = base.apply(
            base_params, residual, model_state, layer, method="upper_step"
        )
        action = heads.sample_action(base.action_head, output.action, action_key)
        mask = ~state.done
        new_state, _ = step_env(state, action)
        visit = entered_colour(new_state, state.cell)
        if free_running:
            new_state = jax.vmap(env.without_task)(new_state)
        outputs = (visit, action, mask, record, observation if keep_observations else None)
        num_visits = num_visits + (visit >= 0)
        last_visit = jnp.where(visit >= 0, visit, last_visit)
        return (new_state, model_state, memory, num_visits, last_visit), outputs

    carry = (
        state,
        base.initial_state(batch_size),
        control.carry if control else None,
        jnp.zeros(batch_size, jnp.int32),
        jnp.full(batch_size, NO_COLOUR, jnp.int32),
    )
    (state, *_), outputs = jax.lax.scan(step, carry, jnp.arange(env.time_limit))
    steps = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), outputs)
    visit, action, mask, record, observation = steps
    return EpisodeBatch(state.success, visit, action, mask, state.progress, record, observation)


def in_batches(
    run: Callable[[chex.PRNGKey], chex.ArrayTree], key: chex.PRNGKey, num: int, batch_size: int
) -> chex.ArrayTree:
    """Runs `run(key)`, which returns leaves of `(batch_size, ...)`, until `num` rows are there.

    Returns:
      The tree with leaves of `(num, ...)`.
    """
    keys = jax.random.split(key, -(-num // batch_size))
    batches = jax.lax.map(run, keys)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num], batches)


def sample_base(
    env: World,
    base: BaseModel,
    base_params: dict,
    key: chex.PRNGKey,
    task: chex.Array,
    num_episodes: int,
    *,
    free_running: bool = False,
    batch_size: int = 256,
) -> EpisodeBatch:
    """Episodes of the uncontrolled base model.

    Args:
      env: the world.
      base: the base model.
      base_params: its parameters.
      key: randomness.
      task: `(K,)` task that rules the episodes.
      num_episodes: number of episodes `N`.
      free_running: let no episode end before the time limit; `task` then only shapes the layouts.
      batch_size: episodes in lock-step.
    """
    batch_size = min(batch_size, num_episodes)

    def run(key):
        reset_key, run_key = jax.random.split(key)
        state = reset_batch(env, reset_key, task, batch_size)
        return rollout(env, base, base_params, state, run_key, free_running=free_running)

    return in_batches(run, key, num_episodes, batch_size)


def transition_counts(visit: chex.Array, num_colours: int, max_visits: int) -> chex.Array:
    """How often colour `c'` was the next one visited after colour `c`.

    Args:
      visit: `(N, T)` int32 colour entered by each step, -1 for none.
      num_colours: `O`.
      max_visits: only the first `max_visits` visits of an episode count. The base model has never
        seen a trajectory go on after its task, so what it does later says little about it.

    Returns:
      `(O, O)` float32 counts; entering the same colour again counts on the diagonal.
    """

    def step(last, inputs):
        colour, counted = inputs
        here = jax.nn.one_hot(jnp.where(counted, colour, NO_COLOUR), num_colours)
        counts = jnp.einsum("bi,bj->ij", jax.nn.one_hot(last, num_colours), here)
        return jnp.where(colour >= 0, colour, last), counts

    counted = jnp.cumsum(visit >= 0, axis=1) <= max_visits
    start = jnp.full(visit.shape[0], NO_COLOUR)
    _, counts = jax.lax.scan(step, start, (visit.T, counted.T))
    return jnp.sum(counts, axis=0)


def unseen_transition_rate(
    counts: chex.Array, unseen: set[tuple[int, int]]
) -> dict[str, chex.Array]:
    """How often the base model takes a transition that its training data never hold.

    Args:
      counts: `(O, O)` from `transition_counts`.
      unseen: transitions `(c, c')`, see `envs.tasks.unseen_transitions`.

    Returns:
      `unseen_transition_rate`: of the visits of another colour that follow a colour with an unseen
      transition, the share that takes it; `unseen_transition_rate_overall`: the same over all
      transitions between different colours; `transitions`: number of these.
    """
    colours = jnp.arange(counts.shape[0])
    between = counts * (colours[:, None] != colours)
    pairs = jnp.array(sorted(unseen), jnp.int32).reshape(-1, 2)
    taken = jnp.sum(between[pairs[:, 0], pairs[:, 1]])
    from_sources = jnp.sum(between[jnp.unique(pairs[:, 0])])
    return {
        "unseen_transition_rate": taken / jnp.maximum(from_sources, 1.0),
        "unseen_transition_rate_overall": taken / jnp.maximum(jnp.sum(between), 1.0),
        "transitions": jnp.sum(between),
    }
