"""A small world, an untrained base model, and a model that obeys what is written into it."""

import types
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from internal_rl.experts import shortest_path
from internal_rl.experts.grid_data import ExpertStream
from internal_rl.models.base_model import BaseConfig, BaseModel, BaseOutput
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.steered_model import SteeredModel
from tests.parameters import drawn

LAYER = 1


@pytest.fixture(scope="session")
def world():
    return GridWorld(
        GridWorldConfig(
            grid_size=5,
            num_colours=4,
            num_walls=1,
            time_limit=20,
            tasks="ant-pinpad",
            num_layouts=3,
            min_colour_distance=2,
        )
    )


@pytest.fixture(scope="session")
def model(world):
    """A base model without metacontroller, cut at `LAYER`."""
    config = BaseConfig(width=16, depth=2, num_heads=2, head_size=8, mlp_size=16, init_scale=1.0)
    base = BaseModel(world.observation_spec, world.action_spec, config, world.time_limit)
    return SteeredModel(base, LAYER, jax.device_put(drawn(base.initial_params)))


@pytest.fixture(scope="session")
def steered(model):
    """The same model under an untrained metacontroller."""
    config = MetacontrollerConfig(code_size=3, rank=2, history_size=8, embedding_size=8)
    metacontroller = Metacontroller(model.base.width, config)
    params = jax.device_put(drawn(metacontroller.initial_params))
    return model.replace(metacontroller=metacontroller, metacontroller_params=params)


@pytest.fixture(scope="session")
def source(world):
    source = ExpertStream(
        world, world.pretraining_tasks, ties="fork", sequence_length=48, include_terminal=True
    )
    # Studies call it outside of programs.
    source.held_out = jax.jit(source.held_out, static_argnums=1)
    return source


@pytest.fixture(scope="session")
def batch(source):
    return source.held_out(jax.random.key(1), 6, source.arrays)


@struct.dataclass
class ObedientModel:
    """Stands in for a steered model that walks to the colour written into its residual stream.

    The residual stream is the observation, a constant one, and a score per colour. While a score is
    above one half the model takes the expert's action towards that colour; otherwise it picks any
    action. A code of its metacontroller is a score per colour; its gate opens on every coloured
    cell. It may obey at one layer alone, and not hear what is written anywhere else.
    """

    policies: chex.Array
    world: Any = struct.field(pytree_node=False)
    layer: int = struct.field(pytree_node=False, default=0)
    obeys_at: int | None = struct.field(pytree_node=False, default=None)

    @property
    def width(self):
        return self.world.observation_spec.size + 1 + self.world.config.num_colours

    @property
    def base(self):
        return types.SimpleNamespace(action_spec=self.world.action_spec)

    @property
    def metacontroller(self):
        config = types.SimpleNamespace(code_size=self.world.config.num_colours)
        return types.SimpleNamespace(draws_switches=False, config=config)

    def alone(self):
        return self

    def at_layer(self, layer):
        return self.replace(layer=layer)

    def initial_state(self, batch_size):
        return ()

    def restart(self, state, rows):
        return state

    def _grid(self, residual):
        size, colours = self.world.observation_spec.size, self.world.config.num_colours
        return residual[:, :size].reshape(len(residual), -1, colours + 2)

    def lower_step(self, observation, state):
        batch_size, colours = len(observation), self.world.config.num_colours
        constant, scores = jnp.ones((batch_size, 1)), jnp.zeros((batch_size, colours))
        return jnp.concatenate([observation.astype(jnp.float32), constant, scores], axis=1), state

    def upper_step(self, residual, state):
        colours = self.world.config.num_colours
        grid = self._grid(residual)
        objects = jnp.argmax(grid[..., :colours], axis=1)
        cell = jnp.argmax(grid[..., -1], axis=1)
        same = jnp.all(objects[:, None] == self.world.layouts.objects, axis=2)
        scores = residual[:, -colours:]
        expert = self.policies[jnp.argmax(same, axis=1), jnp.argmax(scores, axis=1), cell]
        hears = self.obeys_at in (None, self.layer)
        told = hears & (jnp.max(scores, axis=1, keepdims=True) > 0.5)
        return BaseOutput(jnp.where(told, 100.0 * expert, 0.0), jnp.zeros_like(residual)), state

    def initial_history(self, batch_size):
        return jnp.zeros((batch_size, 1))

    def history_step(self, residual, history):
        return history + 1.0

    def control(self, residual, code):
        return residual.at[:, -self.world.config.num_colours :].add(code)

    def switch(self, residual, history, code):
        grid, colours = self._grid(residual), self.world.config.num_colours
        on_colour = jnp.sum(grid[..., :colours] * grid[..., -1:], axis=(1, 2))
        return jnp.where(on_colour > 0, 1.0, 0.0)


@pytest.fixture(scope="session")
def obedient(world):
    solve = jax.vmap(lambda o, w: shortest_path.policy_table(o, w, world.config.grid_size, "fixed"))
    return ObedientModel(jax.jit(solve)(world.layouts.objects, world.layouts.walls), world)


@pytest.fixture(scope="session")
def goal_writers(world, obedient):
    """`(O, 1, n_e)` reads of the constant and `(O, n_e, 1)` writes of one colour's score."""
    colours, width, size = world.config.num_colours, obedient.width, world.observation_spec.size
    read = np.zeros((colours, 1, width), np.float32)
    write = np.zeros((colours, width, 1), np.float32)
    read[:, 0, size] = 1.0
    write[np.arange(colours), size + 1 + np.arange(colours), 0] = 1.0
    return read, write
