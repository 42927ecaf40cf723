"""Doors for those who come with another interface: gymnasium, gymnax and brax.

    gymnasium.make("internal_rl/GridworldPinpad-v0", preset="small")  # a gymnasium.Env
    gymnasium.make_vec("internal_rl/GridworldPinpad-v0", num_envs=64)  # one program for all of them
    gym_env(world), gym_vector_env(world, 64)  # the same of a world of one's own
    env, params = gymnax_env("gridworld-pinpad")  # or of a world
    env = brax_env("ant-pinpad")  # or of a world

gymnasium knows the ids after `register_gym()`, or where the id is preceded by a module:
`gymnasium.make("internal_rl.envs.adapters.gym:internal_rl/AntPinpad-v0")`. All of them tell apart
whether the task or the time limit ended an episode, see `episode`. Nothing heavy is imported before
a door is used.
"""

from internal_rl.extras import needs_extra

NAMESPACE = "internal_rl"
SHIPPED = ("gridworld-pinpad", "ant-pinpad")


def gym_id(name: str) -> str:
    """Id of a registered world: `"gridworld-pinpad"` is `"internal_rl/GridworldPinpad-v0"`."""
    parts = name.replace("_", "-").split("-")
    return f"{NAMESPACE}/{''.join(part[:1].upper() + part[1:] for part in parts)}-v0"


def register_gym(*names: str) -> list[str]:
    """Makes worlds known to `gymnasium.make` and `gymnasium.make_vec`.

    Both then take `preset` and `task` as keyword arguments, see `gym.GymEnv`. What is registered
    already stays.

    Args:
      *names: of registered worlds, see `envs.register_world`; without any, those of this package.

    Returns:
      Their ids, see `gym_id`.

    Raises:
      ConfigError: gymnasium is not installed.
      ValueError: a name has the id of another world.
    """
    with needs_extra("gym", "gymnasium's view of a world"):
        import gymnasium
    found = []
    for name in names or SHIPPED:
        found.append(gym_id(name))
        if found[-1] not in gymnasium.registry:
            gymnasium.register(
                found[-1],
                entry_point="internal_rl.envs.adapters.gym:GymEnv",
                vector_entry_point="internal_rl.envs.adapters.gym_vector:GymVectorEnv",
                kwargs={"world": name},
            )
        elif (other := gymnasium.registry[found[-1]].kwargs.get("world")) != name:
            raise ValueError(
                f"{name}: its id {found[-1]} is that of '{other}', allowed are names that differ in"
                " more than '-', '_' and capitals"
            )
    return found


def gym_env(world, *, preset: str = "paper", task=None, render_mode: str | None = None):
    """A world as a `gymnasium.Env`, see `gym.GymEnv`.

    Args:
      world: a world, or the name of a registered one.
      preset: of a registered one.
      task: as text that the world can read, or as `world.reset` takes it; None for
        `world.post_training_task`.
      render_mode: `"rgb_array"` where the world draws, or None.

    Raises:
      ConfigError: gymnasium is not installed.
      ValueError: an argument is not allowed; names it.
    """
    from internal_rl.envs.adapters.gym import GymEnv

    return GymEnv(world, preset=preset, task=task, render_mode=render_mode)


def gym_vector_env(
    world, num_envs: int, *, preset: str = "paper", task=None, render_mode: str | None = None
):
    """A world as a `gymnasium.vector.VectorEnv`, see `gym_vector.GymVectorEnv`.

    Args:
      world: a world, or the name of a registered one.
      num_envs: environments that run side by side in one program.
      preset: as in `gym_env`.
      task: as in `gym_env`.
      render_mode: as in `gym_env`.

    Raises:
      ConfigError: gymnasium is not installed.
      ValueError: an argument is not allowed; names it.
    """
    from internal_rl.envs.adapters.gym_vector import GymVectorEnv

    return GymVectorEnv(num_envs, world, preset=preset, task=task, render_mode=render_mode)


def gymnax_env(world, *, preset: str = "paper", task=None):
    """A world as a gymnax environment and its default parameters, as `gymnax.make` gives them.

    See `gymnax.GymnaxEnv`.

    Args:
      world: a world, or the name of a registered one.
      preset: as in `gym_env`.
      task: as in `gym_env`; it becomes the default of the parameter `task`.

    Raises:
      ConfigError: gymnax is not installed.
      ValueError: an argument is not allowed; names it.
    """
    from internal_rl.envs.adapters.gymnax import GymnaxEnv

    env = GymnaxEnv(world, preset=preset, task=task)
    return env, env.default_params


def brax_env(world, *, preset: str = "paper", tasks=None):
    """A world as a `brax.envs.Env`, see `brax.BraxEnv`.

    Args:
      world: a world, or the name of a registered one.
      preset: as in `gym_env`.
      tasks: of which every episode draws one, a pytree of arrays with a leading axis such as
        `world.pretraining_tasks`; or one task as text that the world can read; None for
        `world.post_training_task` alone.

    Raises:
      ConfigError: brax is not installed.
      ValueError: an argument is not allowed; names it.
    """
    from internal_rl.envs.adapters.brax import BraxEnv
    from internal_rl.envs.adapters.worlds import find_task, find_world

    world = find_world(world, preset)
    if isinstance(tasks, str):
        tasks = find_task(world, tasks)[None]
    return BraxEnv(world, tasks)
