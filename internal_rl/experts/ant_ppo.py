"""The ant's expert: brax's PPO on a world that shows it the way, see `ant_guide` (method §2).

One policy serves all tasks.
"""

import contextlib
import functools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from internal_rl.envs.ant import AntWorld
from internal_rl.envs.slots import Slots, choose_num_slots, run_episodes
from internal_rl.errors import StorageError
from internal_rl.experts import brax_ppo
from internal_rl.experts.ant_expert import AntExpertConfig
from internal_rl.experts.ant_guide import GuidedAnt, guided_observation, solve


def make_networks(config: AntExpertConfig, observation_size: int, action_size: int, **keywords):
    """brax's networks: a tanh-squashed Gaussian policy and a value function."""
    return brax_ppo.networks.make_ppo_networks(
        observation_size,
        action_size,
        policy_hidden_layer_sizes=config.hidden_sizes,
        value_hidden_layer_sizes=config.hidden_sizes,
        **keywords,
    )


def _replicated(tree: chex.ArrayTree, devices: list) -> chex.ArrayTree:
    """`tree` with a leading axis over `devices`."""
    sharding = NamedSharding(Mesh(np.asarray(devices), ("device",)), PartitionSpec("device"))

    def replicate(x):
        x = jnp.asarray(x)
        return jax.device_put(jnp.broadcast_to(x, (len(devices), *x.shape)), sharding)

    return jax.tree.map(replicate, tree)


@contextlib.contextmanager
def brax_on_recent_jax():
    """Gives brax 0.14 the function that jax has since dropped, for as long as it trains."""
    name = "device_put_replicated"
    if hasattr(jax, name):
        yield
        return
    setattr(jax, name, _replicated)
    try:
        yield
    finally:
        delattr(jax, name)


def train_round(
    world: AntWorld,
    config: AntExpertConfig,
    index: int,
    seed: int,
    params: tuple | None,
) -> tuple[tuple, dict[str, float]]:
    """One call of brax's PPO on the pretraining tasks, in layouts that can be solved.

    The result is a function of the arguments alone, so that a training that was cut off inside a
    round repeats it.

    Args:
      world: the world.
      config: the settings.
      index: number of the round.
      seed: of the whole training.
      params: what the round before returned; None for the first one.

    Returns:
      `(normalisation, policy, value)` parameters, and means over the episodes of the round.
    """
    metrics = {}

    def report(steps, values):
        del steps
        for name, value in values.items():
            section, _, rest = name.partition("/")
            if section == "episode" and not rest.startswith("policy_dist"):
                metrics[f"episode/{rest}"] = float(value)

    # Where there is no way to the next colour, none can be shown.
    environment = GuidedAnt(world.with_solvable_layouts(), config, world.pretraining_tasks)
    train = functools.partial(
        brax_ppo.train,
        environment,
        num_timesteps=config.steps_per_round,
        episode_length=world.time_limit,
        num_envs=config.num_worlds,
        # Worlds and batches have to be shared out evenly.
        max_devices_per_host=math.gcd(
            config.num_worlds, config.batch_size, jax.local_device_count()
        ),
        learning_rate=config.learning_rate_of(index),
        entropy_cost=config.entropy_cost,
        discounting=config.discounting,
        unroll_length=config.unroll_length,
        batch_size=config.batch_size,
        num_minibatches=config.num_minibatches,
        num_updates_per_batch=config.num_passes,
        num_resets_per_eval=2,
        normalize_observations=True,
        reward_scaling=config.reward_scaling,
        clipping_epsilon=config.clip,
        gae_lambda=config.gae_lambda,
        max_grad_norm=1.0,
        network_factory=lambda *args, **keywords: make_networks(config, *args, **keywords),
        seed=seed * 1_000_003 + index,
        num_evals=2,
        run_evals=False,
        log_training_metrics=True,
        training_metrics_steps=config.steps_per_round,
        progress_fn=report,
        restore_params=params,
    )
    # brax's wrappers do not keep their types where double precision is switched on.
    with brax_on_recent_jax(), jax.enable_x64(False):
        params = train()[1]
    jax.effects_barrier()
    return params, metrics


def as_tree(params: tuple) -> dict:
    """`(normalisation, policy, value)` parameters as plain nested dictionaries."""
    normalisation, policy, value = jax.device_get(params)
    fields = {name: getattr(normalisation, name) for name in ("mean", "std", "summed_variance")}
    count = normalisation.count
    fields |= {"count_high": np.asarray(count.hi), "count_low": np.asarray(count.lo)}
    return {"normalisation": fields, "policy": policy, "value": value}


def as_params(tree: dict) -> tuple:
    """The reverse of `as_tree`.

    Raises:
      StorageError: these are no parameters of an expert.
    """
    try:
        fields = tree["normalisation"]
        normalisation = brax_ppo.running_statistics.RunningStatisticsState(
            mean=fields["mean"],
            std=fields["std"],
            summed_variance=fields["summed_variance"],
            count=brax_ppo.UInt64(hi=fields["count_high"], lo=fields["count_low"]),
        )
        return normalisation, tree["policy"], tree["value"]
    except (KeyError, TypeError, IndexError) as error:
        raise StorageError(f"not the parameters of an expert ({error} is missing)") from error


@struct.dataclass
class Episodes:
    """`B` episodes of up to `T` control steps; steps after an episode's end hold zeros.

    Attributes:
      task: `(B,)` int32 index of the task among those played.
      observation: `(B, T, d)` before each step.
      following: `(B, T, d)` observation after it.
      action: `(B, T, 8)` as applied, in [-1, 1].
      before: `(B, T)` int32 colours visited before the step.
      progress: `(B, T)` int32 colours visited after it.
      length: `(B,)` int32 control steps.
      success: `(B,)` bool.
      solvable: `(B,)` bool, whether the task could be completed on the grid.
      diverged: `(B,)` bool, the simulation did not stay finite.
    """

    task: chex.Array
    observation: chex.Array
    following: chex.Array
    action: chex.Array
    before: chex.Array
    progress: chex.Array
    length: chex.Array
    success: chex.Array
    solvable: chex.Array
    diverged: chex.Array


def play(
    world: AntWorld,
    config: AntExpertConfig,
    params: tuple,
    tasks: chex.Array,
    keys: chex.PRNGKey,
    *,
    deterministic: bool,
) -> Episodes:
    """Plays the expert on random tasks in random layouts.

    Args:
      world: the world.
      config: of the expert.
      params: `(normalisation, policy, value)` parameters.
      tasks: `(N, K)` int32, padded with -1.
      keys: `(B,)` randomness of each episode: its task, layout and actions.
      deterministic: whether to take the mean action.
    """
    policy = make_policy(world, config, deterministic)

    def start(key):
        task_key, reset_key = jax.random.split(key)
        index = jax.random.randint(task_key, (), 0, len(tasks), jnp.int32)
        ant, timestep = world.reset(reset_key, jnp.asarray(tasks)[index])
        return index, (solve(world, ant, config.ties), timestep.observation)

    def act(key, time, state, observation):
        seen = guided_observation(state, observation)
        action = policy(params, seen, jax.random.fold_in(key, time))
        return jnp.clip(action, -1.0, 1.0)

    def step(slots: Slots, carry, memory):
        state, observation = carry
        action = jax.vmap(act)(action_keys[slots.episode], slots.time, state, observation)
        ant, timestep = jax.vmap(world.step)(state.ant, action)
        record = {
            "observation": observation,
            "following": timestep.observation,
            "action": action,
            "before": state.ant.progress,
            "progress": ant.progress,
            "success": ant.success,
            "diverged": ant.diverged,
        }
        return (state.replace(ant=ant), timestep.observation), memory, timestep.done, record

    start_keys, action_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    index, fresh = jax.vmap(start)(start_keys)
    num_slots = choose_num_slots(0, len(keys))
    records, length = run_episodes(step, fresh, (), num_slots, world.time_limit)
    for name in ("success", "diverged"):
        records[name] = jnp.any(records[name], axis=1)
    solvable = jnp.ones_like(records["success"])
    if hasattr(world, "solvable"):
        solvable = jax.vmap(world.solvable)(fresh[0].ant)
    return Episodes(task=index, length=length, solvable=solvable, **records)


def make_policy(
    world: AntWorld, config: AntExpertConfig, deterministic: bool
) -> Callable[[tuple, chex.Array, chex.PRNGKey], chex.Array]:
    """`policy(params, guided observation, key) -> action (8,)`: sampled, or the mean action."""
    size = GuidedAnt(world, config, world.pretraining_tasks).observation_size
    nets = make_networks(
        config,
        size,
        world.action_spec.size,
        preprocess_observations_fn=brax_ppo.running_statistics.normalize,
    )
    make = brax_ppo.networks.make_inference_fn(nets)

    def policy(params, observation, key):
        return make(params, deterministic)(observation, key)[0]

    return policy
