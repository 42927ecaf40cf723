"""The stage `collect`: writes the ant's datasets with the trained expert.

`D` for pretraining, the cleaner `D*`, and the tasks of a curriculum if there is one.
"""

import functools

import jax
from absl import logging

from internal_rl import pretrained
from internal_rl.envs.tasks import Task, parse_tasks
from internal_rl.errors import ConfigError
from internal_rl.experts import ant_data, ant_ppo, shards
from internal_rl.stages.places import Places
from internal_rl.stages.seeds import for_each_seed
from internal_rl.stages.settings import Settings
from internal_rl.training.progress import Progress
from internal_rl.training.randomness import named_key
from internal_rl.training.stage_directory import StageDirectory


def datasets(settings: Settings) -> dict[str, tuple[tuple[Task, ...], bool]]:
    """Datasets by name: their tasks, and whether the expert's actions are its mean ones."""
    pretraining = settings.world.task_set.pretraining
    curriculum = parse_tasks(settings.collect.curriculum_tasks)
    wanted = {"pretraining": (pretraining, False), "clean": (pretraining, True)}
    return wanted | ({"curriculum": (curriculum, False)} if curriculum else {})


def collect(settings: Settings, params: tuple, directory: StageDirectory) -> int:
    """Writes the datasets of one seed; goes on after the last finished shard.

    Args:
      settings: of the run.
      params: of the expert.
      directory: of the seed.

    Returns:
      The number of shards of a dataset.

    Raises:
      ConfigError: the expert never succeeds.
    """
    section, seed = settings.collect, directory.seed
    try:
        for name, (tasks, deterministic) in datasets(settings).items():
            record = ant_data.make_recorder(settings.world, settings.expert, tasks, deterministic)
            key = named_key(jax.random.key(seed), name)
            episodes = functools.partial(
                ant_data.successful_episodes,
                record,
                params,
                num_episodes=section.episodes_per_shard,
                batch_size=section.batch_size,
            )
            folder = directory.path / name
            missing = shards.missing(folder, section.num_shards)
            finished = section.num_shards - len(missing)
            with Progress(section.num_shards, finished, f"collect {name}", "shard") as progress:
                shards.write_dataset(
                    folder,
                    {"dataset": name, "seed": seed},
                    section.num_shards,
                    lambda index, key=key, episodes=episodes: episodes(
                        key=jax.random.fold_in(key, index)
                    ),
                    functools.partial(_tell, progress),
                )
    except ValueError as error:
        raise ConfigError(f"collect: {error}") from None
    return section.num_shards


def _tell(progress: Progress, num_finished: int) -> None:
    del num_finished
    progress.advance()
    progress.tell({})


def _take_shipped_expert(settings: Settings, places: Places, seed: int) -> None:
    """Spares the training of the expert where one with the same settings is shipped."""
    name, wanted = settings.environment["name"], settings.stage_config("expert")
    if places.holds("expert", seed):
        return
    if pretrained.offers(name, settings.preset, "expert", seed, wanted):
        logging.info("collect: takes the expert that is shipped with the package")
        pretrained.install(name, settings.preset, places.workdir, "expert")


def run(settings: Settings, places: Places) -> None:
    """Collects for every seed."""

    def prepare(seed):
        (expert_seed,) = settings.seeds_read("expert", (seed,))
        _take_shipped_expert(settings, places, expert_seed)
        params = ant_ppo.as_params(places.load(settings, "expert", expert_seed))
        return functools.partial(collect, settings, params)

    def intact(directory):
        return all(
            not shards.missing(directory.path / name, settings.collect.num_shards)
            for name in datasets(settings)
        )

    for_each_seed(settings, places, "collect", prepare, intact)
