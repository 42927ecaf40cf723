"""Codes out of unconditioned rollouts: the source of the paper's tests of codes (method §5).

The steered model acts with codes from N(0, I), for no task. Of the rollouts that visit one place
and no other, the code that was in force at the visit is taken to mean that place.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.acting.episodes import NOWHERE, act, start_worlds
from internal_rl.acting.random_codes import Injection, RandomCodes
from internal_rl.analysis.code_bank import CodeBank
from internal_rl.analysis.study import choose_slots
from internal_rl.analysis.transitions import visited_places
from internal_rl.envs.world import kept_by_first
from internal_rl.methods.code_tests import CodeTestSettings
from internal_rl.models.steered_model import SteeredModel
from internal_rl.training.mesh import by_all_devices
from internal_rl.types import World


@struct.dataclass
class Rollouts:
    """`B` free-running episodes of up to `T` steps, under `RandomCodes`.

    Attributes:
      active: `(B, T)` bool, the episode was running at this step.
      visit: `(B, T)` int32 place that the step entered, `NOWHERE` for none.
      code: `(B, T, n_z)` code in force.
      target: `(B, T)` int32 place that an injection aims at; -1 before it, and 0 behind the end.
      place: `(B, T, 2)` where the agent is before each step; None in a world that tells no scene.
    """

    active: chex.Array
    visit: chex.Array
    code: chex.Array
    target: chex.Array
    place: chex.Array | None


Play = Callable[[SteeredModel, tuple, chex.PRNGKey, Injection], Rollouts]
"""`play(model, start, key, injection)`: rollouts from `start`, which differ by what is injected."""


@kept_by_first(maxsize=4)
def make_play(world: World) -> Play:
    """The one program that plays all rollouts of the tests in a world, kept for other seeds."""
    tells_scene = hasattr(world, "scene")

    @by_all_devices
    def play(model, start, key, injection):
        num_episodes = start[1].done.shape[0]
        episodes = act(
            world,
            model,
            RandomCodes(injection),
            start,
            key,
            free_running=True,
            keep=("visit", "observation") if tells_scene else ("visit",),
            num_slots=choose_slots(num_episodes),
            shared=True,
        )
        record = episodes.record
        return Rollouts(
            active=episodes.active,
            visit=visited_places(episodes),
            code=record["code"],
            target=record["target"],
            place=world.scene(episodes.observation).place if tells_scene else None,
        )

    return play


def no_injection(world: World, num_episodes: int, code_size: int) -> Injection:
    """An injection that never comes."""
    places = world.num_places
    return Injection(
        codes=jnp.zeros((num_episodes, places, code_size), jnp.float32),
        preference=jnp.zeros((num_episodes, places), jnp.float32),
        allowed=jnp.zeros((places + 1, places), bool),
        first_step=jnp.int32(0),
        last_step=jnp.int32(0),
        enabled=jnp.array(False),
    )


def fresh_starts(world: World, key: chex.PRNGKey, num_episodes: int) -> tuple:
    """Starts of `num_episodes` episodes."""
    return _make_starts(world, num_episodes)(key, world.post_training_task)


@kept_by_first(maxsize=4)
def _make_starts(world: World, num_episodes: int) -> Callable:
    return jax.jit(lambda key, task: start_worlds(world, key, task, num_episodes))


def start_in_layouts(world: World, key: chex.PRNGKey, num_layouts: int, num_episodes: int) -> tuple:
    """Starts of `num_episodes` episodes, every `num_layouts`-th of which is the same."""
    start = fresh_starts(world, key, num_layouts)
    index = jnp.arange(num_episodes) % num_layouts
    return jax.tree.map(lambda leaf: leaf[index], start)


def codes_at_single_visits(
    visit: chex.Array, code: chex.Array, layout: chex.Array, num_steps: int
) -> CodeBank:
    """Codes in force where a rollout visits the only place that it visits at all.

    Args:
      visit: `(B, T)` int32 place that each step entered, `NOWHERE` for none.
      code: `(B, T, n_z)` code in force.
      layout: `(B,)` fingerprint of the layout.
      num_steps: steps that count.

    Returns:
      A bank of `B` codes, with the place as their goal, and -1 for rollouts that are not kept.
    """
    visit = visit[:, :num_steps]
    place = jnp.max(visit, axis=1)
    only = jnp.all((visit == place[:, None]) | (visit == NOWHERE), axis=1)
    at = jnp.argmax(visit >= 0, axis=1)
    found = jnp.take_along_axis(code, at[:, None, None], axis=1)[:, 0]
    return CodeBank(found, jnp.where(only, place, -1), layout)


def sample_codes(
    world: World,
    model: SteeredModel,
    key: chex.PRNGKey,
    num_episodes: int,
    settings: CodeTestSettings,
    *,
    play: Play,
) -> CodeBank:
    """Plays unconditioned rollouts and keeps their codes, see `codes_at_single_visits`.

    Args:
      world: tells visits and layouts, and runs free of any task.
      model: base model and metacontroller.
      key: randomness.
      num_episodes: rollouts.
      settings: in how many layouts they start, and how long they are.
      play: of `make_play`.
    """
    start_key, act_key = jax.random.split(key)
    start = start_in_layouts(world, start_key, settings.source_layouts, num_episodes)
    nothing = no_injection(world, num_episodes, model.metacontroller.config.code_size)
    rollouts = play(model, start, act_key, nothing)
    layout = jax.jit(world.layout_fingerprint)(start[1].observation)
    num_steps = settings.source_length(world.time_limit)
    return codes_at_single_visits(rollouts.visit, rollouts.code, layout, num_steps)
