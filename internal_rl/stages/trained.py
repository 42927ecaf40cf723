"""The stages that the training loop runs: a method each, with what it reads (method §3 to §6)."""

from internal_rl.envs.world import switch_tolerance
from internal_rl.errors import SubgoalsMissingError
from internal_rl.methods.code_finding import CodeFinder
from internal_rl.methods.compile import SegmentDiscovery
from internal_rl.methods.discovery import CodeDiscovery
from internal_rl.methods.internal_rl import InternalRL
from internal_rl.methods.pretraining import Pretraining
from internal_rl.methods.probing import Probing
from internal_rl.methods.raw_action import RawActionRL
from internal_rl.methods.steering import Steering
from internal_rl.models.steered_model import SteeredModel
from internal_rl.stages.build import (
    load_base,
    load_start,
    load_steered,
    make_base,
    make_curriculum,
    make_source,
    reference_lines,
    stage_of,
)
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings, checked
from internal_rl.training.stage import Stage
from internal_rl.types import DataSource


def make_pretrain(settings: Settings, places: Places) -> Stage:
    """The base model learns to predict experts."""
    source = make_source(settings, places, "pretraining")
    curriculum = make_curriculum(settings, places, source)
    base = make_base(settings)
    method = checked(Pretraining, "pretrain", settings.pretrain, base, source, curriculum)
    return stage_of(
        "pretrain",
        settings,
        method,
        model_of=lambda state, frozen: SteeredModel(base, 0, state.params),
        source=source,
        references=lambda: reference_lines(settings, source),
        snapshot_steps=tuple(settings.pretrain.snapshot_steps),
    )


def make_probe(settings: Settings, places: Places) -> Stage:
    """Linear probes of the subgoal at every layer of the base model."""
    source = make_source(settings, places, "pretraining")
    step = settings.probe.base_step or None
    model, axes = load_base(settings, places, settings.seeds_of("probe"), step)
    world = settings.world
    num_subgoals = _num_subgoals(settings, "probe", source)
    method = checked(
        Probing, "probe", settings.probe, model, source, num_subgoals, world.time_limit
    )
    return stage_of("probe", settings, method, model_of=_frozen_model, source=source, axes=axes)


def make_steer(settings: Settings, places: Places) -> Stage:
    """Supervised controllers at every layer of the base model."""
    source = make_source(settings, places, "clean")
    step = settings.steer.base_step or None
    model, axes = load_base(settings, places, settings.seeds_of("steer"), step)
    num_subgoals = _num_subgoals(settings, "steer", source)
    method = checked(Steering, "steer", settings.steer, model, source, num_subgoals)
    return stage_of("steer", settings, method, model_of=_frozen_model, source=source, axes=axes)


def make_metacontroller(settings: Settings, places: Places) -> Stage:
    """The metacontroller learns abstract actions without labels."""
    return make_code_finder("metacontroller", CodeDiscovery, settings, places)


def make_compile(settings: Settings, places: Places) -> Stage:
    """The baseline CompILE cuts trajectories into segments with one code each."""
    return make_code_finder("compile", SegmentDiscovery, settings, places)


def make_code_finder(
    name: str,
    method_class: type[CodeFinder],
    settings: Settings,
    places: Places,
) -> Stage:
    """A stage whose method finds codes in clean trajectories.

    Args:
      name: of the stage.
      method_class: the method.
      settings: of the run.
      places: where stages are found.
    """
    source = make_source(settings, places, "clean", include_terminal=True)
    model, axes = load_start(settings, places, name)
    section, tolerance = settings.sections[name], switch_tolerance(settings.world)
    method = checked(method_class, name, section, model, source, tolerance)
    return stage_of(
        name,
        settings,
        method,
        model_of=lambda state, frozen: method.steered(state.params, frozen),
        source=source,
        axes=axes,
        references=lambda: reference_lines(settings, source),
    )


def make_internal_rl(settings: Settings, places: Places) -> Stage:
    """A policy learns to choose codes of the frozen metacontroller, or of what takes its place."""
    model, axes = load_steered(settings, places, settings.seeds_of("internal_rl"))
    method = checked(InternalRL, "internal_rl", settings.internal_rl, settings.world, model)
    return stage_of("internal_rl", settings, method, axes=axes)


def make_raw_rl(settings: Settings, places: Places) -> Stage:
    """The base model learns from its own actions."""
    model, axes = load_base(settings, places, settings.seeds_of("raw_rl"))
    method = checked(RawActionRL, "raw_rl", settings.raw_rl, settings.world, model)
    return stage_of("raw_rl", settings, method, axes=axes)


def _frozen_model(state, frozen: dict) -> SteeredModel:
    """The model that a method has read without changing it."""
    del state
    return frozen["model"]


def _num_subgoals(settings: Settings, stage: str, source: DataSource) -> int:
    """Subgoals of the world.

    Raises:
      SubgoalsMissingError: the trajectories do not tell them, which the stage needs.
    """
    if not source.labelled:
        name = settings.environment["name"]
        raise SubgoalsMissingError(
            f"config.data: the trajectories of '{name}' tell no subgoals, allowed for the stage"
            f" {stage} are those that do"
        )
    return settings.world.num_subgoals
