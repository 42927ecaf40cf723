"""Worlds as pure functions."""

import dataclasses
from collections.abc import Mapping

from internal_rl.envs import gridworld
from internal_rl.envs.gridworld import GridState, GridWorld, GridWorldConfig

__all__ = ["GridState", "GridWorld", "GridWorldConfig", "make", "make_from_config"]

_PRESETS = {"gridworld-pinpad": gridworld.PRESETS}


def make(name: str, preset: str = "paper") -> GridWorld:
    """Builds a world by name and preset.

    Raises:
      ValueError: for an unknown name or preset.
    """
    if name not in _PRESETS:
        raise ValueError(f"environment name is '{name}', allowed are {', '.join(_PRESETS)}")
    if preset not in _PRESETS[name]:
        raise ValueError(f"preset of {name} is '{preset}', allowed are {', '.join(_PRESETS[name])}")
    return GridWorld(_PRESETS[name][preset])


def make_from_config(environment: Mapping) -> GridWorld:
    """Builds a world from a mapping with `name` and the fields of its config.

    Raises:
      ValueError: for an unknown name, an unknown field or a value that is not allowed.
    """
    fields = dict(environment)
    name = fields.pop("name", "gridworld-pinpad")
    if name not in _PRESETS:
        raise ValueError(f"environment name is '{name}', allowed are {', '.join(_PRESETS)}")
    known = [field.name for field in dataclasses.fields(GridWorldConfig)]
    for field in fields:
        if field not in known:
            raise ValueError(f"environment has no field '{field}', allowed are {', '.join(known)}")
    return GridWorld(GridWorldConfig(**fields))
