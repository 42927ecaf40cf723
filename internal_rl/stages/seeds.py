"""Stages that are no loop of updates: seed by seed, each resumed on its own terms."""

from collections.abc import Callable

from absl import logging

from internal_rl.files import storage_faults
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from internal_rl.training.stage_directory import StageDirectory


def for_each_seed(
    settings: Settings,
    places: Places,
    stage: str,
    prepare: Callable[[int], Callable[[StageDirectory], int]],
    intact: Callable[[StageDirectory], bool],
) -> None:
    """Runs a stage for every seed; finished seeds stay as they are, if nothing of them is missing.

    Args:
      settings: of the run.
      places: where stages are found.
      stage: its name.
      prepare: `prepare(seed)` reads what the seed needs, before its directory is made; it returns
        `work(directory)`, which goes on from what it finds there and returns the steps taken.
      intact: whether all that a finished seed has left is there; what is missing is made again.

    Raises:
      StageConflictError: a directory was made with another configuration, or is in use.
      StorageError: the work directory cannot be read or written.
    """
    config = settings.stage_config(stage)
    with storage_faults(places.workdir):
        for seed in settings.seeds_of(stage):
            directory = places.directory(settings, stage, seed)
            directory.check(config)
            if directory.finished and intact(directory):
                logging.info("%s: seed %d finished already", stage, seed)
                continue
            work = prepare(seed)
            directory.begin(config, [seed])
            try:
                directory.finish(work(directory))
            finally:
                directory.release()
