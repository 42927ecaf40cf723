"""Agents from shipped weights and from work directories."""

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np

from internal_rl import envs, pretrained
from internal_rl.agent import Agent
from internal_rl.analysis.results import SeedResults
from internal_rl.arguments import entries_of
from internal_rl.errors import ConfigError, StageMissingError, StorageError, UserError
from internal_rl.files import PUT_BACK, storage_faults
from internal_rl.methods import discovery, internal_rl
from internal_rl.methods.code_finding import CODE_STAGES, expected_params, steered_by
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.steered_model import SteeredModel
from internal_rl.paths import AnyPath, as_path
from internal_rl.stages.catalogue import STAGES, command_of
from internal_rl.stages.origin import command_that_made
from internal_rl.stages.places import Places
from internal_rl.training.stage_directory import StageDirectory, stage_of
from internal_rl.training.stage_results import load_stage, seed_read
from internal_rl.training.weights import check_weights
from internal_rl.training_data import TrainingData


def load(
    name: str | os.PathLike,
    *,
    seed: int = 0,
    variant: str = "discovered",
    policy: bool = False,
    upstream: Sequence[str | os.PathLike] = (),
) -> Agent:
    """An agent from shipped weights or from a work directory.

    Args:
      name: `"<world>/<preset>"` of shipped weights, such as `"gridworld-pinpad/small"`, or the work
        directory of a run that has finished `pretrain` and `metacontroller`.
      seed: which seed of the metacontroller; the base model is the one that it was trained on. With
        `policy` which seed of the policy, and the metacontroller is the one that it was trained on.
      variant: `"discovered"`, `"forced"`, `"unaligned"` or `"cotrained"`; `"compile"` for CompILE
        in the place of the metacontroller, or another stage that finds codes.
      policy: whether the trained policy over the codes chooses them in rollouts, which then are of
        the task that it was trained on; without it the base model acts alone.
      upstream: other work directories in which earlier stages may lie.

    Raises:
      ConfigError: there is no such variant or upstream folder, or a seed is no whole number from 0.
      StageMissingError: nothing of that name is shipped, or the stages are not finished.
      StageConflictError: a stage was made on other parameters than are found.
      StorageError: files cannot be read.
    """
    variants = (*discovery.VARIANTS, *(stage for stage in CODE_STAGES if stage != _CODES))
    if variant not in variants:
        raise ConfigError(f"variant: {variant!r} given, allowed are {', '.join(variants)}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed: {seed!r} given, allowed is a whole number from 0")
    if not isinstance(policy, bool | np.bool_):
        raise ConfigError(f"policy: {policy!r} given, allowed are True and False")
    upstream = entries_of("upstream", upstream, "work directories")
    workdir = as_path(name, "name")
    shipped = pretrained.folder_of(str(name))
    if shipped is not None:
        workdir = shipped
        pretrained.check(workdir)
    elif not workdir.is_dir():
        raise StageMissingError(
            f"{name}: no such weights are shipped and no such folder is there, allowed are"
            f" {', '.join(pretrained.names())} and work directories"
        )
    section = _CODES if variant in discovery.VARIANTS else variant
    ending = "" if variant == "discovered" else f"_{variant}"
    codes = f"{_CODES}{ending}" if section == _CODES else section
    asked = f"{_POLICY}{ending}" if policy else codes
    if shipped is not None:
        _check_shipped(str(name), shipped, asked, seed)
    places = Places(workdir, tuple(map(str, upstream)))
    stood_on = seed
    if policy:
        control_params, policy_config = _read(workdir, asked, seed, variant)
        stood_on = seed_read(workdir, asked, seed, section)
    place = as_path(places.reads_from(codes, stood_on)) if policy else workdir
    agent = _with_codes(places, place, codes, section, stood_on, variant)
    if not policy:
        return agent
    found = StageDirectory(place, codes, stood_on)
    _check_stands_on(StageDirectory(workdir, asked, seed), section, found)
    return _with_policy(agent, workdir, asked, seed, control_params, policy_config)


_CODES, _POLICY = "metacontroller", "internal_rl"


def _with_codes(
    places: Places, place: AnyPath, stage: str, section: str, seed: int, variant: str
) -> Agent:
    """Base model and metacontroller, or what takes its place.

    Args:
      places: where the base model is looked for.
      place: work directory of the codes.
      stage: their folder.
      section: name of their section.
      seed: of the codes.
      variant: for messages.
    """
    params, config = _read(place, stage, seed, variant)
    directory = StageDirectory(place, stage, seed)
    _require_sections(directory, config, "environment", "base", section)
    try:
        settings = STAGES[section].section.read(config[section])
        world = envs.make_from_config(config["environment"])
        base = BaseModel(
            world.observation_spec,
            world.action_spec,
            BaseConfig.read(config["base"]),
            world.time_limit,
        )
        data = TrainingData.of_config(config)
    except (ValueError, TypeError) as error:
        raise _unusable(directory, error) from error
    remedy = f"config.json of its {section} tells so; {PUT_BACK}"
    check_weights(params, expected_params(settings, base), str(directory.params_file()), remedy)
    # What was trained with the codes takes the place of the pretrained base model.
    base_params = None
    if not settings.trains_base:
        read = seed_read(place, stage, seed, "pretrain")
        base_place = as_path(places.reads_from("pretrain", read))
        base_directory = StageDirectory(base_place, "pretrain", read)
        base_params, _ = _read(base_place, "pretrain", read)
        shapes = jax.eval_shape(base.initial_params, jax.random.key(0))
        check_weights(base_params, shapes, str(base_directory.params_file()), remedy)
        _check_stands_on(directory, "pretrain", base_directory)
    model = steered_by(settings, SteeredModel(base, 0, base_params), params)
    return Agent(world, jax.device_put(model), data=data)


def _with_policy(
    agent: Agent, workdir: AnyPath, stage: str, seed: int, params: chex.ArrayTree, config: Mapping
) -> Agent:
    """An agent whose codes a policy chooses."""
    directory = StageDirectory(workdir, stage, seed)
    _require_sections(directory, config, _POLICY)
    try:
        settings = internal_rl.Config.read(config[_POLICY])
        trainer = internal_rl.InternalRL(settings, agent.world, agent.model)
    except (ValueError, TypeError) as error:
        raise _unusable(directory, error) from error
    width = agent.model.base.width
    shapes = jax.eval_shape(
        lambda key: trainer.policy.initial_params(key, width), jax.random.key(0)
    )
    remedy = f"config.json of its {_POLICY} tells so; {PUT_BACK}"
    check_weights(params, shapes, str(directory.params_file()), remedy)
    _, control = trainer.actor(jax.device_put(params), agent.model)
    return agent.replace(policy=control, task=trainer.task)


def _require_sections(directory: StageDirectory, config: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(config.get(name), dict):
            raise StorageError(
                f"{directory.path / 'config.json'}: has no section '{name}', allowed are stages"
                " that internal_rl has made"
            )


def _unusable(directory: StageDirectory, error: Exception) -> StorageError:
    file = directory.path / "config.json"
    return StorageError(f"{file}: nothing that can be made, {error}; {PUT_BACK}")


def _check_stands_on(directory: StageDirectory, stage: str, read: StageDirectory) -> None:
    """Raises StageConflictError where it was made on other parameters of a stage than are read."""
    with storage_faults(read.path):
        found = {stage: read.parameters_checksum}
    directory.check_parameters_read(found)


def _check_shipped(name: str, folder: AnyPath, stage: str, seed: int) -> None:
    """Raises StageMissingError if weights are shipped without a stage or one of its seeds."""
    if StageDirectory(folder, stage, seed).finished:
        return
    there = sorted(f"{path.parent.name} {path.name}" for path in folder.glob("*/seed_*"))
    raise StageMissingError(
        f"{name}: {stage} seed_{seed} is not shipped, there are {', '.join(there)}; others are read"
        " from a work directory that has trained them"
    )


def _read(
    workdir: AnyPath, stage: str, seed: int, variant: str = "discovered"
) -> tuple[dict, dict]:
    """Parameters and configuration; messages name the command that makes the stage."""
    if StageDirectory(workdir, stage, seed).finished:
        return load_stage(workdir, stage, seed, command=_command_that_made(workdir, stage, seed))
    section = stage_of(stage, STAGES)
    # The flags of what is there choose the config.
    made = _command_that_made(workdir, "pretrain", 0)
    flags = made.removeprefix(command_of("pretrain")) if not made.startswith("irl.") else ""
    flags = flags.strip() or f"--workdir={shlex.quote(str(workdir))}"
    if variant in discovery.VARIANTS and variant != "discovered" and section != "pretrain":
        flags = f"--config.metacontroller.variant={variant} {flags}"
    elif section == _POLICY and variant != "discovered":
        flags = f"--config.internal_rl.codes={variant} {flags}"
    return load_stage(workdir, stage, seed, command=f"{command_of(section)} {flags}")


def _command_that_made(workdir: AnyPath, stage: str, seed: int) -> str:
    """The command that made a finished stage; empty where nothing tells it."""
    directory = StageDirectory(workdir, stage, seed)
    if not directory.finished:
        return ""
    with storage_faults(directory.path):
        config = directory.read_config()["config"]
    with contextlib.suppress(UserError, AttributeError, KeyError, TypeError):
        # Of settings that cannot be there is none.
        made = command_that_made(SeedResults(stage, seed, config, (), {}))
        return made if made.startswith("irl.") else f"{made} --workdir={workdir}"
    return ""
