"""A method variant in one file: raw-action RL of a base model that was never pretrained.

With the line `STAGE` it is a stage with a section, checks, checkpoints and a place in whole runs.
"""

import dataclasses

import jax

from internal_rl.methods import raw_action
from internal_rl.methods.reinforcement.trainer import ReinforcementSettings
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import at_least, setting
from internal_rl.stages.build import make_base, stage_of
from internal_rl.stages.catalogue import StageSpec
from internal_rl.training.randomness import named_keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ReinforcementSettings):
    """Section `scratch_rl`.

    Attributes:
      num_seeds: seeds that are trained.
    """

    num_seeds: int = setting(1, at_least(1))


class ScratchRL(raw_action.RawActionRL):
    """Starts from an untrained model, another one for each seed."""

    def init(self, key, frozen):
        keys = named_keys(key, "params", "episodes")
        return self.start(frozen.base.initial_params(keys["params"]), keys["episodes"])


def make(settings, places):
    """The stage; it reads no other one."""
    del places
    base = make_base(settings)
    model = SteeredModel(base, 0, base.initial_params(jax.random.key(0)))
    method = ScratchRL(settings.scratch_rl, settings.world, model)
    return stage_of("scratch_rl", settings, method)


STAGE = StageSpec(
    "scratch_rl",
    Config,
    make=make,
    depends_on=("environment", "base", "scratch_rl"),
    like="raw_rl",
)
