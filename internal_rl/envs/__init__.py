"""Worlds as pure functions. What is named here is imported when it is first used."""

import importlib

__all__ = [
    "capabilities",
    "make",
    "make_from_config",
    "register_world",
    "registered_worlds",
    "world_entry",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'internal_rl.envs' has no attribute '{name}'")
    return getattr(importlib.import_module("internal_rl.envs.world"), name)
