"""Episodes that know what ended them: the task (`terminated`) or the time limit (`truncated`).

A world only says that an episode is done. One that is done before `time_limit` steps was ended by
its task or by a failure. Of one that is done with the last step allowed the world does not say
whether that step would have ended it anyway; it counts as terminated if in that very step

- a reward was paid, or
- a place was visited without progress, where the world tells both,

unless the same went unpunished before in this episode, as in worlds that pay at every step. Success
and visits out of order are thus told exactly. A failure that none of these shows, such as a fall
with the very last step, counts as truncated.
"""

from typing import Any

import chex
import jax.numpy as jnp
from flax import struct

from internal_rl.types import Timestep, World


@struct.dataclass
class Episode:
    """An episode so far.

    Attributes:
      state: of the world.
      shown: what the world showed last.
      time: `()` int32 steps taken.
      returns: `()` float32 sum of rewards.
      terminated: `()` bool, it has ended by itself.
      truncated: `()` bool, it has ended at the time limit alone.
      harmless: `(2,)` bool, a reward and a visit without progress came without an end.
    """

    state: Any
    shown: Timestep
    time: chex.Array
    returns: chex.Array
    terminated: chex.Array
    truncated: chex.Array
    harmless: chex.Array

    @property
    def success(self) -> chex.Array:
        """`()` bool, the rewards sum to more than 0."""
        return self.returns > 0


def start(world: World, key: chex.PRNGKey, task: Any) -> Episode:
    """Starts an episode of `task`."""
    state, shown = world.reset(key, task)
    false = jnp.bool_(False)
    return Episode(state, shown, jnp.int32(0), jnp.float32(0), false, false, jnp.zeros(2, bool))


def advance(world: World, episode: Episode, action: chex.Array) -> Episode:
    """Takes one action; nothing changes in an episode that has ended."""
    state, shown = world.step(episode.state, action)
    running = ~episode.shown.done
    time = episode.time + running.astype(jnp.int32)
    ends = jnp.stack([shown.reward != 0, _strayed(episode.shown, shown)])
    by_itself = (time < world.time_limit) | jnp.any(ends & ~episode.harmless)
    ended = shown.done & running
    return Episode(
        state=state,
        shown=shown,
        time=time,
        returns=episode.returns + jnp.where(running, shown.reward, 0.0),
        terminated=episode.terminated | (ended & by_itself),
        truncated=episode.truncated | (ended & ~by_itself),
        harmless=episode.harmless | (ends & ~shown.done),
    )


def _strayed(before: Timestep, after: Timestep) -> chex.Array:
    """Whether a step visited a place without progress; False where the world does not tell."""
    if after.visit is None or after.progress is None:
        return jnp.zeros_like(after.done)
    return (after.visit >= 0) & (after.progress == before.progress)


def told(episode: Episode) -> dict[str, chex.Array]:
    """What an `info` holds: `success`, and the visit, progress and subgoal that the world tells.

    These are `types.Timestep`'s; `success` says that the rewards of the episode sum
    to more than 0.
    """
    fields = {name: getattr(episode.shown, name) for name in ("visit", "progress", "subgoal")}
    return {name: x for name, x in fields.items() if x is not None} | {"success": episode.success}
