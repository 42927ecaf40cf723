"""The ant's expert: brax's PPO on a world that shows it the way (method §2).

One policy serves all tasks: it sees, beside the observation, the direction of the grid-level
shortest path to the next colour in every cell, and is rewarded for speed in that direction.
"""

import contextlib
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from internal_rl.envs.ant import AntState, AntWorld
from internal_rl.envs.slots import Slots, choose_num_slots, run_episodes
from internal_rl.envs.tasks import followers
from internal_rl.experts import brax_ppo, shortest_path
from internal_rl.experts.ant_expert import AntExpertConfig

# Up, down, left, right in the axes of the plane.
DIRECTIONS = ((0.0, 1.0), (0.0, -1.0), (-1.0, 0.0), (1.0, 0.0))
NUM_EGOCENTRIC = 11
# Height of the torso, in metres, above which a hop costs; beyond 1 m it ends the episode.
TALL = 0.7


@struct.dataclass
class GuidedState:
    """An episode and the way.

    Attributes:
      ant: state of the world.
      way: `(O, G*G)` int32 action 0..3 of the shortest path by goal colour and cell.
    """

    ant: AntState
    way: chex.Array


def solve(world: AntWorld, state: AntState, ties: str) -> GuidedState:
    """Adds the shortest paths of the layout."""
    follows = followers(world.task_set, world.config.num_colours)
    table = shortest_path.expert_table(
        state.objects, state.walls, world.config.grid_size, ties, follows
    )
    return GuidedState(state, shortest_path.choose_action(table.expert, jnp.uint32(0)))


def guided_observation(state: GuidedState, observation: chex.Array) -> chex.Array:
    """What the expert sees.

    The observation; for every cell the one-hot of the direction to the next colour; and, which the
    paper does not have, in the torso's own axes the vertical, and in these axes turned upright that
    direction here and in the cell it leads to, the torso's velocity, and its place in the cell.

    Args:
      state: of the episode.
      observation: `(d,)` of the world; its last two numbers are the place in the cell.

    Returns:
      `(d + 4 G*G + 11,)` float32.
    """
    ant = state.ant
    goal = ant.task[jnp.minimum(ant.progress, ant.task.shape[0] - 1)]
    way = state.way[jnp.maximum(goal, 0)]
    directions = jnp.asarray(DIRECTIONS)
    here = way[ant.cell]
    size = round(way.shape[0] ** 0.5)
    ahead = jnp.clip(ant.cell + jnp.array([-size, size, -1, 1])[here], 0, way.shape[0] - 1)
    w, x, y, z = ant.physics.qpos[3:7]
    forward = jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z)])
    forward = forward / jnp.maximum(jnp.linalg.norm(forward), 1e-6)

    def own_axes(vector):
        along = forward[0] * vector[0] + forward[1] * vector[1]
        return jnp.stack([along, forward[0] * vector[1] - forward[1] * vector[0]])

    vectors = (directions[here], directions[way[ahead]], ant.physics.qvel[:2], observation[-2:])
    vertical = jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)])
    egocentric = [vertical, *(own_axes(vector) for vector in vectors)]
    return jnp.concatenate([observation, jax.nn.one_hot(way, 4).reshape(-1), *egocentric])


class GuidedAnt(brax_ppo.Env):
    """brax's view of the ant world, with the way shown and rewarded.

    Every reset draws one of `tasks` and a layout.
    """

    def __init__(self, world: AntWorld, config: AntExpertConfig, tasks: chex.Array):
        """`tasks (N, K)` int32, padded with -1."""
        self._world = world
        self._config = config
        self._tasks = tasks

    def reset(self, rng: chex.PRNGKey) -> brax_ppo.State:
        """Starts an episode."""
        task_key, reset_key = jax.random.split(rng)
        task = jnp.asarray(self._tasks)[jax.random.randint(task_key, (), 0, len(self._tasks))]
        ant, timestep = self._world.reset(reset_key, task)
        state = solve(self._world, ant, self._config.ties)
        zero = jnp.float32(0.0)
        metrics = dict.fromkeys(("success", "colours", "speed", "diverged"), zero)
        return brax_ppo.State(
            pipeline_state=state,
            obs=guided_observation(state, timestep.observation),
            reward=zero,
            done=zero,
            metrics=metrics,
        )

    def step(self, state: brax_ppo.State, action: chex.Array) -> brax_ppo.State:
        """One control step."""
        guided = state.pipeline_state
        before = guided.ant
        goal = before.task[jnp.minimum(before.progress, before.task.shape[0] - 1)]
        direction = jnp.asarray(DIRECTIONS)[guided.way[jnp.maximum(goal, 0)][before.cell]]
        ant, timestep = self._world.step(before, action)
        guided = guided.replace(ant=ant)
        speed = jnp.dot(ant.physics.qvel[:2], direction)
        reward = speed + self._config.success_reward * timestep.reward
        reward -= self._config.control_cost * jnp.sum(jnp.clip(action, -1.0, 1.0) ** 2)
        reward -= self._config.hop_cost * jnp.maximum(ant.physics.qpos[2] - TALL, 0.0)
        failed = timestep.done & ~ant.success & (ant.time < self._world.time_limit)
        reward = jnp.where(ant.diverged, 0.0, reward) - self._config.failure_cost * failed
        return state.replace(
            pipeline_state=guided,
            obs=guided_observation(guided, timestep.observation),
            reward=reward,
            done=timestep.done.astype(jnp.float32),
            metrics={
                "success": timestep.reward,
                "colours": (ant.progress - before.progress).astype(jnp.float32),
                "speed": speed,
                "diverged": ant.diverged.astype(jnp.float32),
            },
        )

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        grid = self._world.config.grid_size**2
        return self._world.observation_size + 4 * grid + NUM_EGOCENTRIC

    @property
    def action_size(self) -> int:
        """8 torques."""
        return self._world.action_size

    @property
    def backend(self) -> str:
        """Name of the physics."""
        return self._world.config.physics


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
    """One call of brax's PPO on the pretraining tasks.

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

    environment = GuidedAnt(world, config, world.pretraining_tasks)
    train = functools.partial(
        brax_ppo.train,
        environment,
        num_timesteps=config.steps_per_round,
        episode_length=world.time_limit,
        num_envs=config.num_worlds,
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
    with brax_on_recent_jax():
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
    """The reverse of `as_tree`."""
    fields = tree["normalisation"]
    normalisation = brax_ppo.running_statistics.RunningStatisticsState(
        mean=fields["mean"],
        std=fields["std"],
        summed_variance=fields["summed_variance"],
        count=brax_ppo.UInt64(hi=fields["count_high"], lo=fields["count_low"]),
    )
    return normalisation, tree["policy"], tree["value"]


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
    diverged: chex.Array


def play(
    world: AntWorld,
    config: AntExpertConfig,
    params: tuple,
    tasks: chex.Array,
    keys: chex.PRNGKey,
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
        index = jax.random.randint(task_key, (), 0, len(tasks))
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
    return Episodes(task=index, length=length, **records)


def make_policy(
    world: AntWorld, config: AntExpertConfig, deterministic: bool
) -> Callable[[tuple, chex.Array, chex.PRNGKey], chex.Array]:
    """`policy(params, guided observation, key) -> action (8,)`: sampled, or the mean action."""
    size = GuidedAnt(world, config, world.pretraining_tasks).observation_size
    nets = make_networks(
        config,
        size,
        world.action_size,
        preprocess_observations_fn=brax_ppo.running_statistics.normalize,
    )
    make = brax_ppo.networks.make_inference_fn(nets)

    def policy(params, observation, key):
        return make(params, deterministic)(observation, key)[0]

    return policy
