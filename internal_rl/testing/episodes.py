"""Checks of worlds on episodes of random actions."""

from collections.abc import Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from internal_rl.testing.trees import as_numpy, equal_leaves, first_line, named_leaves
from internal_rl.types import ActionSpec, Timestep, World

NUM_EPISODES = 8
# Steps that are played at most, and steps in which tasks are compared.
MAX_STEPS, COMPARED_STEPS = 2_000, 32
NUM_COMPARED_EPISODES, NUM_COMPARED_TASKS = 32, 3
# Random actions go beyond the bounds, as those of a Gaussian policy do.
BEYOND = 1.5


def random_actions(spec: ActionSpec, key: chex.PRNGKey, shape: tuple[int, ...]) -> chex.Array:
    """Actions `(*shape,)` or `(*shape, d_a)`."""
    if spec.discrete:
        return jax.random.randint(key, shape, 0, spec.size, spec.dtype)
    middle, half = (spec.high + spec.low) / 2, (spec.high - spec.low) / 2
    low, high = middle - BEYOND * half, middle + BEYOND * half
    return jax.random.uniform(key, (*shape, spec.size), spec.dtype, low, high)


def episode_faults(world: World, key: chex.PRNGKey) -> list[str]:
    """What happens in a few episodes, until a little after their time limit."""
    num_steps = min(world.time_limit + 3, MAX_STEPS)
    if num_steps <= world.time_limit:
        logging.warning(
            "time_limit: %d steps, of which %d are played: whether episodes end there, and what"
            " comes behind, is not tried; make the world with a lower limit for that",
            *(world.time_limit, num_steps),
        )
    try:
        start, play = as_numpy(jax.jit(lambda key: _play(world, key, num_steps))(key))
    except Exception as error:
        return [f"episodes cannot be played: {first_line(error)}"]
    _tell_rewards(play)
    return [
        *_number_faults(world, start, play),
        *_time_limit_faults(world, play),
        *_finished_faults(play),
        *_told_faults(world, start, play),
    ]


def _play(world: World, key: chex.PRNGKey, num_steps: int):
    """Timesteps at the start, `(N, ...)`, and what is to be known of every step, `(T, N, ...)`."""
    reset_key, action_key = jax.random.split(key)
    keys = jax.random.split(reset_key, NUM_EPISODES)
    start = jax.vmap(world.reset, (0, None))(keys, world.post_training_task)

    def step(carry, key):
        state, before = carry
        actions = random_actions(world.action_spec, key, (NUM_EPISODES,))
        now, after = jax.vmap(world.step)(state, actions)
        seen = {
            "ended": before.done,
            "before": before.replace(observation=None),
            "after": after.replace(observation=None),
            "kept": equal_leaves(state, now, lead=1),
            "shown": equal_leaves(before.observation, after.observation, lead=1),
            "numbers": _numbers(after),
        }
        return (now, after), seen

    _, play = jax.lax.scan(step, start, jax.random.split(action_key, num_steps))
    timestep = start[1]
    return {"timestep": timestep.replace(observation=None), "numbers": _numbers(timestep)}, play


def _numbers(timestep: Timestep) -> dict[str, chex.Array]:
    """What is to be known of observations `(N, d)`: lowest, highest, all finite, all 0 or 1."""
    x = timestep.observation
    return {
        "lowest": jnp.min(x, axis=1),
        "highest": jnp.max(x, axis=1),
        "finite": jnp.all(jnp.isfinite(x), axis=1) & jnp.isfinite(timestep.reward),
        "binary": jnp.all((x == 0) | (x == 1), axis=1),
    }


def _number_faults(world: World, start, play) -> Iterator[str]:
    for name, numbers in (("reset", start["numbers"]), ("step", play["numbers"])):
        if not numbers["finite"].all():
            yield f"{name}: observation or reward is not finite, allowed are finite numbers"
        elif world.observation_spec.head == "bernoulli" and not numbers["binary"].all():
            yield (
                f"{name}: observation holds numbers from {numbers['lowest'].min()} to"
                f" {numbers['highest'].max()}, allowed are 0 and 1 with the head bernoulli"
            )


def _tell_rewards(play) -> None:
    """Warns of rewards that do not say whether the task was done."""
    running = ~play["ended"]
    rewards, goes_on = play["after"].reward, running & ~play["after"].done
    for what, odd in (
        ("less than 0", rewards[running & (rewards < 0)]),
        ("before the episode ends", rewards[goes_on & (rewards != 0)]),
    ):
        if odd.size:
            logging.warning(
                "step: pays %g, %s; an episode counts as a success where its rewards sum to more"
                " than 0, best is 1 for the step that completes the task and 0 otherwise",
                odd[0],
                what,
            )


def _time_limit_faults(world: World, play) -> Iterator[str]:
    if world.time_limit <= len(play["ended"]):
        running = int(np.sum(~play["after"].done[world.time_limit - 1]))
        if running:
            yield (
                f"step: {running} of {NUM_EPISODES} episodes are not done after"
                f" time_limit = {world.time_limit} steps, allowed is none"
            )


def _finished_faults(play) -> Iterator[str]:
    """What still happens in episodes that had ended before."""
    ended, before, after = play["ended"], play["before"], play["after"]
    for name, kept in named_leaves(play["kept"], "state"):
        if not kept[ended].all():
            yield f"step: a finished episode changes {name}, allowed is none to change"
    if not play["shown"][ended].all():
        yield "step: a finished episode shows another observation, allowed is the last one"
    if not after.done[ended].all():
        yield "step: a finished episode is no longer done, allowed is that it stays so"
    paid = after.reward[ended]
    if paid.any():
        yield f"step: a finished episode pays {paid[paid != 0][0]}, allowed is 0"
    if after.visit is not None and (after.visit[ended] != -1).any():
        yield "step: a finished episode visits a place, allowed is -1"
    for name in ("progress", "subgoal"):
        values = [getattr(timestep, name) for timestep in (before, after)]
        if values[0] is not None and (values[0][ended] != values[1][ended]).any():
            yield f"step: a finished episode changes {name}, allowed is none to change"


def _told_faults(world: World, start, play) -> Iterator[str]:
    """Visits, progress and subgoals, where they are told."""
    first, before, after = start["timestep"], play["before"], play["after"]
    if first.done.any():
        yield "reset: done is True, allowed is False"
    if (first.reward != 0).any():
        yield "reset: reward is not 0, allowed is 0"
    if first.visit is not None and (first.visit != -1).any():
        yield "reset: visit is not -1, allowed is -1"
    for name, count in (("visit", "num_places"), ("subgoal", "num_subgoals")):
        if getattr(first, name) is None or not hasattr(world, count):
            continue
        told = np.concatenate([getattr(first, name)[None], getattr(after, name)])
        outside = told[(told < -1) | (told >= getattr(world, count))]
        if outside.size:
            yield (
                f"step: {name} is {outside[0]}, allowed are -1 and 0 to {count} - 1 ="
                f" {getattr(world, count) - 1}"
            )
    if first.progress is not None:
        if (first.progress < 0).any():
            yield f"reset: progress is {first.progress.min()}, allowed is 0 or more"
        if (after.progress < before.progress).any():
            yield "step: progress becomes less, allowed is that it grows or stays"


def task_faults(world: World, key: chex.PRNGKey) -> list[str]:
    """Whether observations tell the task; of worlds that have `pretraining_tasks`, as the log says.

    The same keys and actions are tried with another task. A start may have to be drawn again where
    a task cannot be done in it; that no start at all is the same tells the task.
    """
    tasks = getattr(world, "pretraining_tasks", None)
    if tasks is None:
        logging.info(
            "pretraining_tasks: not there, so that whether observations tell the task is not tried"
        )
        return []
    num_tasks = len(jax.tree.leaves(tasks)[0])
    compare = jax.jit(lambda key, task: _compare(world, key, task))
    other_starts, told_later = [], False
    for index in np.linspace(0, num_tasks - 1, min(num_tasks, NUM_COMPARED_TASKS)).astype(int):
        task = jax.tree.map(lambda x, i=index: x[i], tasks)
        if _same(task, world.post_training_task):
            continue
        try:
            start, later = as_numpy(compare(key, task))
        except Exception as error:
            return [f"pretraining_tasks: episodes cannot be played: {first_line(error)}"]
        other_starts.append(start.mean())
        told_later |= bool(later.any())
    if max(other_starts, default=0.0) == 1.0:
        return [
            "reset: observation is another with every key if the task is another, allowed is that"
            " it does not tell the task"
        ]
    if told_later:
        return [
            "step: observation is another if the task is another, after the same start and actions,"
            " allowed is that it does not tell the task"
        ]
    return []


def _same(task, other) -> bool:
    pairs = zip(jax.tree.leaves(task), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def _compare(world: World, key: chex.PRNGKey, task):
    """Whether two tasks show another start `(N,)`, or something else before one ends `(T, N)`."""
    reset_key, action_key = jax.random.split(key)
    keys = jax.random.split(reset_key, NUM_COMPARED_EPISODES)
    start = [jax.vmap(world.reset, (0, None))(keys, t) for t in (world.post_training_task, task)]

    def differs(results):
        return ~equal_leaves(*(timestep.observation for _, timestep in results), lead=1)

    other_start = differs(start)

    def step(carry, key):
        results, comparable = carry
        actions = random_actions(world.action_spec, key, (NUM_COMPARED_EPISODES,))
        results = [jax.vmap(world.step)(state, actions) for state, _ in results]
        comparable &= ~(results[0][1].done | results[1][1].done)
        return (results, comparable), differs(results) & comparable

    step_keys = jax.random.split(action_key, min(world.time_limit, COMPARED_STEPS))
    _, later = jax.lax.scan(step, (start, ~other_start), step_keys)
    return other_start, later
