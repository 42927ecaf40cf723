"""A world whose episodes are written down, to show adapters every way in which one can end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import internal_rl as irl

TIME_LIMIT = 3


@struct.dataclass
class ScriptedState:
    time: jax.Array
    done: jax.Array


@dataclasses.dataclass(frozen=True)
class Script:
    """What the steps 1 to `TIME_LIMIT` show; `None` for what the world does not tell."""

    reward: tuple = (0.0, 0.0, 0.0)
    ends: int = TIME_LIMIT
    visit: tuple | None = (-1, -1, -1)
    progress: tuple | None = (0, 0, 0)


class ScriptedWorld:
    """Shows the time as an observation; actions are two numbers that change nothing."""

    observation_spec = irl.ObservationSpec("gaussian", 2)
    action_spec = irl.ActionSpec("gaussian", 2, -2.0, 2.0)
    post_training_task = np.int32(7)
    time_limit = TIME_LIMIT

    def __init__(self, script=Script()):  # noqa: B008 (frozen)
        self.script = script

    def reset(self, key, task):
        del key, task
        state = ScriptedState(jnp.int32(0), jnp.bool_(False))
        return state, self._timestep(state, jnp.bool_(True))

    def step(self, state, action):
        del action
        time = state.time + ~state.done
        new = ScriptedState(time, time >= self.script.ends)
        return new, self._timestep(new, state.done)

    def _timestep(self, state, quiet):
        def at(values, start, dtype):
            return None if values is None else jnp.array([start, *values], dtype)[state.time]

        def unless_quiet(value, otherwise):
            return None if value is None else jnp.where(quiet, otherwise, value).astype(value.dtype)

        observation = jnp.stack([state.time, state.done]).astype(jnp.float32)
        return irl.Timestep(
            observation=observation,
            reward=unless_quiet(at(self.script.reward, 0, jnp.float32), 0.0),
            done=state.done,
            visit=unless_quiet(at(self.script.visit, -1, jnp.int32), -1),
            progress=at(self.script.progress, 0, jnp.int32),
        )
