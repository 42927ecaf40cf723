"""Sizes that no memory holds, refused before anything is made.

Every estimate counts what is certain to lie in memory at once and nothing else: a config that fits
is never refused. What it misses the traced program shows, see `training.program`.
"""

import dataclasses
from collections.abc import Iterator

from internal_rl.errors import ConfigError
from internal_rl.memory import memory_there_is, shown
from internal_rl.stages.settings import Settings
from internal_rl.training.settings import TrainingSettings

_FLOAT = 4
# Parameters, and the two moments of Adam.
_COPIES = 3


@dataclasses.dataclass(frozen=True)
class _Need:
    """What a field asks for.

    Attributes:
      field: its dotted name.
      num_bytes: at least.
    """

    field: str
    num_bytes: float


def check_memory(settings: Settings) -> None:
    """Compares what the sizes of a config need with the memory of the machine.

    Raises:
      ConfigError: names the field, what it needs at least and what there is.
    """
    there = memory_there_is()
    for need in _needs(settings):
        if need.num_bytes > there:
            section, name = need.field.split(".")
            value = getattr(settings.sections[section], name)
            raise ConfigError(
                f"config.{need.field}: {value} given, which needs {shown(need.num_bytes)} at least,"
                f" allowed is what fits into the {shown(there)} of memory here"
            )


def _needs(settings: Settings) -> Iterator[_Need]:
    if settings.data is not None:
        yield from _of_rows(settings)
    yield from _of_episodes(settings)
    yield from _of_model(settings)
    yield from _of_expert(settings)


def _together(settings: Settings, stage: str) -> int:
    """Seeds of a stage in one program; one after the other where its section does not tell."""
    return min(settings.num_seeds(stage), getattr(settings.sections[stage], "seeds_together", 1))


def _observation_bytes(settings: Settings) -> int:
    spec = settings.world.observation_spec
    return spec.size * spec.dtype.itemsize


def _of_rows(settings: Settings) -> Iterator[_Need]:
    """The packed rows of an update and of an evaluation."""
    data, token = settings.data, _observation_bytes(settings)
    residual = _FLOAT * settings.base.width if settings.base else 0
    yield _Need("data.sequence_length", data.sequence_length * token)
    for name, section in settings.sections.items():
        evaluated = getattr(section, "evaluation_rows", 0) * data.sequence_length
        yield _Need(f"{name}.evaluation_rows", evaluated * (token + residual))
        # Elsewhere a batch is one of episodes or samples, as of `collect` and `expert`.
        if not isinstance(section, TrainingSettings) or not hasattr(section, "batch_size"):
            continue
        parts = getattr(section, "num_parts", 1)
        rows = max(section.batch_size / data.trajectories_per_row, parts)
        field = "num_parts" if parts > section.batch_size else "batch_size"
        yield _Need(
            f"{name}.{field}", _together(settings, name) * rows * data.sequence_length * token
        )


def _of_episodes(settings: Settings) -> Iterator[_Need]:
    """What is kept of every step of the episodes that are played at once."""
    steps, width = settings.world.time_limit, settings.base.width if settings.base else 0
    for name, section in settings.sections.items():
        for field in ("evaluation_episodes", "reference_trajectories"):
            yield _Need(f"{name}.{field}", getattr(section, field, 0) * steps * 2 * _FLOAT)
        episodes = getattr(section, "episodes_per_update", 0)
        # Internal RL keeps the residual stream, at which it learns.
        kept = width if name == "internal_rl" else 2
        needed = episodes * steps * _FLOAT * kept
        if episodes:
            needed *= _together(settings, name)
        yield _Need(f"{name}.episodes_per_update", needed)


def _of_model(settings: Settings) -> Iterator[_Need]:
    """The parameters of a base model and what its optimiser keeps of them."""
    base, trained = settings.base, settings.pretrain
    if base is None or trained is None or base.block != "transformer":
        return
    attention = 4 * base.width * base.num_heads * base.head_size
    parameters = base.depth * (attention + 2 * base.width * base.mlp_size)
    needed = parameters * _FLOAT * _COPIES * _together(settings, "pretrain")
    sizes = {name: getattr(base, name) for name in ("width", "mlp_size", "head_size", "depth")}
    yield _Need(f"base.{max(sizes, key=sizes.get)}", needed)


def _of_expert(settings: Settings) -> Iterator[_Need]:
    """What PPO learns from at once, and the episodes of a shard."""
    token = _observation_bytes(settings)
    if expert := settings.expert:
        samples = expert.batch_size * expert.num_minibatches
        yield _Need("expert.batch_size", samples * expert.unroll_length * token)
        yield _Need("expert.num_worlds", expert.num_worlds * token)
        hidden = expert.hidden_sizes
        weights = sum(a * b for a, b in zip(hidden, hidden[1:], strict=False))
        yield _Need("expert.hidden_sizes", 2 * weights * _FLOAT * _COPIES)
    if collect := settings.collect:
        yield _Need("collect.batch_size", collect.batch_size * settings.world.time_limit * token)
        yield _Need("collect.episodes_per_shard", collect.episodes_per_shard * token)
