"""A world that is no pinpad, and a frozen model that was never trained, in which RL can succeed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.steered_model import SteeredModel
from internal_rl.types import ActionSpec, ObservationSpec, Timestep


@struct.dataclass
class LineState:
    cell: jax.Array
    goal: jax.Array
    done: jax.Array


class Line:
    """Seven cells in a row; the task says at which end the reward is, actions lead sideways.

    It tells neither visits nor progress nor subgoals, and reads no tasks from text.
    """

    observation_spec = ObservationSpec("bernoulli", 7, np.uint8)
    action_spec = ActionSpec("categorical", 2)
    time_limit, ends = 6, (0, 6)
    post_training_task = np.array([0])

    def reset(self, key, task):
        cell = jax.random.randint(key, (), 2, 5, jnp.int32)
        state = LineState(cell, jnp.asarray(task)[0], jnp.bool_(False))
        return state, Timestep(self._observe(state), jnp.float32(0.0), state.done)

    def step(self, state, action):
        step = 2 * (action % 2).astype(jnp.int32) - 1
        cell = jnp.where(state.done, state.cell, jnp.clip(state.cell + step, 0, 6))
        done = (cell == 0) | (cell == 6)
        reward = done & ~state.done & (cell == jnp.asarray(self.ends)[state.goal])
        state = state.replace(cell=cell, done=done)
        return state, Timestep(self._observe(state), reward.astype(jnp.float32), done)

    def _observe(self, state):
        return jax.nn.one_hot(state.cell, 7, dtype=jnp.uint8)


@functools.cache
def make_model():
    """A model whose codes make a difference."""
    sizes = BaseConfig(block="hawk", width=8, depth=2, num_heads=2, mlp_size=16, init_scale=1.0)
    base = BaseModel(Line.observation_spec, Line.action_spec, sizes, Line.time_limit)
    metacontroller = Metacontroller(
        8, MetacontrollerConfig(code_size=2, rank=2, history_size=4, controller_gain=3.0)
    )
    key = jax.random.key(0)
    base_params = jax.jit(base.initial_params)(key)
    # Decisive actions, so that codes can make a difference to a model that was never trained.
    base_params["params"]["action_output"]["kernel"] *= 8.0
    metacontroller_params = jax.jit(metacontroller.initial_params)(key)
    return SteeredModel(base, 2, base_params, metacontroller, metacontroller_params)
