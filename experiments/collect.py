"""Writes the ant's datasets with the trained expert.

`D` for pretraining, the cleaner `D*`, and the tasks of a curriculum if there is one.
"""

import functools
import sys

import jax
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import build, launch
from experiments.expert import expert_config
from internal_rl import pretrained
from internal_rl.errors import ConfigError
from internal_rl.experts import ant_data, ant_ppo, shards
from internal_rl.files import storage_faults
from internal_rl.training.randomness import named_key
from internal_rl.training.stage_directory import StageDirectory


def collect(config: ConfigDict, workdir: str, seed: int) -> None:
    """Writes the datasets of one seed; goes on after the last finished shard."""
    world, settings, section = build.make_world(config), expert_config(config), config.collect
    directory = StageDirectory(workdir, "collect", seed)
    stage_config = launch.stage_config(config, "collect")
    directory.check(stage_config)
    if directory.finished:
        logging.info("collect: seed %d finished already", seed)
        return
    (expert_seed,) = build.upstream_seeds(config, "expert", (seed,))
    _take_shipped_expert(config, workdir, expert_seed)
    params = ant_ppo.as_params(launch.load_upstream(config, workdir, "expert", expert_seed))
    directory.begin(stage_config, [seed])
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
            bar = tqdm(
                total=section.num_shards, initial=finished, desc=f"collect {name}", unit="shard",
                dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 30.0,
            )  # fmt: skip
            with bar:
                shards.write_dataset(
                    folder,
                    {"dataset": name, "seed": seed},
                    section.num_shards,
                    lambda index, key=key, episodes=episodes: episodes(
                        key=jax.random.fold_in(key, index)
                    ),
                    lambda _, bar=bar: bar.update(),
                )
        directory.finish(section.num_shards)
    except ValueError as error:
        raise ConfigError(f"collect: {error}") from None
    finally:
        directory.release()


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
    with storage_faults(workdir):
        for seed in launch.seeds_of(config, "collect"):
            collect(config, workdir, seed)


if __name__ == "__main__":
    launch.run(main)
