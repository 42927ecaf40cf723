"""Which world and which task an adapter is asked for."""

from typing import Any

import jax

from internal_rl.envs.world import make, world_entry
from internal_rl.types import World


def find_world(world: World | str, preset: str = "paper") -> World:
    """A world itself, or a registered one by name and preset.

    Asking again gives the same object, so that environments of one world share their programs.

    Raises:
      ValueError: for an unknown name or preset.
      ConfigError: packages that the world needs are not installed.
    """
    if not isinstance(world, str):
        return world
    entry = world_entry(world)
    if preset not in entry.presets:
        # The error names what is allowed.
        return make(world, preset)
    return entry.shared(entry.presets[preset])


def find_task(world: World, task: Any = None) -> Any:
    """A task as `world.reset` takes it.

    Args:
      world: the world.
      task: None for `world.post_training_task`, text that the world can read, or the task itself.

    Raises:
      ValueError: the world cannot read text, or does not know the task.
    """
    if task is None:
        return world.post_training_task
    if not isinstance(task, str):
        # Outside of a program worlds say what is wrong with a task.
        world.reset(jax.random.key(0), task)
        return task
    if not hasattr(world, "parse_task"):
        raise ValueError(
            f"task is '{task}', allowed is a task as reset takes it: {type(world).__name__} cannot"
            " read text (parse_task)"
        )
    return world.parse_task(task)
