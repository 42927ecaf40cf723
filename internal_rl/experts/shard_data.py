"""Datasets that the stage `collect` has left on disk, as sources of rows."""

import numpy as np

from internal_rl.envs.world import DataRequest
from internal_rl.experts import shards
from internal_rl.experts.dataset import Dataset
from internal_rl.files import storage_faults
from internal_rl.types import Trajectory


def as_trajectory(rows: dict[str, np.ndarray]) -> Trajectory:
    """Packed rows of `shards.load_rows` as a `Trajectory`, `(N, S, ...)`.

    `next_observation` is None: it repeats the observations, see `dataset.with_next_observation`.
    """
    padding = rows["segment_ids"] == 0
    return Trajectory(
        observation=rows["observation"],
        next_observation=None,
        action=rows["action"],
        mask=rows["mask"] & ~padding,
        subgoal=np.where(padding, -1, rows["subgoal"]).astype(np.int32),
        segment=rows["segment_ids"] - 1,
    )


def make_source(request: DataRequest) -> Dataset:
    """The dataset that a stage asks for, its last shards held out.

    Every trajectory ends with its last observation, a token without target, whatever
    `request.include_terminal` says.

    Raises:
      ValueError: nothing is collected for this world, or all shards would be held out.
      UserError: the datasets have not been collected, or a shard is missing or altered.
    """
    if request.collected is None:
        raise ValueError("nothing is collected for this world, allowed is a config with `collect`")
    collected, num_shards = request.collected()
    folder, settings = collected / request.role, request.settings
    if settings.held_out_shards >= num_shards:
        raise ValueError(
            f"held_out_shards is {settings.held_out_shards}, allowed is below {num_shards}, the"
            " shards there are"
        )
    with storage_faults(folder):
        paths = shards.check_dataset(folder, num_shards)
        train, held_out = (
            as_trajectory(shards.load_rows(part, settings.sequence_length, request.seed))
            for part in (paths[: -settings.held_out_shards], paths[-settings.held_out_shards :])
        )
    return Dataset.from_rows(train, held_out, settings.trajectories_per_row)
