"""An environment of gymnax as a world: four rooms, a goal that is found in at most 60 steps.

    python examples/gymnax_world.py

tries it out. What trains in it needs trajectories too, see `own_world.py`.
"""

import dataclasses
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import internal_rl as irl


@dataclasses.dataclass(frozen=True)
class FourRoomsConfig:
    """Settings of the world."""

    time_limit: int = 60


@struct.dataclass
class State:
    """The environment's state, its randomness, and what a world has to know beside them."""

    inner: Any
    key: jax.Array
    time: jax.Array
    done: jax.Array


class FourRooms:
    """Four rooms with doors; the goal is shown, as is where one stands."""

    observation_spec = irl.ObservationSpec("gaussian", 4)
    action_spec = irl.ActionSpec("categorical", 4)
    post_training_task = np.int32(0)  # there is one task alone

    def __init__(self, config):
        self.time_limit = config.time_limit
        self.env, self.params = gymnax.make("FourRooms-misc")

    def reset(self, key, task):
        """The start of an episode; environments of gymnax know no tasks."""
        del task
        key, reset_key = jax.random.split(key)
        observation, inner = self.env.reset_env(reset_key, self.params)
        state = State(_own_arrays(inner), key, jnp.int32(0), jnp.bool_(False))
        return state, self._show(observation, jnp.float32(0), state.done)

    def step(self, state, action):
        """One step; nothing happens in an episode that has ended."""
        key, step_key = jax.random.split(state.key)
        observation, inner, reward, *ended, _ = self.env.step_env(
            step_key, state.inner, action, self.params
        )
        reached, time = reward > 0, state.time + 1
        new = State(_own_arrays(inner), key, time, reached | (time >= self.time_limit))
        new = jax.tree.map(lambda old, now: jnp.where(state.done, old, now), state, new)
        observation = jnp.where(state.done, self.env.get_obs(state.inner), observation)
        return new, self._show(observation, jnp.float32(reached & ~state.done), new.done)

    def _show(self, observation, reward, done):
        # Cells are 0 to 12: real numbers are best of the order of one.
        return irl.Timestep(observation.astype(jnp.float32) / 13, reward, done)


def _own_arrays(inner):
    """Arrays of its own, of one type, where environments keep numbers of Python or share them."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.asarray(x).dtype), inner)


PRESETS = {"smoke": FourRoomsConfig(), "small": FourRoomsConfig()}
irl.register_world("four-rooms", FourRooms, config=FourRoomsConfig, presets=PRESETS)


if __name__ == "__main__":
    irl.testing.check_world(irl.make_world("four-rooms", "small"))
    print("a world that stages and methods can act in")
