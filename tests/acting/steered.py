"""A small grid world, a steered model with random parameters, and a policy over its codes."""

import functools

import jax

from internal_rl import envs
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.policy import CodePolicy
from internal_rl.models.steered_model import SteeredModel
from tests.parameters import drawn

WIDTH, CODE_SIZE = 16, 3


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
    return SteeredModel(
        base=base,
        layer=1,
        base_params=jax.device_put(drawn(base.initial_params)),
        metacontroller=metacontroller,
        metacontroller_params=jax.device_put(drawn(metacontroller.initial_params, noise=0.5)),
    )


@functools.cache
def make_policy():
    """A policy and its parameters."""
    policy = CodePolicy(code_size=CODE_SIZE, width=WIDTH, num_heads=2, mlp_size=16)
    init = functools.partial(policy.initial_params, residual_size=WIDTH)
    return policy, jax.device_put(drawn(init))
