"""From a config to worlds, data streams and models; what the scripts of all stages share."""

import os
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import launch
from internal_rl import envs
from internal_rl.envs import GridWorld, World
from internal_rl.envs.tasks import Task, check_task, parse_task, parse_tasks, task_array
from internal_rl.errors import ConfigError
from internal_rl.experts import shards
from internal_rl.experts.collect import ExpertStream, StreamState
from internal_rl.experts.dataset_stream import DatasetPosition, DatasetStream, as_trajectory
from internal_rl.files import storage_faults
from internal_rl.models.base_model import BaseModel
from internal_rl.models.metacontroller import Metacontroller
from internal_rl.models.policy import CodePolicy
from internal_rl.training.optimiser import make_optimiser, make_schedule

Stream = ExpertStream | DatasetStream
StreamPosition = StreamState | DatasetPosition

GATE_OF_VARIANT = {"forced": "one", "unaligned": "random"}


def checked(function: Callable, section: str, *args, **kwargs):
    """Calls a constructor; its ValueError becomes a ConfigError that names the section."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        raise ConfigError(f"config.{section}: {error}") from None


def make_world(config: ConfigDict) -> World:
    """The world of a config."""
    return checked(envs.make_from_config, "environment", config.environment.to_dict())


def make_stream(
    config: ConfigDict,
    world: World,
    workdir: str | os.PathLike,
    clean: bool = False,
    include_terminal: bool = False,
) -> Stream:
    """Expert trajectories on the pretraining tasks: `D`, or the cleaner `D*`.

    A stage `collect` in the config means that they lie in its datasets; otherwise the expert makes
    them as training goes.

    Raises:
      StageMissingError: the datasets have not been collected.
      StorageError: a shard is missing or altered.
    """
    if "collect" not in config:
        return make_expert_stream(config, world, clean, include_terminal)
    return _read_dataset(config, workdir, "clean" if clean else "pretraining")


def make_expert_stream(
    config: ConfigDict,
    world: GridWorld,
    clean: bool = False,
    include_terminal: bool = False,
    tasks: tuple[Task, ...] = (),
) -> ExpertStream:
    """Expert trajectories made on the device, on `tasks` or those of pretraining."""
    data = config.data
    tasks = tasks or world.task_set.pretraining
    return checked(
        ExpertStream,
        "data",
        world,
        task_array(tasks, max(map(len, tasks))),
        data.clean_ties if clean else data.ties,
        data.clean_epsilon if clean else data.epsilon,
        data.sequence_length,
        include_terminal,
    )


def make_curriculum(config: ConfigDict, world: World, workdir: str | os.PathLike) -> Stream | None:
    """Expert trajectories on the tasks that the base model learns first; None without any.

    Raises:
      StageMissingError, StorageError: as `make_stream`.
    """
    if not config.pretrain.curriculum_steps:
        return None
    if "collect" in config:
        return _read_dataset(config, workdir, "curriculum")
    return make_expert_stream(config, world, tasks=curriculum_tasks(config))


def curriculum_tasks(config: ConfigDict) -> tuple[Task, ...]:
    """Tasks of the curriculum; they belong to what makes the trajectories."""
    section = "collect" if "collect" in config else "pretrain"
    return parse_tasks(config[section].curriculum_tasks)


def datasets(config: ConfigDict, world: World) -> dict[str, tuple[tuple[Task, ...], bool]]:
    """Datasets of `collect`: their tasks, and whether the expert's actions are its mean ones."""
    pretraining, curriculum = world.task_set.pretraining, curriculum_tasks(config)
    wanted = {"pretraining": (pretraining, False), "clean": (pretraining, True)}
    return wanted | ({"curriculum": (curriculum, False)} if curriculum else {})


def _read_dataset(config: ConfigDict, workdir: str | os.PathLike, name: str) -> DatasetStream:
    """A dataset of the first seed of `collect`, its last shards held out.

    Every trajectory ends with its terminal observation, a token without target.
    """
    directory = launch.check_upstream(config, workdir, "collect", config.seed)
    folder = directory.path / name
    with storage_faults(folder):
        paths = shards.check_dataset(folder, config.collect.num_shards)
        num_held_out = config.data.held_out_shards
        train, held_out = (
            as_trajectory(shards.load_rows(part, config.data.sequence_length, config.seed))
            for part in (paths[:-num_held_out], paths[-num_held_out:])
        )
    return DatasetStream(train, held_out)


def make_base_model(config: ConfigDict, world: World) -> BaseModel:
    """The base model, unbound."""
    base = config.base
    return BaseModel(
        observation_size=world.observation_size,
        action_head=world.action_head,
        action_size=world.action_size,
        block=base.block,
        width=base.width,
        depth=base.depth,
        num_heads=base.num_heads,
        head_size=base.head_size,
        mlp_size=base.mlp_size,
        max_length=world.time_limit,
        init_scale=base.init_scale,
    )


def make_metacontroller(config: ConfigDict) -> Metacontroller:
    """The metacontroller of the config's variant, unbound."""
    meta = config.metacontroller
    if not 0 <= meta.layer <= config.base.depth:
        raise ConfigError(
            f"config.metacontroller.layer: {meta.layer} given, allowed is 0 to {config.base.depth}"
        )
    return Metacontroller(
        residual_size=config.base.width,
        gate=GATE_OF_VARIANT.get(meta.variant, meta.gate),
        **{
            name: meta[name]
            for name in (
                "code_size", "history_size", "embedding", "embedding_size", "embedding_depth",
                "embedding_slowness", "embedding_gap", "encoder_size", "switch_size",
                "decoder_size", "rank", "temperature", "switch_bias", "switch_rate",
                "initial_log_std", "controller_gain",
            )
        },
    )  # fmt: skip


def make_policy(config: ConfigDict) -> CodePolicy:
    """The policy over codes, unbound."""
    width = config.internal_rl.policy_width
    return CodePolicy(
        code_size=config.metacontroller.code_size,
        width=width,
        mlp_size=2 * width,
        initial_std=config.internal_rl.initial_std,
        min_std=config.internal_rl.min_std,
    )


def make_stage_optimiser(config: ConfigDict, section: str):
    """AdamW with the schedule of a stage."""
    settings = config[section]
    schedule = make_schedule(
        settings.learning_rate, settings.steps, settings.warmup_steps, settings.final_learning_rate
    )
    return make_optimiser(schedule, **launch.optimiser_of(settings))


def rl_task(config: ConfigDict, world: World, section: str) -> np.ndarray:
    """The task of a reinforcement-learning stage, `(K,)` int32."""
    text = config[section].task
    if not text:
        return np.asarray(world.post_training_task)
    field = f"config.{section}.task"
    task = checked(parse_task, f"{section}.task", text)
    try:
        check_task(task, world.config.num_colours, field)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return task_array((task,), len(task))[0]


def upstream_seeds(config: ConfigDict, section: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Which seed of an earlier stage each seed of a later one reads.

    The one that stands at the same place, counted modulo the number of seeds of the earlier stage:
    ten policies on one base model all read its only seed.
    """
    return tuple(config.seed + (k - config.seed) % config[section].num_seeds for k in seeds)


def load_params(
    config: ConfigDict,
    workdir: str | os.PathLike,
    section: str,
    seeds: tuple[int, ...],
    step: int | None = None,
) -> tuple[dict, int | None]:
    """Parameters of an earlier stage for every seed of a later one, see `upstream_seeds`.

    Returns:
      `(params, axis)`: with a leading axis over `seeds` and `axis = 0` where they differ, or shared
      by all seeds and `axis = None`.
    """
    sources = upstream_seeds(config, section, seeds)
    loaded = {k: launch.load_upstream(config, workdir, section, k, step) for k in set(sources)}
    if len(loaded) == 1:
        return loaded[sources[0]], None
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(loaded[k] for k in sources)), 0
