"""Settings of the ant's stages, so far `expert` and `collect`: presets `smoke`, `small`, `paper`.

`smoke` shows in seconds that the mechanics work, `small` is for two CPU cores, `paper` for an
accelerator. Choose with `--config=configs/ant.py:small`.
"""

import dataclasses

from ml_collections import ConfigDict

from internal_rl.envs import ant
from internal_rl.experts.ant_expert import AntExpertConfig

PRESETS = ("smoke", "small", "paper")


def get_config(preset: str = "small") -> ConfigDict:
    """All settings of one preset.

    Raises:
      ValueError: for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"config: preset '{preset}' is unknown, allowed are {', '.join(PRESETS)}")
    config = ConfigDict(
        {
            "preset": preset,
            "seed": 0,
            "environment": {"name": "ant-pinpad"} | dataclasses.asdict(ant.PRESETS[preset]),
            "expert": {
                "num_seeds": 1,
                # Episodes on the pretraining tasks and as many on the post-training task.
                "evaluation_episodes": 1_000,
                **dataclasses.asdict(AntExpertConfig()),
            },
            # Successful episodes on the pretraining tasks, for D and for the cleaner D* alike: the
            # paper does not say how many (open).
            "collect": {
                "num_seeds": 1,
                "num_shards": 32,
                "episodes_per_shard": 256,
                # Episodes played at a time.
                "batch_size": 256,
            },
        }
    )
    if preset == "paper":
        config.collect.update({"num_shards": 128, "episodes_per_shard": 1_024, "batch_size": 2_048})
    if preset == "smoke":
        config.collect.update({"num_shards": 2, "episodes_per_shard": 2, "batch_size": 8})
        config.expert.update(
            {
                "rounds": 2,
                "steps_per_round": 512,
                "num_worlds": 16,
                "batch_size": 8,
                "num_minibatches": 2,
                "unroll_length": 8,
                "hidden_sizes": (16,),
                "evaluation_episodes": 8,
            }
        )
    return config
