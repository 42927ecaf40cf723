"""Writes the ant's datasets with the trained expert.

`D` for pretraining, the cleaner `D*`, and the tasks of a curriculum if there is one.
"""

import functools

import jax
from absl import logging
from ml_collections import ConfigDict

from experiments import build, launch
from experiments.expert import expert_config
from internal_rl import pretrained
from internal_rl.errors import ConfigError
from internal_rl.experts import ant_data, ant_ppo, shards
from internal_rl.training.metrics import progress_bar
from internal_rl.training.randomness import named_key
from internal_rl.training.stage_directory import StageDirectory


def collect(config: ConfigDict, params: tuple, directory: StageDirectory) -> int:
    """Writes the datasets of one seed; goes on after the last finished shard.

    Args:
      config: all settings.
      params: of the expert.
      directory: of the seed.

    Returns:
      The number of shards of a dataset.

    Raises:
      ConfigError: the expert never succeeds.
    """
    world, settings, section = build.make_world(config), expert_config(config), config.collect
    seed = directory.seed
    try:
        for name, (tasks, deterministic) in build.datasets(config, world).items():
            record = ant_data.make_recorder(world, settings, tasks, deterministic)
            key = named_key(jax.random.key(seed), name)
            episodes = functools.partial(
                ant_data.successful_episodes,
                record,
                params,
                num_episodes=section.episodes_per_shard,
                batch_size=section.batch_size,
            )
            folder = directory.path / name
            finished = len(shards.read_manifest(folder)["shards"])
            with progress_bar(section.num_shards, finished, f"collect {name}", "shard") as bar:
                shards.write_dataset(
                    folder,
                    {"dataset": name, "seed": seed},
                    section.num_shards,
                    lambda index, key=key, episodes=episodes: episodes(
                        key=jax.random.fold_in(key, index)
                    ),
                    lambda _, bar=bar: bar.update(),
                )
    except ValueError as error:
        raise ConfigError(f"collect: {error}") from None
    return section.num_shards


def _take_shipped_expert(config: ConfigDict, workdir: str, seed: int) -> None:
    """Spares the training of the expert where one with the same settings is shipped."""
    name, wanted = config.environment.name, launch.stage_config(config, "expert")
    if StageDirectory(workdir, "expert", seed).path.exists():
        return
    if pretrained.offers(name, config.preset, "expert", seed, wanted):
        logging.info("collect: takes the expert that is shipped with the package")
        pretrained.install(name, config.preset, workdir, "expert")


def main(config: ConfigDict, workdir: str) -> None:
    """Collects for every seed."""

    def prepare(seed):
        (expert_seed,) = build.upstream_seeds(config, "expert", (seed,))
        _take_shipped_expert(config, workdir, expert_seed)
        params = ant_ppo.as_params(launch.load_upstream(config, workdir, "expert", expert_seed))
        return functools.partial(collect, config, params)

    launch.for_each_seed(config, workdir, "collect", prepare)


if __name__ == "__main__":
    launch.run(main)
