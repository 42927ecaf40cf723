"""A world as a `gymnax` environment."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.envs.adapters.episode import Episode, advance, start, told
from internal_rl.envs.adapters.worlds import find_task, find_world
from internal_rl.extras import needs_extra
from internal_rl.types import World

with needs_extra("gym", "gymnax's view of a world"):
    from gymnax.environments import environment, spaces


@struct.dataclass
class WorldParams(environment.EnvParams):
    """Parameters of an environment.

    Attributes:
      max_steps_in_episode: after so many steps an episode is truncated; more than the world's
        `time_limit` has no effect.
      task: as `world.reset` takes it.
    """

    task: Any = None


class GymnaxEnv(environment.Environment[Episode, WorldParams]):
    """A world as a gymnax environment, as of gymnax 1.0.

    `env.reset(key, params)` gives `(observation, state)`; `env.step(key, state, action, params)`
    gives `(observation, state, reward, terminated, truncated, info)` and starts the next episode
    with the step that ends one, whose last observation is `info["final_observation"]`. The older
    form with a single `done` is `gymnax.wrappers.LegacyStepAPIWrapper(env)`. The state is an
    `episode.Episode`; `info` also holds what the world tells, see `episode.told`.

    Attributes:
      world: the world.
    """

    def __init__(self, world: World | str, *, preset: str = "paper", task: Any = None):
        """Wraps a world.

        Args:
          world: a world, or the name of a registered one.
          preset: of a registered one.
          task: default of the parameter `task`: text that the world can read, or a task as
            `world.reset` takes it; None for `world.post_training_task`.

        Raises:
          ValueError: an argument is not allowed; names it.
        """
        self.world = find_world(world, preset)
        self._task = find_task(self.world, task)
        self._name = world if isinstance(world, str) else type(world).__name__

    @property
    def default_params(self) -> WorldParams:
        """The world's time limit, and the task that the environment was made with."""
        task = jax.tree.map(jnp.asarray, self._task)
        return WorldParams(max_steps_in_episode=self.world.time_limit, task=task)

    @property
    def name(self) -> str:
        """Name of the world, or of its class."""
        return self._name

    @property
    def num_actions(self) -> int:
        """Number of actions, or of the numbers of a continuous one."""
        return self.world.action_spec.size

    def reset_env(self, key: chex.PRNGKey, params: WorldParams) -> tuple[chex.Array, Episode]:
        """Starts an episode."""
        state = start(self.world, key, params.task)
        return state.shown.observation, state

    def step_env(
        self, key: chex.PRNGKey, state: Episode, action: chex.Array, params: WorldParams
    ) -> tuple[chex.Array, Episode, chex.Array, chex.Array, dict[str, chex.Array]]:
        """Takes one action, without starting another episode.

        Returns:
          observation, state, reward, whether the episode has ended by itself, info.
        """
        del key
        action = jnp.asarray(action, self.world.action_spec.dtype)
        state = advance(self.world, state, action)
        observation, state = self._apply_transition_gradient_policy(state.shown.observation, state)
        info = told(state) | {"discount": self.discount(state, params)}
        return observation, state, state.shown.reward, state.terminated, info

    def observe(
        self,
        key: chex.PRNGKey,
        state: Episode,
        action: chex.Array | None,
        params: WorldParams,
    ) -> chex.Array:
        """What a state shows."""
        del key, action, params
        return state.shown.observation

    def is_terminated(self, state: Episode, params: WorldParams) -> chex.Array:
        """Whether an episode has ended by itself, see `episode`."""
        del params
        return state.terminated

    def is_truncated(self, state: Episode, params: WorldParams) -> chex.Array:
        """Whether an episode has ended at the time limit alone."""
        late = state.time >= params.max_steps_in_episode
        return (state.truncated | late) & ~state.terminated

    def action_space(self, params: WorldParams | None = None) -> spaces.Discrete | spaces.Box:
        """Whole numbers from 0 on, or `(d_a,)` float32 between the bounds."""
        del params
        spec = self.world.action_spec
        if spec.discrete:
            return spaces.Discrete(spec.size)
        return spaces.Box(spec.low, spec.high, spec.shape, jnp.float32)

    def observation_space(self, params: WorldParams | None = None) -> spaces.Box:
        """0 to 1 for the head `"bernoulli"`, all float32 for `"gaussian"`; `(d,)` of its dtype."""
        del params
        spec = self.world.observation_spec
        largest = float(jnp.finfo(jnp.float32).max)
        low, high = (0, 1) if spec.head == "bernoulli" else (-largest, largest)
        return spaces.Box(low, high, spec.shape, spec.dtype)
