"""From settings to data, models and stages of the training loop."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from internal_rl.analysis.baselines import action_baselines
from internal_rl.analysis.study import StudyContext, measure_stage
from internal_rl.backend import product_dtype, resolved_precision
from internal_rl.envs.world import DataRequest
from internal_rl.errors import ConfigError
from internal_rl.experts.source_checks import make_checked_source
from internal_rl.files import storage_faults
from internal_rl.methods.code_finding import expected_params, steered_by
from internal_rl.methods.evaluation import evaluation_key, held_out
from internal_rl.methods.method import Method
from internal_rl.models.base_model import BaseModel
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import SettingError
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings, checked
from internal_rl.training.randomness import without_keys
from internal_rl.training.stage import Stage
from internal_rl.types import DataSource


def make_source(
    settings: Settings, places: Places, role: str, include_terminal: bool = False
) -> DataSource:
    """The trajectories that a stage learns from.

    Args:
      settings: of the run.
      places: where the datasets of the stage `collect` are looked for, if the config has it.
      role: `"pretraining"`, `"clean"` or `"curriculum"`, see `DataRequest`.
      include_terminal: whether each trajectory is to end with a token for its last observation.

    Raises:
      ConfigError: the world cannot make them from the section `data`.
      StageMissingError: the datasets have not been collected.
      StorageError: a shard is missing or altered.
    """

    def collected():
        directory = places.finished(settings, "collect", settings.seed)
        return directory.path, settings.collect.num_shards

    request = DataRequest(
        world=settings.world,
        settings=settings.data,
        role=role,
        include_terminal=include_terminal,
        tasks=curriculum_tasks(settings) if role == "curriculum" else "",
        seed=settings.seed,
        collected=collected if settings.collect else None,
    )
    with storage_faults(places.workdir):
        return checked(make_checked_source, "data", settings.environment["name"], request)


def curriculum_tasks(settings: Settings) -> str:
    """Tasks of the curriculum, as text; they belong to what makes the trajectories."""
    return (settings.collect or settings.pretrain).curriculum_tasks


def make_curriculum(settings: Settings, places: Places, source: DataSource) -> DataSource | None:
    """Trajectories on the tasks that the base model learns first; None without any.

    Args:
      settings: of the run.
      places: as `make_source`.
      source: what follows on it, with rows of the same kind.

    Raises:
      ConfigError: its rows are of another kind.
      UserError: as `make_source`.
    """
    if not settings.pretrain.curriculum_steps:
        return None
    curriculum = make_source(settings, places, "curriculum")
    allowed = _kind_of_rows(source)
    for name, found in _kind_of_rows(curriculum).items():
        if found != allowed[name]:
            raise ConfigError(
                f"config.data: {name} of the curriculum is {found}, allowed is {allowed[name]} as"
                f" of the data of pretraining{_REMEDIES.get(name, '')}"
            )
    return curriculum


_REMEDIES = {
    "sequence_length": "; from_arrays(..., sequence_length=N) makes rows of one length",
    "dtype of observations": "; from_arrays makes uint8 of whole numbers that are all 0 or 1, and"
    " float32 of real ones",
}


def _kind_of_rows(source: DataSource) -> dict[str, object]:
    """What rows have to have in common that one program reads."""
    key = jax.random.key(0)
    _, rows = jax.eval_shape(lambda arrays: source.next(source.init(key, 1), arrays), source.arrays)
    return {
        "sequence_length": source.sequence_length,
        "labelled": source.labelled,
        "dtype of observations": rows.observation.dtype,
        "dtype of actions": rows.action.dtype,
    }


def make_base(settings: Settings) -> BaseModel:
    """The base model, unbound."""
    world = settings.world
    return BaseModel(
        world.observation_spec,
        world.action_spec,
        settings.base,
        world.time_limit,
        dtype=product_dtype(settings.precision),
    )


def load_base(
    settings: Settings, places: Places, seeds: tuple[int, ...], step: int | None = None
) -> tuple[SteeredModel, SteeredModel]:
    """The pretrained base model for some seeds of a later stage.

    Args:
      settings: of the run.
      places: where stages are found.
      seeds: of the later stage.
      step: training age of the base model; None for its end.

    Returns:
      The model, and its axes over the seeds in the same form, see `Stage.frozen_axes`.

    Raises:
      UserError: as `Places.load`.
    """
    base = make_base(settings)
    expected = jax.eval_shape(base.initial_params, jax.random.key(0))
    params, axis = places.params(settings, "pretrain", seeds, step, expected)
    model = SteeredModel(base, 0, params)
    return model, model.replace(base_params=axis)


def load_start(settings: Settings, places: Places, stage: str) -> tuple[SteeredModel, SteeredModel]:
    """The base model on which a stage finds codes, for its seeds.

    Returns:
      As `load_base`; without parameters where the stage draws its own.

    Raises:
      UserError: as `Places.load`.
    """
    if settings.sections[stage].reads_base:
        return load_base(settings, places, settings.seeds_of(stage))
    model = SteeredModel(make_base(settings), 0, None)
    return model, model


def load_steered(
    settings: Settings, places: Places, seeds: tuple[int, ...]
) -> tuple[SteeredModel, SteeredModel]:
    """What internal RL steers, for some of its seeds: the stage `internal_rl.codes`.

    Its base model is the pretrained one, or the one that was trained with the codes.

    Returns:
      As `load_base`.

    Raises:
      UserError: as `Places.load`.
    """
    stage = settings.internal_rl.codes
    section = settings.sections[stage]
    base = make_base(settings)
    expected = expected_params(section, base)
    params, axis = places.params(settings, stage, seeds, expected=expected)
    if section.trains_base:
        model = SteeredModel(base, 0, None)
        base_axis = axis
    else:
        model, axes = load_base(settings, places, settings.seeds_read(stage, seeds))
        base_axis = axes.base_params
    steered = steered_by(section, model, params)
    return steered, steered.replace(base_params=base_axis, metacontroller_params=axis)


def reference_lines(settings: Settings, source: DataSource) -> dict[str, float]:
    """Constants beside the curves: exact ones where the expert is known, else baselines."""
    pretrain, key = settings.pretrain, evaluation_key("references")
    exact = checked(source.references, "data", key, pretrain.reference_trajectories)
    # Baselines are fitted to the rows of a dataset.
    if exact or not isinstance(source.arrays, Mapping) or "train" not in source.arrays:
        return exact
    rows = held_out(source, pretrain.evaluation_rows, source.arrays)
    train, spec = source.arrays["train"], settings.world.action_spec
    return action_baselines(spec, train, rows, key, pretrain.baseline_steps)


def stage_of(
    name: str,
    settings: Settings,
    method: Method,
    *,
    model_of=lambda state, frozen: frozen,
    source: DataSource | None = None,
    axes: SteeredModel | None = None,
    **more,
) -> Stage:
    """A method as a stage of the training loop, with the studies of its stage at its end.

    Args:
      name: of the stage.
      settings: of the run.
      method: what trains.
      model_of: `(state, frozen) -> SteeredModel`, the model that studies look at.
      source: where the rows of the method come from; None for one that acts.
      axes: axes over the seeds of the models in `method.frozen`; None where it holds none.
      **more: further fields of `Stage`.
    """
    section = settings.sections[name]

    def artifacts(state: Any, frozen: Any) -> Mapping[str, np.ndarray]:
        model = model_of(state, frozen)
        context = StudyContext(settings.world, model, method, state, frozen, source)
        return measure_stage(name, context)

    def may_end_at(num_steps: int) -> bool:
        # Within its warm-up it could not: such settings would be refused by all that reads them.
        try:
            dataclasses.replace(section, steps=num_steps)
        except SettingError:
            return False
        return True

    return Stage(
        name=settings.folder_of(name),
        config=settings.stage_config(name),
        init=method.init,
        update=method.update,
        evaluate=method.evaluate,
        params=method.params,
        frozen=method.frozen,
        frozen_axes=_frozen_axes(method.frozen, axes),
        artifacts=artifacts,
        seeds=settings.seeds_of(name),
        seeds_together=section.seeds_together,
        reads={seed: settings.reads(name, seed) for seed in settings.seeds_of(name)},
        num_steps=section.steps,
        may_end_at=may_end_at,
        log_every=section.log_every,
        evaluate_every=section.evaluate_every,
        checkpoint_every=section.checkpoint_every,
        checkpoint_minutes=section.checkpoint_minutes,
        steps_per_call=section.steps_per_call,
        computed={"precision": resolved_precision(settings.precision)},
        data_read=_checksum_of_data(method.frozen),
        **more,
    )


def _checksum_of_data(frozen: Any) -> str:
    """SHA-256 of the arrays of data that a method reads; empty where there are none.

    A run that goes on with others, of a dataset that was made anew for instance, would be neither
    the one nor the other.
    """
    parts = frozen if isinstance(frozen, Mapping) else {}
    leaves = jax.tree.leaves([parts.get(name) for name in ("data", "curriculum")])
    if not leaves:
        return ""
    found = hashlib.sha256()
    for leaf in leaves:
        array = np.ascontiguousarray(without_keys(leaf))
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8))
    return found.hexdigest()


def _frozen_axes(frozen: Any, axes: SteeredModel | None) -> Any:
    """Axes of all models in `frozen`; everything else is shared by the seeds."""

    def axes_of(part):
        if axes is None or not isinstance(part, SteeredModel):
            return None
        # What a method leaves out of a model has no axis.
        given = {
            name: getattr(axes, name)
            for name in ("base_params", "metacontroller_params")
            if getattr(part, name) is not None
        }
        return part.replace(**{"metacontroller_params": None} | given)

    if isinstance(frozen, Mapping):
        return {name: axes_of(part) for name, part in frozen.items()}
    return axes_of(frozen)
