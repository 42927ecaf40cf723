"""The way shown to the ant's expert, and its reward: speed in that direction (method §2).

Beside the observation the expert sees the direction of the grid-level shortest path to the next
colour in every cell.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.envs.adapters.brax import BraxEnv, State
from internal_rl.envs.ant import AntState, AntWorld
from internal_rl.envs.tasks import followers
from internal_rl.experts import shortest_path
from internal_rl.experts.ant_expert import AntExpertConfig

# Up, down, left, right in the axes of the plane.
DIRECTIONS = np.float32([(0.0, 1.0), (0.0, -1.0), (-1.0, 0.0), (1.0, 0.0)])
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


class GuidedAnt(BraxEnv):
    """brax's view of the ant world, with the way shown and rewarded.

    Every reset draws one of `tasks` and a layout. Unlike in its base `done` holds at the time limit
    too: to the expert, who is to arrive, running out of time is an end like any other.
    """

    def __init__(self, world: AntWorld, config: AntExpertConfig, tasks: chex.Array):
        """Shows the way in `world`; `tasks (N, K)` int32, padded with -1."""
        super().__init__(world, tasks)
        self._config = config

    def reset(self, rng: chex.PRNGKey) -> State:
        """Starts an episode."""
        ant, timestep = self.world.reset(*self.draw(rng))
        state = solve(self.world, ant, self._config.ties)
        zero = jnp.float32(0.0)
        metrics = dict.fromkeys(("success", "colours", "speed", "diverged"), zero)
        return State(
            pipeline_state=state,
            obs=guided_observation(state, timestep.observation),
            reward=zero,
            done=zero,
            metrics=metrics,
        )

    def step(self, state: State, action: chex.Array) -> State:
        """One control step."""
        # With double precision switched on, brax's policies act in it.
        action = action.astype(self.world.action_spec.dtype)
        guided = state.pipeline_state
        before = guided.ant
        goal = before.task[jnp.minimum(before.progress, before.task.shape[0] - 1)]
        direction = jnp.asarray(DIRECTIONS)[guided.way[jnp.maximum(goal, 0)][before.cell]]
        ant, timestep = self.world.step(before, action)
        guided = guided.replace(ant=ant)
        speed = jnp.dot(ant.physics.qvel[:2], direction)
        reward = speed + self._config.success_reward * timestep.reward
        reward -= self._config.control_cost * jnp.sum(jnp.clip(action, -1.0, 1.0) ** 2)
        reward -= self._config.hop_cost * jnp.maximum(ant.physics.qpos[2] - TALL, 0.0)
        failed = timestep.done & ~ant.success & (ant.time < self.world.time_limit)
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
        grid = self.world.config.grid_size**2
        return super().observation_size + 4 * grid + NUM_EGOCENTRIC

    @property
    def backend(self) -> str:
        """Name of the physics."""
        return self.world.config.physics
