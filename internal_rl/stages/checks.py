"""Checks across the sections of a config, before anything runs.

What a field alone may be, its section knows.
"""

from internal_rl.envs.world import capabilities, world_entry
from internal_rl.errors import ConfigError
from internal_rl.methods.code_finding import CODE_STAGES
from internal_rl.methods.reinforcement.trainer import POLICY_STAGES
from internal_rl.section import LARGEST_WHOLE, SettingError
from internal_rl.stages.limits import check_memory
from internal_rl.stages.settings import Settings, checked

_EPISODES = ("evaluation_episodes", "episodes_per_update")

_PACKERS = {
    "internal_rl.experts.grid_data": ("held_out_shards",),
    "internal_rl.experts.shard_data": ("ties", "epsilon", "clean_ties", "clean_epsilon"),
}
"""Modules whose trajectories lie in rows as the section `data` says, and which of its fields they
do not read; others make rows of theirs, and may read all."""


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"config.{field}: {value!r} given, allowed is {allowed}")


def check_settings(settings: Settings) -> None:
    """Checks how the sections fit together and to the world.

    Raises:
      ConfigError: names the first field that is not allowed, and what is.
    """
    _check_models(settings)
    _check_data(settings)
    _check_tasks(settings)
    check_memory(settings)
    _check_counts(settings)


def _check_models(settings: Settings) -> None:
    base = settings.base
    for name in ("probe", "steer"):
        if name in settings.sections and settings.pretrain:
            age, steps = settings.sections[name].base_step, settings.pretrain.steps
            ages = settings.pretrain.ages
            allowed = f"0 or one of pretrain.snapshot_steps up to pretrain.steps = {steps}: {ages}"
            _require(age in (0, *ages), f"{name}.base_step", age, allowed)
    if settings.internal_rl:
        codes = settings.internal_rl.codes
        there = [name for name in CODE_STAGES if name in settings.sections]
        allowed = f"{', '.join(there)} here"
        _require(codes in there, "internal_rl.codes", codes, allowed)
    if base is None:
        return
    for name in CODE_STAGES:
        if name in settings.sections:
            try:
                lowest = settings.sections[name].lowest_layer
                base.check_layer(f"{name}.layer", settings.sections[name].layer, lowest)
            except SettingError as error:
                raise ConfigError(f"config.{error}") from None
    for name in ("steer", *CODE_STAGES):
        # What steers in another way than by matrices of some rank has no such field.
        rank = getattr(settings.sections.get(name), "rank", 0)
        allowed = f"0 (full) to {base.width} (base.width)"
        _require(rank <= base.width, f"{name}.rank", rank, allowed)


def _check_data(settings: Settings) -> None:
    if settings.data is None or settings.pretrain is None:
        return
    module = _data_module(settings)
    for field in _PACKERS.get(module, ()):
        default = type(settings.data)().as_dict()[field]
        allowed = f"{default!r}: no data of '{settings.environment['name']}' read it"
        value = getattr(settings.data, field)
        _require(value == default, f"data.{field}", value, allowed)
    if module in _PACKERS:
        # The longest episode and its terminal observation.
        longest, length = settings.world.time_limit + 1, settings.data.sequence_length
        allowed = f"{longest} or more (environment.time_limit + 1)"
        _require(length >= longest, "data.sequence_length", length, allowed)
    if settings.collect:
        count, tasks = settings.collect.num_seeds, settings.pretrain.curriculum_tasks
        allowed = "1: all base models learn from the data of one seed"
        _require(count == 1, "collect.num_seeds", count, allowed)
        allowed = "'': collected data have their curriculum from collect.curriculum_tasks"
        _require(not tasks, "pretrain.curriculum_tasks", tasks, allowed)
        held_out, num_shards = settings.data.held_out_shards, settings.collect.num_shards
        allowed = f"below {num_shards} (collect.num_shards)"
        _require(held_out < num_shards, "data.held_out_shards", held_out, allowed)


def _data_module(settings: Settings) -> str:
    """Module that makes the trajectories.

    Data from outside check themselves that trajectories fit, see `Dataset.from_arrays`.
    """
    data = world_entry(settings.environment["name"]).data
    return data.partition(":")[0] if isinstance(data, str) else getattr(data, "__module__", "")


def _check_tasks(settings: Settings) -> None:
    """Tasks are such as the world can read."""
    reads_tasks = "task_text" in capabilities(settings.world)
    for name in POLICY_STAGES:
        section = settings.sections.get(name)
        if section and section.task:
            _require(reads_tasks, f"{name}.task", section.task, "'': this world reads no tasks")
            checked(settings.world.parse_task, f"{name}.task", section.task)
    if settings.pretrain is None:
        return
    section = "collect" if settings.collect else "pretrain"
    field, text = f"{section}.curriculum_tasks", settings.sections[section].curriculum_tasks
    allowed = "tasks separated by commas, where pretrain.curriculum_steps is above 0"
    _require(bool(text) or not settings.pretrain.curriculum_steps, field, text, allowed)
    if reads_tasks and text:
        for task in text.split(","):
            checked(settings.world.parse_task, field, task)


def _check_counts(settings: Settings) -> None:
    """Steps of episodes that are played together have numbers of 32 bits, as have their slots."""
    steps = settings.world.time_limit
    most = LARGEST_WHOLE // (2 * steps)
    fields = [(name, field) for name in settings.sections for field in _EPISODES]
    for name, field in [*fields, ("collect", "batch_size")]:
        value = getattr(settings.sections.get(name), field, 0)
        allowed = f"up to {most} for episodes of environment.time_limit = {steps} steps"
        _require(value <= most, f"{name}.{field}", value, allowed)
