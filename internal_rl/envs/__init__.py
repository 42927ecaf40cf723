"""Worlds as pure functions."""

import inspect
from collections.abc import Mapping

from internal_rl.envs import ant, gridworld
from internal_rl.envs.ant import AntState, AntWorld, AntWorldConfig
from internal_rl.envs.gridworld import GridState, GridWorld, GridWorldConfig

__all__ = [
    "AntState",
    "AntWorld",
    "AntWorldConfig",
    "GridState",
    "GridWorld",
    "GridWorldConfig",
    "World",
    "WorldState",
    "make",
    "make_from_config",
]

World = GridWorld | AntWorld
WorldState = GridState | AntState

# By name: the world, its config and its presets.
_WORLDS = {
    "gridworld-pinpad": (GridWorld, GridWorldConfig, gridworld.PRESETS),
    "ant-pinpad": (AntWorld, AntWorldConfig, ant.PRESETS),
}


def _known(name: str) -> tuple:
    if name not in _WORLDS:
        raise ValueError(f"environment name is '{name}', allowed are {', '.join(_WORLDS)}")
    return _WORLDS[name]


def make(name: str, preset: str = "paper") -> World:
    """Builds a world by name and preset.

    Raises:
      ValueError: for an unknown name or preset.
    """
    world, _, presets = _known(name)
    if preset not in presets:
        raise ValueError(f"preset of {name} is '{preset}', allowed are {', '.join(presets)}")
    return world(presets[preset])


def make_from_config(environment: Mapping) -> World:
    """Builds a world from a mapping with `name` and the fields of its config.

    Raises:
      ValueError: for an unknown name, an unknown field or a value that is not allowed.
    """
    fields = dict(environment)
    world, config, _ = _known(fields.pop("name", "gridworld-pinpad"))
    known = list(inspect.signature(config).parameters)
    for field in fields:
        if field not in known:
            raise ValueError(f"environment has no field '{field}', allowed are {', '.join(known)}")
    return world(config(**fields))
