"""A small grid world, a steered model with random parameters, and a policy over its codes."""

import functools

import jax

from internal_rl import envs
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.policy import CodePolicy
from internal_rl.models.steered_model import SteeredModel

WIDTH, CODE_SIZE = 16, 3


@functools.partial(jax.jit, static_argnums=2)
def randomise(params, key, scale):
    """Parameters with Gaussian noise of this size on all of them."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        x + scale * jax.random.normal(k, x.shape, x.dtype)
        for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


@functools.cache
def make_world():
    """The grid world of the preset `smoke`."""
    return envs.make("gridworld-pinpad", "smoke")


@functools.cache
def make_model(block="transformer", gate="sigmoid"):
    """Two blocks, cut between them."""
    world = make_world()
    sizes = BaseConfig(
        block=block, width=WIDTH, depth=2, num_heads=2, head_size=8, mlp_size=32, init_scale=1.0
    )
    base = BaseModel(world.observation_spec, world.action_spec, sizes, world.time_limit)
    metacontroller = Metacontroller(
        WIDTH,
        MetacontrollerConfig(
            code_size=CODE_SIZE, history_size=8, rank=2, gate=gate, switch_bias=0.0
        ),
    )
    key, noise_key = jax.random.key(0), jax.random.key(1)
    return SteeredModel(
        base=base,
        layer=1,
        base_params=randomise(jax.jit(base.initial_params)(key), noise_key, 0.1),
        metacontroller=metacontroller,
        metacontroller_params=randomise(
            jax.jit(metacontroller.initial_params)(key), noise_key, 0.5
        ),
    )


@functools.cache
def make_policy():
    """A policy and its parameters."""
    policy = CodePolicy(code_size=CODE_SIZE, width=WIDTH, num_heads=2, mlp_size=16)
    params = jax.jit(policy.initial_params, static_argnums=1)(jax.random.key(0), WIDTH)
    return policy, randomise(params, jax.random.key(1), 0.1)
