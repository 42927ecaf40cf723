"""Sections `data` and `collect` of a config: where trajectories come from, how they are packed."""

import dataclasses

from internal_rl.envs.world import DataRequest
from internal_rl.experts.shortest_path import TIES
from internal_rl.experts.source_checks import make_checked_source
from internal_rl.section import COUNT, Section, at_least, one_of, setting, within
from internal_rl.types import DataSource, World


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSection(Section):
    """Section `data`.

    Attributes:
      sequence_length: tokens in a row; whole trajectories are packed one behind the other (open).
      trajectories_per_row: mean number of trajectories in a row, from which rows per update follow:
        every `batch_size` counts trajectories, as the paper does.
      ties: how the grid world's expert of pretraining breaks ties between shortest paths, see
        `shortest_path.TIES`.
      epsilon: its share of random harmless actions.
      clean_ties: the same for the cleaner data D*.
      clean_epsilon: the same for the cleaner data D*.
      held_out_shards: shards, the last ones of a collected dataset, that no stage trains on (open).
    """

    sequence_length: int = setting(256, within(1, 32_768))
    trajectories_per_row: float = setting(7.7, within(0.1, 1e6))
    ties: str = setting("random", one_of(TIES))
    epsilon: float = setting(0.0, within(0, 1))
    clean_ties: str = setting("random", one_of(TIES))
    clean_epsilon: float = setting(0.0, within(0, 1))
    held_out_shards: int = setting(4, at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectSection(Section):
    """Section `collect`: datasets of a trained expert, of successful episodes alone.

    Attributes:
      num_seeds: seeds that are collected: one, from which all base models learn.
      num_shards: shards of each dataset, for D and for the cleaner D* alike: the paper does not say
        how many episodes there are (open).
      episodes_per_shard: successful episodes in a shard.
      batch_size: episodes played at a time.
      curriculum_tasks: tasks of one more dataset, which the base model learns first, such as
        `"032,103"`; empty for none.
    """

    num_seeds: int = setting(1, COUNT)
    num_shards: int = setting(128, within(1, 99_999))
    episodes_per_shard: int = setting(1_024, at_least(1))
    batch_size: int = setting(2_048, at_least(1))
    curriculum_tasks: str = setting("")


def make_data(
    name: str,
    world: World,
    role: str = "pretraining",
    *,
    include_terminal: bool = False,
    tasks: str = "",
    **settings,
) -> DataSource:
    """Trajectories of a registered world, for a notebook.

    Args:
      name: of the world, as it is registered.
      world: the world.
      role: `"pretraining"`, `"clean"` or `"curriculum"`, see `DataRequest`.
      include_terminal: whether each trajectory ends with a token for its last observation, as those
        do that metacontrollers and CompILE learn from.
      tasks: of a curriculum; empty for other roles.
      **settings: fields of `DataSection`.

    Raises:
      ValueError: the world is unknown, has no data of its own or none that fit it, or an argument
        is not allowed.
    """
    request = DataRequest(
        world, DataSection(**settings), role=role, include_terminal=include_terminal, tasks=tasks
    )
    return make_checked_source(name, request)
