"""Episodes of the ant's expert: `D` from sampled actions, the cleaner `D*` from mean actions.

Only successful episodes are kept. An episode of `T` control steps has `T + 1` tokens, the last of
which holds the terminal observation and no target.
"""

from collections.abc import Callable, Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.envs.ant import AntWorld
from internal_rl.envs.tasks import Task, task_array
from internal_rl.experts import ant_ppo
from internal_rl.experts.ant_expert import AntExpertConfig
from internal_rl.experts.shards import Episode

# Rounds of episodes without a single success after which the expert counts as no expert.
MAX_FRUITLESS_ROUNDS = 20


@struct.dataclass
class Recording:
    """Episodes from their start to the time limit, `(B, ...)`.

    Attributes:
      observation: `(B, T + 1, d)`; the last one repeats once the episode has ended.
      action: `(B, T, d_a)` as applied.
      subgoal: `(B, T)` int32 id of the subgoal that the expert walks to.
      length: `(B,)` int32 control steps.
      success: `(B,)` bool.
    """

    observation: chex.Array
    action: chex.Array
    subgoal: chex.Array
    length: chex.Array
    success: chex.Array


def make_recorder(
    world: AntWorld, config: AntExpertConfig, tasks: tuple[Task, ...], deterministic: bool
) -> Callable[[tuple, chex.PRNGKey], Recording]:
    """`record(params, keys (B,)) -> Recording`: random ones of `tasks` in random layouts."""
    subgoals = tuple(map(world.task_set.subgoal_ids, tasks))
    subgoals = task_array(subgoals, max(map(len, subgoals)))
    tasks = task_array(tasks, max(map(len, tasks)))

    def record(params, keys):
        played = ant_ppo.play(world, config, params, tasks, keys, deterministic=deterministic)
        last = played.following[jnp.arange(len(keys)), played.length - 1]
        # Behind the end of an episode the last observation repeats, which makes it one step longer.
        longer = jnp.concatenate([played.observation, jnp.zeros_like(last)[:, None]], axis=1)
        ran = jnp.arange(longer.shape[1]) < played.length[:, None]
        return Recording(
            observation=jnp.where(ran[..., None], longer, last[:, None]),
            action=played.action,
            subgoal=jnp.take_along_axis(jnp.asarray(subgoals)[played.task], played.before, axis=1),
            length=played.length,
            success=played.success,
        )

    return jax.jit(record)


def episode_tokens(recording: Recording, index: int) -> Episode:
    """One successful episode of a recording on the host, as arrays over its `T + 1` tokens."""
    length = int(recording.length[index])
    action = np.zeros((length + 1, recording.action.shape[-1]), np.float32)
    action[:-1] = recording.action[index, :length]
    subgoal = np.asarray(recording.subgoal[index, :length])
    return {
        "observation": np.asarray(recording.observation[index, : length + 1]),
        "action": action,
        "subgoal": np.append(subgoal, subgoal[-1]).astype(np.int32),
        "mask": np.arange(length + 1) < length,
    }


def successful_episodes(
    record: Callable[[tuple, chex.PRNGKey], Recording],
    params: tuple,
    key: chex.PRNGKey,
    *,
    num_episodes: int,
    batch_size: int,
) -> Iterator[Episode]:
    """Plays `batch_size` episodes at a time until so many have succeeded.

    Raises:
      ValueError: if none succeeds for long.
    """
    found = fruitless = 0
    for number in range(1_000_000):
        keys = jax.random.split(jax.random.fold_in(key, number), batch_size)
        recording = jax.device_get(record(params, keys))
        successes = np.flatnonzero(recording.success)
        fruitless = 0 if len(successes) else fruitless + 1
        if fruitless == MAX_FRUITLESS_ROUNDS:
            raise ValueError(
                f"the expert failed in {fruitless * batch_size} episodes in a row, allowed is one "
                "that has been trained: experiments.expert"
            )
        for index in successes:
            yield episode_tokens(recording, index)
            found += 1
            if found == num_episodes:
                return
