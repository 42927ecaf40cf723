"""A small world, an untrained base model, and a base model that obeys what is written into it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from internal_rl.experts import collect, shortest_path
from internal_rl.models.base_model import BaseModel, BaseOutput


@pytest.fixture(scope="session")
def env():
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
def base(env):
    return BaseModel(
        observation_size=env.observation_size,
        action_head=env.action_head,
        action_size=env.action_size,
        width=16,
        depth=2,
        num_heads=2,
        head_size=8,
        mlp_size=16,
        max_length=env.time_limit,
        init_scale=1.0,
    )


@pytest.fixture(scope="session")
def base_params(env, base):
    observation = jnp.zeros((1, 4, env.observation_size))
    return jax.jit(base.init)(jax.random.key(0), observation, jnp.zeros((1, 4), jnp.int32))


@pytest.fixture(scope="session")
def batch(env):
    stream = collect.ExpertStream(
        env, env.pretraining_tasks, ties="fork", sequence_length=48, include_terminal=True
    )
    return jax.jit(stream.evaluation_set, static_argnums=1)(jax.random.key(1), 6)


class ObedientModel:
    """Stands in for a base model that walks to the colour written into its residual stream.

    The residual stream is the observation, a constant one, and a score per colour. While a score is
    above one half the model takes the expert's action towards that colour; otherwise it picks any
    action.
    """

    action_head = "categorical"

    def __init__(self, env):
        self.env = env
        self.width = env.observation_size + 1 + env.config.num_colours
        solve = jax.vmap(
            lambda o, w: shortest_path.policy_table(o, w, env.config.grid_size, "fixed")
        )
        self.policies = np.asarray(jax.jit(solve)(env.layouts.objects, env.layouts.walls))

    def check_layer(self, layer):
        assert layer >= 0

    def initial_state(self, batch_size):
        return ()

    def apply(self, params, inputs, state, layer, method):
        batch_size, colours = len(inputs), self.env.config.num_colours
        if method == "lower_step":
            constant, scores = jnp.ones((batch_size, 1)), jnp.zeros((batch_size, colours))
            return jnp.concatenate([inputs.astype(jnp.float32), constant, scores], axis=1), state
        grid = inputs[:, : self.env.observation_size].reshape(batch_size, -1, colours + 2)
        objects = jnp.argmax(grid[..., :colours], axis=1)
        cell = jnp.argmax(grid[..., -1], axis=1)
        layout = jnp.argmax(jnp.all(objects[:, None] == self.env.layouts.objects, axis=2), axis=1)
        scores = inputs[:, -colours:]
        expert = jnp.asarray(self.policies)[layout, jnp.argmax(scores, axis=1), cell]
        told = jnp.max(scores, axis=1, keepdims=True) > 0.5
        logits = jnp.where(told, 100.0 * expert, 0.0)
        return BaseOutput(logits, jnp.zeros_like(inputs)), state


@pytest.fixture(scope="session")
def obedient(env):
    return ObedientModel(env)


@pytest.fixture(scope="session")
def goal_writers(env, obedient):
    """`(O, 1, n_e)` reads of the constant and `(O, n_e, 1)` writes of one colour's score."""
    colours, width = env.config.num_colours, obedient.width
    read = np.zeros((colours, 1, width), np.float32)
    write = np.zeros((colours, width, 1), np.float32)
    read[:, 0, env.observation_size] = 1.0
    write[np.arange(colours), env.observation_size + 1 + np.arange(colours), 0] = 1.0
    return read, write
