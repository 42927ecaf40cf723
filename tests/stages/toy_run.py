"""A world and two stages from outside that run in a second: `early`, and `late` that reads it."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.envs.world import register_world
from internal_rl.section import setting
from internal_rl.stages.catalogue import StageSpec
from internal_rl.training.optimiser import apply_gradients
from internal_rl.training.settings import SeedsPerInput, TrainingSettings
from internal_rl.training.stage import Stage
from internal_rl.types import ActionSpec, ObservationSpec, Timestep

WORLD = "toy-world"


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    time_limit: int = 4


class ToyWorld:
    """Nothing happens for a while."""

    observation_spec = ObservationSpec("gaussian", 1)
    action_spec = ActionSpec("categorical", 2)
    post_training_task = np.int32(0)

    def __init__(self, config: WorldConfig):
        self.config = config
        self.time_limit = config.time_limit

    def _show(self, time):
        return Timestep(jnp.zeros(1), jnp.float32(0), time >= self.time_limit)

    def reset(self, key, task):
        del key, task
        return jnp.int32(0), self._show(jnp.int32(0))

    def step(self, state, action):
        del action
        state = jnp.minimum(state + 1, self.time_limit)
        return state, self._show(state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainingSettings):
    """What the sections of both stages share.

    Attributes:
      target: what the parameter moves to.
    """

    steps: int = setting(4)
    log_every: int = setting(2)
    evaluate_every: int = setting(0)
    checkpoint_every: int = setting(2)
    steps_per_call: int = setting(2)
    learning_rate: float = setting(0.1)
    target: float = setting(1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyConfig(Config):
    """Section `early`.

    Attributes:
      num_seeds: seeds that are trained.
    """

    num_seeds: int = setting(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateConfig(Config, SeedsPerInput):
    """Section `late`."""


@struct.dataclass
class State:
    params: dict[str, chex.Array]
    optimiser_state: Any


@dataclasses.dataclass(frozen=True)
class Approach:
    """Moves a number towards the target, from `frozen["start"]`."""

    config: Config
    frozen: Any

    def init(self, key, frozen):
        params = {"x": frozen["start"] + jax.random.uniform(key, dtype=jnp.float32)}
        return State(params, self.config.make_optimiser().init(params))

    def update(self, state, frozen):
        del frozen

        def loss_of(params):
            return (params["x"] - self.config.target) ** 2

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        params, optimiser_state, _ = apply_gradients(
            self.config.make_optimiser(), gradients, state.optimiser_state, state.params
        )
        return State(params, optimiser_state), {"loss": loss}


def make_stage(name, settings, method, axes) -> Stage:
    section = settings.sections[name]
    return Stage(
        name=settings.folder_of(name),
        config=settings.stage_config(name),
        init=method.init,
        update=method.update,
        num_steps=section.steps,
        log_every=section.log_every,
        checkpoint_every=section.checkpoint_every,
        seeds=settings.seeds_of(name),
        seeds_together=section.seeds_together,
        reads={seed: settings.reads(name, seed) for seed in settings.seeds_of(name)},
        frozen=method.frozen,
        frozen_axes=axes,
    )


def make_early(settings, places) -> Stage:
    del places
    method = Approach(settings.early, {"start": jnp.float32(0)})
    return make_stage("early", settings, method, {"start": None})


def make_late(settings, places) -> Stage:
    params, axis = places.params(settings, "early", settings.seeds_of("late"))
    method = Approach(settings.late, {"start": params["x"]})
    return make_stage("late", settings, method, {"start": axis})


STAGES = (
    StageSpec("early", EarlyConfig, make=make_early, depends_on=("environment", "early")),
    StageSpec(
        "late",
        LateConfig,
        make=make_late,
        depends_on=("environment", "early", "late"),
        input="early",
    ),
)


def register() -> None:
    """Makes the world known; the stages are left to `catalogue.register_stage`."""
    register_world(WORLD, ToyWorld, config=WorldConfig, presets={"only": WorldConfig()})


def config_of(**sections) -> dict:
    """A config that has these two stages alone; `sections` change single fields."""
    config = {"preset": "only", "seed": 0, "environment": {"name": WORLD, "time_limit": 4}}
    defaults = {"early": EarlyConfig(), "late": LateConfig()}
    return config | {
        name: section.as_dict() | sections.get(name, {}) for name, section in defaults.items()
    }
