"""Models and datasets with random contents, where a benchmark asks for their shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import build, launch
from internal_rl.experts import shards
from internal_rl.training.stage_directory import StageDirectory


def random_parameters(config: ConfigDict) -> dict:
    """Parameters of the base model and of the metacontroller as they are initialised."""
    world = build.make_world(config)
    base, metacontroller = build.make_base_model(config, world), build.make_metacontroller(config)
    key, segment = jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
    observation = jnp.zeros((1, 2, world.observation_size), jnp.uint8)
    residual = jnp.zeros((1, 2, config.base.width))
    return {
        "base": jax.jit(base.init)(key, observation, segment),
        "metacontroller": jax.jit(metacontroller.init)(key, residual, segment, key),
    }


def publish_random_parameters(config: ConfigDict, workdir: str) -> None:
    """Leaves the models that later stages read in `workdir`, as if they had been trained."""
    params = random_parameters(config)
    for section, name in (("pretrain", "base"), ("metacontroller", "metacontroller")):
        for seed in launch.seeds_of(config, section):
            directory = StageDirectory(workdir, launch.stage_name(config, section), seed)
            directory.begin(launch.stage_config(config, section), [seed])
            directory.save_params(params[name])
            directory.finish(config[section].steps)
            directory.release()


def publish_random_datasets(config: ConfigDict, workdir: str) -> None:
    """Leaves random datasets in `workdir`, as if they had been collected.

    They have one shard to train on beside those held out, and in each shard as few episodes as fill
    a row: `config.collect` is changed accordingly.
    """
    world = build.make_world(config)
    per_row = max(round(config.data.trajectories_per_row), 1)
    config.collect.num_shards = config.data.held_out_shards + 1
    config.collect.episodes_per_shard = per_row
    length = min(config.data.sequence_length // per_row, world.time_limit + 1)
    rng = np.random.default_rng(0)

    def episode():
        return {
            "observation": rng.normal(size=(length, world.observation_size)).astype(np.float32),
            "action": rng.uniform(-1, 1, (length, world.action_size)).astype(np.float32),
            "subgoal": rng.integers(0, world.task_set.num_subgoals, length).astype(np.int32),
            "mask": np.arange(length) < length - 1,
        }

    directory = StageDirectory(workdir, "collect", config.seed)
    directory.begin(launch.stage_config(config, "collect"), [config.seed])
    for name in build.datasets(config, world):
        shards.write_dataset(
            directory.path / name,
            {"dataset": name},
            config.collect.num_shards,
            lambda _: [episode() for _ in range(per_row)],
        )
    directory.finish(config.collect.num_shards)
    directory.release()


def dataset_bytes(config: ConfigDict) -> int:
    """Bytes of one dataset on the device, its rows as full as `trajectories_per_row` says."""
    world = build.make_world(config)
    rows = config.collect.num_shards * config.collect.episodes_per_shard
    rows = rows / config.data.trajectories_per_row
    # Observation, action, subgoal and segment of four bytes each, and the mask.
    token = 4 * (world.observation_size + world.action_size + 2) + 1
    return round(rows * config.data.sequence_length * token)
