"""The one loop in which a model acts: episodes of the base model, perhaps under a control.

Episodes run on slots that never idle (`envs.slots`). Every random number of an episode is made from
its index and its time, so that nothing depends on how many slots there are. What differs between
sampling the base model, steering it and reinforcement learning is the `Control`.
"""

from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.arguments import checked_integer, checked_names
from internal_rl.envs.slots import Slots, choose_num_slots, run_episodes
from internal_rl.models.heads import action_log_prob, mode_action, sample_action
from internal_rl.models.steered_model import SteeredModel
from internal_rl.training.mesh import my_share, num_shares
from internal_rl.types import ActionSpec, Timestep, World

NOWHERE = -1
FIELDS = ("observation", "action", "action_log_prob", "reward", "visit", "progress", "subgoal")
"""What can be kept of every step, beside what the control records."""

LAST = "last_observation"
"""What can be kept of every episode's end."""

SOLVABLE = "solvable"
"""What can be kept of every episode's start, where the world tells it."""

KEPT = (*FIELDS, LAST, SOLVABLE)
"""All that can be kept."""

SHOWN = (*(name for name in FIELDS if name != "action_log_prob"), LAST)
"""What tells an episode from its start to what the last step led to."""


@struct.dataclass
class Visits:
    """Places entered in the episodes that are running; of worlds that emit visits.

    Attributes:
      count: `(W,)` int32 how many.
      last: `(W,)` int32 the last one, `NOWHERE` before the first.
    """

    count: chex.Array
    last: chex.Array

    @staticmethod
    def none(num_episodes: int) -> "Visits":
        """Before the first step."""
        zeros = jnp.zeros(num_episodes, jnp.int32)
        return Visits(zeros, zeros + NOWHERE)

    def after(self, visit: chex.Array) -> "Visits":
        """With the places `visit (W,)` that the next step entered."""
        return Visits(self.count + (visit >= 0), jnp.where(visit >= 0, visit, self.last))


class StepContext(NamedTuple):
    """What a control may know at one step of `W` episodes, beside the residual stream.

    Attributes:
      slots: which episodes these are, and their time.
      timestep: what the worlds show before the action, `(W, ...)`.
      visits: places entered before; None in a world that does not tell.
      keys: `control.num_keys` arrays of keys `(W,)`.
      deterministic: `()` bool, take means and modes instead of sampling.
    """

    slots: Slots
    timestep: Timestep
    visits: Visits | None
    keys: list[chex.Array]
    deterministic: chex.Numeric

    @property
    def first(self) -> chex.Array:
        """`(W,)` bool: the first step of an episode; what is remembered of the last one is void."""
        return self.slots.time == 0


class Control(Protocol):
    """What happens to the residual stream while the base model acts.

    Attributes:
      num_keys: random keys that each step needs.
    """

    num_keys: int

    def init(self, model: SteeredModel, num_slots: int) -> Any:
        """What the control remembers, arrays `(W, ...)` for `W` slots."""

    def step(
        self, model: SteeredModel, memory: Any, residual: chex.Array, context: StepContext
    ) -> tuple[Any, chex.Array, dict[str, chex.Array]]:
        """New memory, controlled residuals `(W, n_e)`, and arrays `(W, ...)` to be recorded."""


@struct.dataclass
class NoControl:
    """Leaves the residual stream alone: the base model acts."""

    num_keys: int = struct.field(pytree_node=False, default=0)

    def init(self, model: SteeredModel, num_slots: int) -> tuple:
        """Nothing is remembered."""
        del model, num_slots
        return ()

    def step(self, model: SteeredModel, memory: tuple, residual: chex.Array, context: StepContext):
        """See `Control`."""
        del model, context
        return memory, residual, {}


@struct.dataclass
class Episodes:
    """`B` episodes of up to `T` steps; steps after an episode's end hold zeros.

    What was not kept, or what the world does not tell, is None.

    Attributes:
      active: `(B, T)` bool, the episode was running at this step.
      observation: `(B, T, d)` before the action.
      action: `(B, T)` or `(B, T, d_a)`.
      action_log_prob: `(B, T)` log-probability of the action when it was drawn, nats.
      reward: `(B, T)` reward that followed.
      visit: `(B, T)` int32 place that the step entered, `NOWHERE` for none.
      progress: `(B, T)` int32 how much of the task was done after the step.
      subgoal: `(B, T)` int32 subgoal that the task asked for before the step; in free-running
        episodes, whose task does not go on, always the first.
      last_observation: `(B, d)` after the last step.
      solvable: `(B,)` bool, the task could be completed from the start; None in a world in which
        that is always so, and in one that does not tell.
      record: what the control recorded, by name, `(B, T, ...)`.
    """

    active: chex.Array
    observation: chex.Array | None = None
    action: chex.Array | None = None
    action_log_prob: chex.Array | None = None
    reward: chex.Array | None = None
    visit: chex.Array | None = None
    progress: chex.Array | None = None
    subgoal: chex.Array | None = None
    last_observation: chex.Array | None = None
    solvable: chex.Array | None = None
    record: dict[str, chex.Array] = struct.field(default_factory=dict)

    @property
    def returns(self) -> chex.Array:
        """`(B,)` sum of rewards."""
        return jnp.sum(self.kept("reward"), axis=1)

    @property
    def success(self) -> chex.Array:
        """`(B,)` bool, the rewards sum to more than 0."""
        return self.returns > 0

    @property
    def solvable_success(self) -> chex.Array:
        """`()` share of successes among the episodes that could have one, NaN without any."""
        count = jnp.sum(self.solvable, dtype=jnp.float32)
        return jnp.sum(self.success & self.solvable, dtype=jnp.float32) / count

    @property
    def length(self) -> chex.Array:
        """`(B,)` int32 steps."""
        return jnp.sum(self.active, axis=1)

    @property
    def furthest(self) -> chex.Array:
        """`(B,)` int32 most progress at any step."""
        return jnp.max(self.kept("progress") * self.active, axis=1)

    def kept(self, name: str) -> chex.Array:
        """One of the attributes that may be None.

        Raises:
          ValueError: it is.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(
                f"these episodes have no {name}, allowed are those of a world that tells it, with"
                f" '{name}' in `keep`"
            )
        return value


def start_worlds(
    world: World,
    key: chex.PRNGKey,
    task: Any,
    num_episodes: int,
    *,
    first: chex.Numeric = 0,
    out_of: int = 0,
) -> tuple:
    """`num_episodes` worlds at their start: batched states and timesteps.

    Args:
      world: the world.
      key: randomness of all starts.
      task: of all episodes.
      num_episodes: how many.
      first: number of the first one, where these are some of more.
      out_of: how many there are in all; 0 for `num_episodes`.

    Raises:
      ValueError: there are none.
    """
    num_episodes = checked_integer("num_episodes", num_episodes, 1)
    keys = jax.random.split(key, out_of or num_episodes)
    if out_of:
        keys = jax.lax.dynamic_slice_in_dim(keys, first, num_episodes)
    return jax.vmap(world.reset, (0, None))(keys, task)


def act(
    world: World,
    model: SteeredModel,
    control: Control,
    start: tuple,
    key: chex.PRNGKey,
    *,
    deterministic: chex.Numeric = False,
    free_running: bool = False,
    keep: tuple[str, ...] = ("observation", "action", "reward", "visit", "progress", "subgoal"),
    num_slots: int = 0,
    first_episode: chex.Numeric = 0,
    shared: bool = False,
) -> Episodes:
    """Runs episodes from their start to their end or the time limit.

    Args:
      world: the world.
      model: who acts.
      control: what happens to its residual stream.
      start: `B` states and timesteps, see `start_worlds`.
      key: randomness of actions and control; the same key and start play the same episodes.
      deterministic: `()` bool, take the most probable action.
      free_running: no task ends an episode, see `free_running` in `envs.world.CAPABILITIES`.
      keep: which of `FIELDS` to keep of every step, `LAST` to keep what it led to at the end, and
        `SOLVABLE`.
      num_slots: episodes that run side by side, which bounds the memory; 0 leaves the choice to
        `slots.choose_num_slots`.
      first_episode: number of the first episode, where these are some of more: random numbers are
        those of an episode's number, and so is what a control holds for each episode.
      shared: of several devices inside of `mesh.spread` each runs some, and all have all episodes.

    Raises:
      ValueError: `keep` names something else, there is no such number of slots, or tasks end all
        episodes of the world.
    """
    keep = checked_names("keep", keep, KEPT)
    num_slots = checked_integer("num_slots", num_slots, 0)
    if free_running and not hasattr(world, "step_without_task"):
        raise ValueError(
            "free_running: tasks end all episodes of this world, allowed is a world that has"
            " `step_without_task`"
        )
    num_episodes = start[1].done.shape[0]
    if shared and num_shares() > 1:
        share = my_share(num_episodes)
        episodes = act(
            world,
            model,
            control,
            jax.tree.map(lambda leaf: leaf[share.rows], start),
            key,
            deterministic=deterministic,
            free_running=free_running,
            keep=keep,
            num_slots=num_slots,
            first_episode=first_episode + share.first,
        )
        return jax.tree.map(share.together, episodes)
    num_slots = choose_num_slots(num_slots, num_episodes)
    tells_visits = start[1].visit is not None
    step_worlds = jax.vmap(world.step_without_task if free_running else world.step)

    def step(slots: Slots, state, memory):
        worlds, before, visits = state
        base_memory, control_memory = memory
        residual, base_memory = model.lower_step(
            before.observation, model.restart(base_memory, slots.forgets)
        )
        numbered = slots.replace(episode=slots.episode + first_episode)
        *control_keys, action_keys = episode_keys(key, numbered, control.num_keys + 1)
        context = StepContext(numbered, before, visits, control_keys, deterministic)
        control_memory, residual, record = control.step(model, control_memory, residual, context)
        output, base_memory = model.upper_step(residual, base_memory)
        action = choose_action(model.base.action_spec, output.action, action_keys, deterministic)
        worlds, after = step_worlds(worlds, action)
        if tells_visits:
            visits = visits.after(after.visit)
        known = {
            "observation": before.observation,
            "action": action,
            "reward": after.reward,
            "visit": after.visit,
            "progress": after.progress,
            "subgoal": before.subgoal,
        }
        if "action_log_prob" in keep:
            spec = model.base.action_spec
            known["action_log_prob"] = action_log_prob(spec, output.action, action)
        kept = {name: known[name] for name in keep if known.get(name) is not None}
        state = (worlds, after, visits)
        return state, (base_memory, control_memory), after.done, {**kept, "record": record}

    records, length = run_episodes(
        step,
        (*start, Visits.none(num_episodes) if tells_visits else None),
        (model.initial_state(num_slots), control.init(model, num_slots)),
        num_slots,
        world.time_limit,
        at_end=(lambda state: {LAST: state[1].observation}) if LAST in keep else None,
    )
    if SOLVABLE in keep and hasattr(world, "solvable"):
        records[SOLVABLE] = jax.vmap(world.solvable)(start[0])
    return Episodes(active=jnp.arange(world.time_limit) < length[:, None], **records)


def play(
    world: World,
    model: SteeredModel,
    control: Control,
    key: chex.PRNGKey,
    num_episodes: int,
    *,
    task: Any = None,
    first_episode: chex.Numeric = 0,
    out_of: int = 0,
    **options,
) -> Episodes:
    """`act` on fresh worlds.

    Args:
      world: the world.
      model: who acts.
      control: what happens to its residual stream.
      key: randomness of starts, actions and control.
      num_episodes: number of episodes `B`.
      task: task of all episodes; None for the post-training task.
      first_episode: number of the first one, where these are some of more.
      out_of: how many there are in all; 0 for `num_episodes`.
      **options: those of `act`.
    """
    task = world.post_training_task if task is None else task
    start_key, step_key = jax.random.split(key)
    start = start_worlds(world, start_key, task, num_episodes, first=first_episode, out_of=out_of)
    return act(world, model, control, start, step_key, first_episode=first_episode, **options)


def episode_keys(key: chex.PRNGKey, slots: Slots, num_uses: int) -> list[chex.Array]:
    """Keys `(W,)` for each of `num_uses` uses, made from episode and time alone."""
    keys = jax.vmap(
        lambda episode, time: jax.random.split(
            jax.random.fold_in(jax.random.fold_in(key, episode), time), num_uses
        )
    )(slots.episode, slots.time)
    return [keys[:, i] for i in range(num_uses)]


def choose_action(
    spec: ActionSpec, parameters: chex.Array, keys: chex.Array, deterministic: chex.Numeric
) -> chex.Array:
    """One action per row: drawn with the row's own key or, `deterministic`, the most probable."""
    drawn = jax.vmap(lambda row, key: sample_action(spec, row, key))(parameters, keys)
    return jnp.where(deterministic, mode_action(spec, parameters), drawn)
