"""Episodes per second of internal RL and of raw-action RL, with and without the policy update.

The models have random parameters. Their episodes end early, at the first wrong colour; trained
ones last longer. So the rollout is measured twice: in the world as it is, and in one whose episodes
always run to the time limit, which is the longest and most expensive that a rollout can be. Updates
are measured with rewards that such models earn, see `contrast`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import flops
from benchmarks.contrast import with_contrast
from benchmarks.random_inputs import random_parameters
from benchmarks.timing import Stopwatch, Timing
from experiments import build, internal_rl, raw_rl
from internal_rl.envs.gridworld import GridWorld


class FullLengthWorld(GridWorld):
    """The same world, but episodes last until the time limit whatever is visited."""

    def step(self, state, action):
        """See `GridWorld.step`; the task begins anew once it is completed."""
        new, timestep = super().step(state, action)
        done = state.done | (new.time >= self.time_limit)
        progress = jnp.where(new.success, 0, new.progress)
        new = new.replace(done=done, success=jnp.zeros_like(new.success), progress=progress)
        return new, timestep.replace(done=done, reward=jnp.zeros_like(timestep.reward))


def _base_shape(config: ConfigDict) -> flops.BaseModelShape:
    world = build.make_world(config)
    return flops.BaseModelShape.of(config, world.observation_size, world.action_size)


def _acting_flops(config: ConfigDict, lengths: np.ndarray) -> float:
    """The base model on its own; its observation head is not needed for acting."""
    pairs = flops.causal_pairs(lengths)
    return flops.base_forward(_base_shape(config), float(lengths.sum()), pairs, False)


def _rollout_entry(
    config: ConfigDict, timing: Timing, operations: float, lengths: np.ndarray
) -> dict:
    """Rates of a rollout beside both bounds.

    Args:
      config: the settings.
      timing: of the rollout.
      operations: floating-point operations needed.
      lengths: `(B,)` raw steps of each episode.
    """
    traffic = flops.cache_bytes(_base_shape(config), lengths)
    return {
        "episodes_per_second": timing.rate(len(lengths)),
        "steps_per_second": timing.rate(lengths.sum()),
        "mean_length": float(lengths.mean()),
        "flops_per_step": operations / float(lengths.sum()),
        "share_of_matmul_rate": timing.share_of_matmul(operations),
        "cache_bytes_per_step": traffic / float(lengths.sum()),
        "cache_share_of_copy_rate": timing.share_of_copy(traffic),
        "share_of_matmul_and_cache_bounds": timing.share_of_bounds(operations, traffic),
        "matmul_bound_seconds": float(np.median(operations / timing.matmul_rate)),
        "cache_bound_seconds": float(np.median(traffic / timing.copy_rate)),
        "seconds": timing.best,
    }


def _update_entry(timing: Timing, operations: float, num_episodes: int) -> dict:
    return {
        "episodes_per_second": timing.rate(num_episodes),
        "share_of_matmul_rate": timing.share_of_matmul(operations),
        "seconds": timing.best,
    }


def benchmark_internal(config: ConfigDict, stopwatch: Stopwatch) -> dict:
    """Internal RL: rollouts in both worlds, and the whole update in the world as it is."""
    trainer = internal_rl.make_trainer(config)
    longest = FullLengthWorld(trainer.env.world.config)
    frozen, key = random_parameters(config), jax.random.key(1)
    state = jax.jit(trainer.init)(key)

    def rollout_of(env):
        run = jax.jit(lambda params: env.rollout(params, key, trainer.task, trainer.num_episodes))
        return lambda: run({**frozen, "policy": state.params})

    rewarded = dataclasses.replace(trainer.env, world=with_contrast(trainer.env.world))
    update = jax.jit(dataclasses.replace(trainer, env=rewarded).update)
    programs = {
        "rollout": rollout_of(trainer.env),
        "full_length_rollout": rollout_of(dataclasses.replace(trainer.env, world=longest)),
        "update": lambda: update(state, frozen),
    }
    timings = stopwatch.measure(programs, "internal RL")
    policy, result = flops.policy_forward(config), {}
    for name in ("rollout", "full_length_rollout"):
        rollout = programs[name]()
        lengths, switches = np.asarray(rollout.length), np.asarray(rollout.switches)
        operations = _acting_flops(config, lengths) + switches.sum() * policy
        operations += lengths.sum() * flops.steering_step(config)
        result[name] = _rollout_entry(config, timings[name], operations, lengths)
        result[name]["mean_switches"] = float(switches.mean())
        if name == "rollout":
            training = 3 * policy - flops.policy_input(config)
            training *= config.internal_rl.num_epochs * switches.sum()
            result["update"] = _update_entry(timings["update"], operations + training, len(lengths))
    return {"episodes": trainer.num_episodes, **result}


def benchmark_raw(config: ConfigDict, stopwatch: Stopwatch) -> dict:
    """Raw-action RL: rollouts in both worlds, and the whole update in the world as it is."""
    trainer = raw_rl.make_trainer(config)
    longest = dataclasses.replace(trainer, world=FullLengthWorld(trainer.world.config))
    key = jax.random.key(1)
    state = jax.jit(trainer.init)(key, random_parameters(config)["base"])

    def rollout_of(trainer):
        run = jax.jit(lambda params: trainer.rollout(params, key, trainer.num_episodes))
        return lambda: run(state.params)

    update = jax.jit(dataclasses.replace(trainer, world=with_contrast(trainer.world)).update)
    programs = {
        "rollout": rollout_of(trainer),
        "full_length_rollout": rollout_of(longest),
        "update": lambda: update(state),
    }
    timings = stopwatch.measure(programs, "raw-action RL")
    result = {}
    for name in ("rollout", "full_length_rollout"):
        rollout = programs[name]()
        lengths = np.asarray(rollout.length)
        operations = _acting_flops(config, lengths)
        result[name] = _rollout_entry(config, timings[name], operations, lengths)
        if name == "rollout":
            shape, tokens = _base_shape(config), float(lengths.sum())
            training = flops.base_training(shape, tokens, flops.causal_pairs(lengths), False)
            training *= config.raw_rl.num_epochs
            result["update"] = _update_entry(timings["update"], operations + training, len(lengths))
    return {"episodes": trainer.num_episodes, **result}
