"""A world as a `gymnasium.Env`. Importing this file registers the worlds of this package."""

from typing import Any

import jax
import numpy as np

from internal_rl.envs.adapters import register_gym
from internal_rl.envs.adapters.episode import Episode, advance, start, told
from internal_rl.envs.adapters.worlds import find_task, find_world
from internal_rl.envs.world import capabilities, check_action, kept_by_first
from internal_rl.extras import needs_extra
from internal_rl.types import ActionSpec, ObservationSpec, World

with needs_extra("gym", "gymnasium's view of a world"):
    import gymnasium
    from gymnasium import spaces

RENDER_MODE = "rgb_array"
# Worlds whose programs are kept.
_NUM_KEPT = 16


def observation_space(spec: ObservationSpec) -> spaces.Box:
    """0 to 1 for the head `"bernoulli"`, without bounds for `"gaussian"`; `(d,)` of its dtype."""
    low, high = (0, 1) if spec.head == "bernoulli" else (-np.inf, np.inf)
    return spaces.Box(low, high, spec.shape, spec.dtype)


def action_space(spec: ActionSpec) -> spaces.Discrete | spaces.Box:
    """Whole numbers from 0 on, or `(d_a,)` float32 between the bounds."""
    if spec.discrete:
        return spaces.Discrete(spec.size)
    return spaces.Box(spec.low, spec.high, spec.shape, spec.dtype.type)


def metadata_of(world: World) -> dict[str, Any]:
    """What gymnasium calls metadata: how a world can be drawn, if it can."""
    if "pictures" not in capabilities(world):
        return {"render_modes": []}
    return {"render_modes": [RENDER_MODE], "render_fps": 1 / world.seconds_per_frame}


def check_render_mode(render_mode: str | None, metadata: dict[str, Any]) -> None:
    """Raises a ValueError unless the world can be drawn so."""
    allowed = [None, *metadata["render_modes"]]
    if render_mode not in allowed:
        raise ValueError(
            f"render_mode is {render_mode!r}, allowed are {', '.join(map(repr, allowed))}"
        )


def draw_seed(generator: np.random.Generator) -> np.uint32:
    """Seed of an episode."""
    return generator.integers(2**32, dtype=np.uint32)


def shown_by(episode: Episode) -> tuple:
    """`(observation, reward, terminated, truncated, info)` as arrays."""
    shown = episode.shown
    return shown.observation, shown.reward, episode.terminated, episode.truncated, told(episode)


class GymEnv(gymnasium.Env):
    """A world as a `gymnasium.Env`.

    `terminated` and `truncated` are those of `episode`. `info` holds `visit`, `progress` and
    `subgoal` where the world tells them, and `success`. Every reset draws one number from
    `np_random`, the seed of the episode. No option of `reset` has a meaning.

    Attributes:
      world: the world.
      task: of every episode, as `world.reset` takes it.
    """

    metadata = {"render_modes": [RENDER_MODE], "render_fps": 4}

    def __init__(
        self,
        world: World | str,
        *,
        preset: str = "paper",
        task: Any = None,
        render_mode: str | None = None,
    ):
        """Wraps a world.

        Args:
          world: a world, or the name of a registered one.
          preset: of a registered one.
          task: text that the world can read, or a task as `world.reset` takes it; None for
            `world.post_training_task`.
          render_mode: `"rgb_array"` where the world draws, or None.

        Raises:
          ValueError: an argument is not allowed; names it.
        """
        self.world = find_world(world, preset)
        self.task = find_task(self.world, task)
        self.metadata = metadata_of(self.world)
        check_render_mode(render_mode, self.metadata)
        self.render_mode = render_mode
        self.observation_space = observation_space(self.world.observation_spec)
        self.action_space = action_space(self.world.action_spec)
        self._start, self._advance = _programs(self.world)
        self._episode: Episode | None = None
        self._observation: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode, in a start that the world draws."""
        super().reset(seed=seed)
        del options
        self._episode, result = self._start(draw_seed(self.np_random), self.task)
        observation, *_, info = self._to_host(result)
        return observation, info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes one action; an episode that has ended stays as it is and pays nothing.

        Raises:
          ValueError: the world has no such action.
        """
        spec, action = self.world.action_spec, np.asarray(action)
        check_action(spec, action)
        self._require_episode("step")
        self._episode, result = self._advance(self._episode, action.astype(spec.dtype))
        return self._to_host(result)

    def render(self) -> np.ndarray | None:
        """The present picture `(H, W, 3)` uint8, None without a render mode.

        Raises:
          UserError: this machine has no library that draws.
        """
        self._require_episode("render")
        if self.render_mode is None:
            return None
        return self.world.frames(self._observation[None])[0]

    def _require_episode(self, name: str) -> None:
        if self._episode is None:
            raise gymnasium.error.ResetNeeded(f"{name} was called before reset")

    def _to_host(self, result: tuple) -> tuple:
        observation, reward, terminated, truncated, info = jax.device_get(result)
        # A copy of its own, which those who get it may write to.
        self._observation = np.array(observation)
        success = bool(info.pop("success"))
        info = {name: x[()] for name, x in info.items()} | {"success": success}
        return self._observation.copy(), float(reward), bool(terminated), bool(truncated), info


@kept_by_first(_NUM_KEPT)
def _programs(world: World) -> tuple:
    """Compiled functions that environments of one world share."""

    def begin(seed, task):
        episode = start(world, jax.random.key(seed), task)
        return episode, shown_by(episode)

    def go_on(episode, action):
        episode = advance(world, episode, action)
        return episode, shown_by(episode)

    return jax.jit(begin), jax.jit(go_on)


register_gym()
