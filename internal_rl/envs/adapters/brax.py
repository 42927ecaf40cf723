"""A world as a `brax.envs.Env`."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from internal_rl.envs.adapters.episode import advance, start
from internal_rl.extras import needs_extra
from internal_rl.types import World

with needs_extra("ant", "brax's view of a world"):
    from internal_rl.envs.physics import quiet_import

    with quiet_import():
        from brax.envs.base import Env, State

BACKEND = "internal_rl"


class BraxEnv(Env):
    """A world as a `brax.envs.Env`; every reset draws one of its tasks.

    As everywhere in brax, `done` does not know of a time limit: it says that an episode has ended
    by itself. What adds the limit, and in `info["truncation"]` tells the two apart, is
    `brax.envs.training.wrap(env, episode_length=world.time_limit)` or the same argument of brax's
    trainers.

    The state's `pipeline_state` is an `episode.Episode`, its metrics are `success` and, where the
    world tells progress, the `progress` of the step: brax adds both up over an episode.
    Observations are float32. brax's policies give real numbers: where the world's actions are `n`
    whole numbers, an action is `(n,)` and the largest number says which.

    Attributes:
      world: the world.
      tasks: a pytree of arrays with a leading axis.
    """

    def __init__(self, world: World, tasks: Any = None):
        """Wraps a world.

        Args:
          world: the world.
          tasks: of which every episode draws one, such as `world.pretraining_tasks`; None for
            `world.post_training_task` alone.
        """
        if tasks is None:
            tasks = jax.tree.map(lambda x: jnp.asarray(x)[None], world.post_training_task)
        self.world = world
        self.tasks = tasks

    def draw(self, rng: chex.PRNGKey) -> tuple[chex.PRNGKey, Any]:
        """A key for the reset of the world, and the task of the episode."""
        task_key, reset_key = jax.random.split(rng)
        num_tasks = len(jax.tree.leaves(self.tasks)[0])
        index = jax.random.randint(task_key, (), 0, num_tasks, jnp.int32)
        return reset_key, jax.tree.map(lambda x: jnp.asarray(x)[index], self.tasks)

    def reset(self, rng: chex.PRNGKey) -> State:
        """Starts an episode."""
        key, task = self.draw(rng)
        episode = start(self.world, key, task)
        zero = jnp.float32(0.0)
        names = ("success",) if episode.shown.progress is None else ("success", "progress")
        return State(
            pipeline_state=episode,
            obs=episode.shown.observation.astype(jnp.float32),
            reward=zero,
            done=zero,
            metrics=dict.fromkeys(names, zero),
        )

    def step(self, state: State, action: chex.Array) -> State:
        """Takes one action."""
        if self.world.action_spec.discrete:
            action = jnp.argmax(action, axis=-1)
        action = action.astype(self.world.action_spec.dtype)
        before = state.pipeline_state
        episode = advance(self.world, before, action)
        shown = episode.shown
        metrics = {"success": episode.success.astype(int) - before.success.astype(int)}
        if shown.progress is not None:
            metrics["progress"] = shown.progress - before.shown.progress
        return state.replace(
            pipeline_state=episode,
            obs=shown.observation.astype(jnp.float32),
            reward=shown.reward,
            done=episode.terminated.astype(jnp.float32),
            metrics={name: x.astype(jnp.float32) for name, x in metrics.items()},
        )

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        return self.world.observation_spec.size

    @property
    def action_size(self) -> int:
        """Number of actions, or of the numbers of a continuous one."""
        return self.world.action_spec.size

    @property
    def backend(self) -> str:
        """brax's physics are not used."""
        return BACKEND
