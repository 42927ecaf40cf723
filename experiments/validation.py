"""Checks of a whole config before anything runs: each fault names the field and what is allowed."""

from collections.abc import Callable, Iterator, Mapping

from ml_collections import ConfigDict

from internal_rl import envs
from internal_rl.envs import tasks
from internal_rl.errors import ConfigError
from internal_rl.experts.ant_expert import AntExpertConfig
from internal_rl.experts.shortest_path import TIES
from internal_rl.models.base_model import BLOCKS
from internal_rl.models.metacontroller import GATES
from internal_rl.models.sequence_embedding import EMBEDDINGS
from internal_rl.training.optimiser import OPTIMISERS

# Fields of the section `expert` that are the stage's own and not the expert's.
EXPERT_STAGE_FIELDS = ("num_seeds", "evaluation_episodes")
VARIANTS = ("discovered", "forced", "unaligned")

Rule = tuple[Callable[[object], bool], str]


def _at_least(lowest: float) -> Rule:
    return lambda value: value >= lowest, f"{lowest} or more"


def _within(lowest: float, highest: float) -> Rule:
    return lambda value: lowest <= value <= highest, f"{lowest} to {highest}"


def _one_of(choices: tuple[str, ...]) -> Rule:
    return lambda value: value in choices, ", ".join(choices)


_POSITIVE: Rule = (lambda value: value > 0, "above 0")
_ONE_OR_MORE = _at_least(1)
_ZERO_OR_MORE = _at_least(0)
_ANY: Rule = (lambda value: True, "any")

# Rules by the last part of a field's name: the same name means the same in every section.
_RULES: dict[str, Rule] = {
    "seed": _ZERO_OR_MORE,
    "num_seeds": _ONE_OR_MORE,
    "steps": _ONE_OR_MORE,
    "log_every": _ONE_OR_MORE,
    "evaluate_every": _ZERO_OR_MORE,
    "checkpoint_every": _ONE_OR_MORE,
    "steps_per_call": _ONE_OR_MORE,
    "base_step": _ZERO_OR_MORE,
    "curriculum_steps": _ZERO_OR_MORE,
    "num_parts": _ONE_OR_MORE,
    "batch_size": _ONE_OR_MORE,
    "evaluation_rows": _ONE_OR_MORE,
    "evaluation_episodes": _ONE_OR_MORE,
    "reference_trajectories": _ONE_OR_MORE,
    "episodes_per_update": _at_least(2),
    "num_epochs": _ONE_OR_MORE,
    "num_minibatches": _ONE_OR_MORE,
    "sequence_length": _ONE_OR_MORE,
    "trajectories_per_row": _POSITIVE,
    "ties": _one_of(TIES),
    "clean_ties": _one_of(TIES),
    "epsilon": _within(0, 1),
    "clean_epsilon": _within(0, 1),
    "block": _one_of(BLOCKS),
    "depth": _ONE_OR_MORE,
    "num_heads": _ONE_OR_MORE,
    "head_size": _ONE_OR_MORE,
    "width": _ONE_OR_MORE,
    "mlp_size": _ONE_OR_MORE,
    "init_scale": _POSITIVE,
    "observation_loss": _ZERO_OR_MORE,
    "learning_rate": _POSITIVE,
    "warmup_steps": _ZERO_OR_MORE,
    "final_learning_rate": _ANY,
    "weight_decay": _ZERO_OR_MORE,
    "optimiser": _one_of(OPTIMISERS),
    "b1": _within(0, 1),
    "b2": _within(0, 1),
    "max_gradient_norm": _ZERO_OR_MORE,
    "rank": _ZERO_OR_MORE,
    "variant": _one_of(VARIANTS),
    "gate": _one_of(GATES),
    "temperature": _POSITIVE,
    "switch_rate": _within(0, 1),
    "code_size": _ONE_OR_MORE,
    "history_size": _ONE_OR_MORE,
    "embedding": _one_of(EMBEDDINGS),
    "embedding_size": _ONE_OR_MORE,
    "embedding_depth": _ONE_OR_MORE,
    "embedding_slowness": _POSITIVE,
    "embedding_gap": _ZERO_OR_MORE,
    "encoder_size": _ONE_OR_MORE,
    "switch_size": _ONE_OR_MORE,
    "decoder_size": _ONE_OR_MORE,
    "alpha": _ZERO_OR_MORE,
    "alpha_start": _ZERO_OR_MORE,
    "alpha_free_steps": _ZERO_OR_MORE,
    "alpha_ramp_steps": _ZERO_OR_MORE,
    "min_action_std": _ZERO_OR_MORE,
    "gate_open_steps": _ZERO_OR_MORE,
    "gate_release_steps": _ZERO_OR_MORE,
    "controller_gain": _POSITIVE,
    "policy_width": _ONE_OR_MORE,
    "initial_std": _within(0.1, 10),
    "min_std": _within(0.01, 10),
    "threshold": _within(0, 1),
    "clip": _POSITIVE,
    "rounds": _ONE_OR_MORE,
    "steps_per_round": _ONE_OR_MORE,
    "num_worlds": _ONE_OR_MORE,
    "num_shards": _ONE_OR_MORE,
    "held_out_shards": _ONE_OR_MORE,
    "baseline_steps": _ONE_OR_MORE,
    "episodes_per_shard": _ONE_OR_MORE,
    "unroll_length": _ONE_OR_MORE,
    "num_passes": _ONE_OR_MORE,
    "entropy_cost": _ZERO_OR_MORE,
    "control_cost": _ZERO_OR_MORE,
    "hop_cost": _ZERO_OR_MORE,
    "failure_cost": _ZERO_OR_MORE,
    "success_reward": _ZERO_OR_MORE,
    "discounting": _within(0, 1),
    "gae_lambda": _within(0, 1),
    "reward_scaling": _POSITIVE,
}


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"config.{field}: {value!r} given, allowed is {allowed}")


def _fields(config: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check_config(config: ConfigDict) -> None:
    """Checks ranges, names and how the fields fit together.

    Args:
      config: as `configs/gridworld.py` or `configs/ant.py` makes it.

    Raises:
      ConfigError: names the first field that is not allowed, and what is.
    """
    for field, value in _fields(config):
        holds, allowed = _RULES.get(field.rsplit(".", 1)[-1], _ANY)
        _require(holds(value), field, value, allowed)
    if "expert" in config:
        _check_expert(config)
    if "pretrain" in config:
        _check_schedules(config)
        _check_models(config)
    _check_world(config)


def _check_expert(config: ConfigDict) -> None:
    fields = config.expert.to_dict()
    for name in EXPERT_STAGE_FIELDS:
        fields.pop(name)
    try:
        AntExpertConfig(**fields)
    except ValueError as error:
        raise ConfigError(f"config.expert: {error}") from None


def _check_schedules(config: ConfigDict) -> None:
    for name, section in config.items():
        if not isinstance(section, ConfigDict) or "log_every" not in section:
            continue
        multiples = f"a multiple of log_every = {section.log_every}"
        for field in ("checkpoint_every", "evaluate_every"):
            value = section[field]
            _require(value % section.log_every == 0, f"{name}.{field}", value, multiples)
        _require(
            section.warmup_steps < section.steps,
            f"{name}.warmup_steps",
            section.warmup_steps,
            f"below steps = {section.steps}",
        )
    ages = config.pretrain.snapshot_steps
    _require(
        all(isinstance(age, int) and age > 0 for age in ages)
        and all(age % config.pretrain.log_every == 0 for age in ages),
        "pretrain.snapshot_steps",
        ages,
        f"a tuple of multiples of log_every = {config.pretrain.log_every}",
    )
    age = config.probe.base_step
    _require(
        age in (0, *ages), "probe.base_step", age, f"0 or one of pretrain.snapshot_steps = {ages}"
    )


def _check_models(config: ConfigDict) -> None:
    base, width = config.base, config.base.width
    if base.block == "hawk":
        _require(
            width % base.num_heads == 0,
            "base.num_heads",
            base.num_heads,
            f"a divisor of base.width = {width}",
        )
    layer, layers = config.metacontroller.layer, _within(0, base.depth)
    _require(layers[0](layer), "metacontroller.layer", layer, f"{layers[1]} (base.depth)")
    alpha, start = config.metacontroller.alpha, config.metacontroller.alpha_start
    allowed = f"0 to {alpha} (metacontroller.alpha)"
    _require(start <= alpha, "metacontroller.alpha_start", start, allowed)
    policy = config.internal_rl
    allowed = f"below {policy.initial_std} (internal_rl.initial_std)"
    _require(policy.min_std < policy.initial_std, "internal_rl.min_std", policy.min_std, allowed)
    for name in ("steer", "metacontroller"):
        rank = config[name].rank
        _require(rank <= width, f"{name}.rank", rank, f"0 (full) to {width} (base.width)")


def _check_world(config: ConfigDict) -> None:
    world = config.environment
    try:
        task_set = envs.make_from_config(world).task_set
    except ValueError as error:
        raise ConfigError(f"config.environment: {error}") from None
    if "pretrain" not in config:
        return
    # The longest episode and its terminal observation.
    longest, length = world.time_limit + 1, config.data.sequence_length
    allowed = f"{longest} or more (environment.time_limit + 1)"
    _require(length >= longest, "data.sequence_length", length, allowed)
    if "collect" in config:
        held_out, num_shards = config.data.held_out_shards, config.collect.num_shards
        allowed = f"below {num_shards} (collect.num_shards)"
        _require(held_out < num_shards, "data.held_out_shards", held_out, allowed)
    _check_curriculum(config, task_set)
    for name in ("internal_rl", "raw_rl"):
        if config[name].task:
            try:
                task = tasks.parse_task(config[name].task)
                tasks.check_task(task, task_set.num_colours)
                task_set.subgoal_ids(task)
            except ValueError as error:
                raise ConfigError(f"config.{name}.task: {error}") from None


def _check_curriculum(config: ConfigDict, task_set: tasks.TaskSet) -> None:
    section = "collect" if "collect" in config else "pretrain"
    text, field = config[section].curriculum_tasks, f"{section}.curriculum_tasks"
    allowed = "tasks separated by commas, where pretrain.curriculum_steps is above 0"
    _require(bool(text) or not config.pretrain.curriculum_steps, field, text, allowed)
    try:
        for task in tasks.parse_tasks(text):
            tasks.check_task(task, task_set.num_colours)
            task_set.subgoal_ids(task)
    except ValueError as error:
        raise ConfigError(f"config.{field}: {error}") from None
