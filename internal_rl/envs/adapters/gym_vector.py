"""Many episodes of a world as one `gymnasium.vector.VectorEnv`: one program steps all of them."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.envs.adapters.episode import Episode, advance, start
from internal_rl.envs.adapters.gym import (
    action_space,
    check_render_mode,
    draw_seed,
    metadata_of,
    observation_space,
    shown_by,
)
from internal_rl.envs.adapters.worlds import find_task, find_world
from internal_rl.extras import needs_extra
from internal_rl.types import World

with needs_extra("gym", "gymnasium's view of a world"):
    from gymnasium import error, vector
    from gymnasium.utils import seeding
    from gymnasium.vector.utils import batch_space

# One in so many environments starts anew at once: episodes end at different times, and a start may
# cost far more than a step.
SHARE_OF_STARTS = 16


class GymVectorEnv(vector.VectorEnv):
    """A world as a `gymnasium.vector.VectorEnv`.

    Gives what `gymnasium.vector.SyncVectorEnv` gives of as many `gym.GymEnv`, with the same seeds
    and in its mode "next step": the step after an episode's end ignores the action, pays nothing
    and shows the start of the next episode.

    Attributes:
      world: the world.
      task: of every episode, as `world.reset` takes it.
    """

    metadata = {"autoreset_mode": vector.AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int,
        world: World | str,
        *,
        preset: str = "paper",
        task: Any = None,
        render_mode: str | None = None,
    ):
        """Wraps a world.

        Args:
          num_envs: `N`, environments side by side.
          world: a world, or the name of a registered one.
          preset: of a registered one.
          task: as in `gym.GymEnv`.
          render_mode: as in `gym.GymEnv`.

        Raises:
          ValueError: an argument is not allowed; names it.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, allowed is 1 or more")
        self.world = find_world(world, preset)
        self.task = find_task(self.world, task)
        self.metadata = metadata_of(self.world) | type(self).metadata
        check_render_mode(render_mode, self.metadata)
        self.render_mode = render_mode
        self.num_envs = num_envs
        self.single_observation_space = observation_space(self.world.observation_spec)
        self.single_action_space = action_space(self.world.action_spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._begin = jax.jit(functools.partial(_begin, self.world))
        self._go_on = jax.jit(functools.partial(_go_on, self.world))
        self._episodes: Episode | None = None
        self._observations: np.ndarray | None = None
        spec = self.world.action_spec
        self._no_actions = np.zeros((num_envs, *spec.shape), spec.dtype)
        self._ended = np.zeros(num_envs, bool)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes everywhere, or where `options["reset_mask"] (N,)` bool says so.

        Args:
          seed: of the first environment, the others have the following ones; or one for each.
          options: at most a reset_mask.

        Raises:
          ValueError: seeds or mask have another length or type.
        """
        mask = self._reset_mask(options)
        self._seed(seed, mask)
        start_seeds = self._draw_seeds(mask)
        if self._episodes is None:
            if not mask.all():
                raise error.ResetNeeded("reset_mask leaves out environments that never began")
            self._episodes, result = self._begin(start_seeds, self.task)
        else:
            moves = (False, self._no_actions)
            self._episodes, result = self._go_on(
                self._episodes, moves, (mask, start_seeds), self.task
            )
        observations, *_, infos = self._to_host(result)
        # As if nothing had happened to the others, which the mask leaves out.
        self._ended &= ~mask
        return observations, _with_masks(infos, mask)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one action in every environment; where an episode has ended, the next one begins.

        Args:
          actions: `(N,)` whole numbers, or `(N, d_a)` real ones.

        Raises:
          ValueError: the world has no such action.
        """
        if self._episodes is None:
            raise error.ResetNeeded("step was called before reset")
        begins = self._ended
        actions = self._checked(actions, begins)
        start_seeds = self._draw_seeds(begins)
        self._episodes, result = self._go_on(
            self._episodes, (True, actions), (begins, start_seeds), self.task
        )
        observations, rewards, terminated, truncated, infos = self._to_host(result)
        self._ended = terminated | truncated
        infos = _with_masks(infos, np.ones(self.num_envs, bool))
        return observations, rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present picture `(H, W, 3)` uint8 of every environment, None without a render mode.

        Raises:
          UserError: this machine has no library that draws.
        """
        if self.render_mode is None:
            return None
        if self._episodes is None:
            raise error.ResetNeeded("render was called before reset")
        observations = self._observations
        return tuple(self.world.frames(x[None])[0] for x in observations)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """The generator of every environment."""
        self._seed(None, np.ones(self.num_envs, bool))
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """The seed of every generator."""
        self._seed(None, np.ones(self.num_envs, bool))
        return tuple(self._seeds)

    def _reset_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"reset_mask is {mask.dtype}{list(mask.shape)}, allowed is bool[{self.num_envs}]"
                " with at least one True"
            )
        return mask

    def _seed(self, seed: int | list[int | None] | None, mask: np.ndarray) -> None:
        """Makes generators where a seed is given or there is none yet."""
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has length {len(seeds)}, allowed is num_envs = {self.num_envs}")
        for i in np.flatnonzero(mask):
            if seeds[i] is not None or self._generators[i] is None:
                self._generators[i], self._seeds[i] = seeding.np_random(seeds[i])

    def _draw_seeds(self, mask: np.ndarray) -> np.ndarray:
        """Seeds `(N,)` of the episodes that begin; 0 elsewhere."""
        seeds = np.zeros(self.num_envs, np.uint32)
        for i in np.flatnonzero(mask):
            seeds[i] = draw_seed(self._generators[i])
        return seeds

    def _checked(self, actions: Any, ignored: np.ndarray) -> np.ndarray:
        spec, actions = self.world.action_spec, np.asarray(actions)
        shape = (self.num_envs, *spec.shape)
        if actions.shape != shape:
            raise ValueError(f"actions have shape {actions.shape}, allowed is {shape}")
        if spec.discrete:
            actions = np.where(ignored, 0, actions)
            if actions.dtype.kind not in "iu" or actions.min() < 0 or actions.max() >= spec.size:
                raise ValueError(
                    f"actions are {actions.dtype} from {actions.min()} to {actions.max()}, allowed"
                    f" are the whole numbers 0 to {spec.size - 1}"
                )
        return actions.astype(spec.dtype)

    def _to_host(self, result: tuple) -> tuple:
        # Copies, which those who get them may write to.
        observations, rewards, *others = jax.tree.map(np.array, jax.device_get(result))
        self._observations = observations
        return observations.copy(), rewards.astype(np.float64), *others


def _with_masks(infos: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, np.ndarray]:
    """gymnasium's infos of many: beside each array, under `_name`, whose numbers it holds."""
    found = {}
    for name, values in infos.items():
        kept = mask.reshape(-1, *[1] * (values.ndim - 1))
        found[name] = np.where(kept, values, np.zeros_like(values))
        found[f"_{name}"] = mask.copy()
    return found


def _start_all(world: World, seeds: chex.Array, task: Any) -> Episode:
    return jax.vmap(lambda seed: start(world, jax.random.key(seed), task))(seeds)


def _begin(world: World, seeds: chex.Array, task: Any) -> tuple:
    """The first episodes, `seeds (N,)` uint32."""
    episodes = _start_all(world, seeds, task)
    return episodes, shown_by(episodes)


def _go_on(
    world: World,
    episodes: Episode,
    moves: tuple[chex.Array, chex.Array],
    begins: tuple[chex.Array, chex.Array],
    task: Any,
) -> tuple:
    """A step of all episodes, and then new ones where some begin.

    Args:
      world: the world.
      episodes: `N` of them.
      moves: `()` bool whether there is a step at all, and the actions `(N, ...)`.
      begins: `(N,)` bool which begin, and the seeds `(N,)` uint32 of those that do.
      task: of those that begin.
    """
    (moving, actions), (begins, seeds) = moves, begins
    episodes = jax.lax.cond(
        moving, jax.vmap(functools.partial(advance, world)), lambda kept, _: kept, episodes, actions
    )
    num_envs = len(begins)
    size = -(-num_envs // SHARE_OF_STARTS)
    order = jnp.argsort(~begins, stable=True)
    count = jnp.sum(begins)

    def renew(carry):
        first, episodes = carry
        # The last part may hold some a second time, which the same seeds start alike.
        chosen = jax.lax.dynamic_slice_in_dim(order, first, size)
        fresh = _start_all(world, seeds[chosen], task)
        place = jnp.where(begins[chosen], chosen, num_envs)
        episodes = jax.tree.map(
            lambda old, new: old.at[place].set(new, mode="drop"), episodes, fresh
        )
        return first + size, episodes

    _, episodes = jax.lax.while_loop(
        lambda carry: carry[0] < count, renew, (jnp.int32(0), episodes)
    )
    return episodes, shown_by(episodes)
