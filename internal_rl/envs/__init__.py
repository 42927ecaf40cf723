"""Worlds as pure functions."""

from internal_rl.envs.world import (
    capabilities,
    make,
    make_from_config,
    register_world,
    registered_worlds,
    world_entry,
)

__all__ = [
    "capabilities",
    "make",
    "make_from_config",
    "register_world",
    "registered_worlds",
    "world_entry",
]
