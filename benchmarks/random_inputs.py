"""Models and datasets with random contents, where a benchmark asks for their shapes alone."""

import jax
import numpy as np

from internal_rl.experts.dataset import Dataset
from internal_rl.methods.compile import SegmentDiscovery
from internal_rl.methods.discovery import CodeDiscovery
from internal_rl.methods.internal_rl import InternalRL
from internal_rl.methods.method import Method
from internal_rl.methods.pretraining import Pretraining
from internal_rl.methods.probing import Probing
from internal_rl.methods.raw_action import RawActionRL
from internal_rl.methods.steering import Steering
from internal_rl.models.metacontroller import Metacontroller
from internal_rl.models.steered_model import SteeredModel
from internal_rl.stages.build import make_base, make_source
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from internal_rl.types import DataSource

METHODS = ("pretrain", "probe", "steer", "metacontroller", "compile", "internal_rl", "raw_rl")


def random_model(settings: Settings) -> SteeredModel:
    """Base model and metacontroller as they are initialised."""
    base, section, key = make_base(settings), settings.metacontroller, jax.random.key(0)
    metacontroller = Metacontroller(base.width, section.metacontroller_config)
    return SteeredModel(
        base=base,
        layer=section.layer,
        base_params=jax.jit(base.initial_params)(key),
        metacontroller=metacontroller,
        metacontroller_params=jax.jit(metacontroller.initial_params)(key),
    )


def random_source(settings: Settings, role: str = "pretraining") -> DataSource:
    """What a world makes on the device; a tiny random dataset where it has to be collected."""
    if settings.collect is None:
        return make_source(settings, Places(""), role, include_terminal=role == "clean")
    world, rng = settings.world, np.random.default_rng(0)
    per_row = max(round(settings.data.trajectories_per_row), 1)
    tokens = min(settings.data.sequence_length // per_row, world.time_limit + 1)
    num = 2 * per_row
    data = Dataset.from_arrays(
        rng.normal(size=(num, tokens, world.observation_spec.size)).astype(np.float32),
        rng.uniform(-1, 1, (num, tokens - 1, world.action_spec.size)).astype(np.float32),
        np.full(num, tokens - 1),
        rng.integers(0, world.num_subgoals, (num, tokens - 1)),
        sequence_length=settings.data.sequence_length,
        held_out=per_row,
    )
    data.trajectories_per_row = settings.data.trajectories_per_row
    return data


def random_method(name: str, settings: Settings) -> Method:
    """The method of a stage on random models and data; `name` is one of `METHODS`."""
    world, model = settings.world, random_model(settings)
    base = model.alone().at_layer(0)
    if name == "internal_rl":
        return InternalRL(settings.internal_rl, world, model)
    if name == "raw_rl":
        return RawActionRL(settings.raw_rl, world, base)
    if name == "pretrain":
        source = random_source(settings)
        curriculum = source if settings.pretrain.curriculum_steps else None
        return Pretraining(settings.pretrain, base.base, source, curriculum)
    if name == "probe":
        source = random_source(settings)
        return Probing(settings.probe, base, source, world.num_subgoals, world.time_limit)
    source = random_source(settings, "clean")
    if name == "steer":
        return Steering(settings.steer, base, source, world.num_subgoals)
    if name == "compile":
        return SegmentDiscovery(settings.compile, base, source)
    return CodeDiscovery(settings.metacontroller, base, source)


def dataset_bytes(settings: Settings) -> int:
    """Bytes of one collected dataset on the device; 0 where the world makes its rows there.

    Its rows are as full as `trajectories_per_row` says.
    """
    if settings.collect is None:
        return 0
    world, collect = settings.world, settings.collect
    rows = collect.num_shards * collect.episodes_per_shard / settings.data.trajectories_per_row
    # Observation, action, subgoal and segment of four bytes each, and the mask.
    token = 4 * (world.observation_spec.size + world.action_spec.size + 2) + 1
    return round(rows * settings.data.sequence_length * token)
