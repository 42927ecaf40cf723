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

from benchmarks import flops
from benchmarks.contrast import with_contrast
from benchmarks.random_inputs import random_method
from benchmarks.timing import Stopwatch, Timing
from internal_rl.acting.decisions import num_decisions
from internal_rl.envs.gridworld import GridWorld
from internal_rl.methods.reinforcement.trainer import PolicyTrainer
from internal_rl.stages.settings import Settings


class FullLengthWorld(GridWorld):
    """The same world, but episodes last until the time limit whatever is visited."""

    def step(self, state, action):
        """See `GridWorld.step`; the task begins anew once it is completed."""
        new, timestep = super().step(state, action)
        done = state.done | (new.time >= self.time_limit)
        progress = jnp.where(new.success, 0, new.progress)
        new = new.replace(done=done, success=jnp.zeros_like(new.success), progress=progress)
        return new, timestep.replace(done=done, reward=jnp.zeros_like(timestep.reward))


def _acting_flops(settings: Settings, lengths: np.ndarray) -> float:
    """The base model on its own; its observation head is not needed for acting."""
    pairs = flops.causal_pairs(lengths)
    shape = flops.BaseModelShape.of(settings)
    return flops.base_forward(shape, float(lengths.sum()), pairs, False)


def _rollout_entry(
    settings: Settings, timing: Timing, operations: float, lengths: np.ndarray
) -> dict:
    """Rates of a rollout beside both bounds.

    Args:
      settings: of the run.
      timing: of the rollout.
      operations: floating-point operations needed.
      lengths: `(B,)` raw steps of each episode.
    """
    traffic = flops.cache_bytes(flops.BaseModelShape.of(settings), lengths)
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


def _programs(method: PolicyTrainer) -> dict:
    """Rollouts in the world as it is and in that of full-length episodes, and the update."""
    key, world, num_episodes = jax.random.key(1), method.world, method.config.episodes_per_update
    state = jax.jit(method.init)(key, method.frozen)

    def rollout_in(world):
        moved = dataclasses.replace(method, world=world)
        run = jax.jit(
            lambda params, frozen: moved.rollout(
                params, frozen, key, num_episodes, keep=method.KEPT
            )
        )
        return lambda: run(state.params, method.frozen)

    update = jax.jit(dataclasses.replace(method, world=with_contrast(world)).update)
    return {
        "rollout": rollout_in(world),
        "full_length_rollout": rollout_in(FullLengthWorld(world.config)),
        "update": lambda: update(state, method.frozen),
    }


def benchmark_internal(settings: Settings, stopwatch: Stopwatch) -> dict:
    """Internal RL: rollouts in both worlds, and the whole update in the world as it is."""
    method = random_method("internal_rl", settings)
    programs = _programs(method)
    timings = stopwatch.measure(programs, "internal RL")
    policy, result = flops.policy_forward(settings), {}
    for name in ("rollout", "full_length_rollout"):
        episodes = programs[name]()
        lengths, switches = np.asarray(episodes.length), np.asarray(num_decisions(episodes))
        operations = _acting_flops(settings, lengths) + switches.sum() * policy
        operations += lengths.sum() * flops.steering_step(settings)
        result[name] = _rollout_entry(settings, timings[name], operations, lengths)
        result[name]["mean_switches"] = float(switches.mean())
        if name == "rollout":
            training = 3 * policy - flops.policy_input(settings)
            training *= settings.internal_rl.num_epochs * switches.sum()
            result["update"] = _update_entry(timings["update"], operations + training, len(lengths))
    return {"episodes": method.config.episodes_per_update, **result}


def benchmark_raw(settings: Settings, stopwatch: Stopwatch) -> dict:
    """Raw-action RL: rollouts in both worlds, and the whole update in the world as it is."""
    method = random_method("raw_rl", settings)
    programs = _programs(method)
    timings = stopwatch.measure(programs, "raw-action RL")
    result = {}
    for name in ("rollout", "full_length_rollout"):
        lengths = np.asarray(programs[name]().length)
        operations = _acting_flops(settings, lengths)
        result[name] = _rollout_entry(settings, timings[name], operations, lengths)
        if name == "rollout":
            shape, tokens = flops.BaseModelShape.of(settings), float(lengths.sum())
            training = flops.base_training(shape, tokens, flops.causal_pairs(lengths), False)
            training *= settings.raw_rl.num_epochs
            result["update"] = _update_entry(timings["update"], operations + training, len(lengths))
    return {"episodes": method.config.episodes_per_update, **result}
