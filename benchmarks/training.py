"""Training rate of the base model."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import flops
from benchmarks.timing import Stopwatch
from experiments import build, pretrain
from internal_rl.types import Trajectory


def segment_lengths(segment: np.ndarray) -> np.ndarray:
    """Tokens of every packed trajectory of `segment (B, S)`, padding (-1) left out."""
    segment = np.asarray(segment)
    rows, num_tokens = segment.shape
    # A trajectory's index inside its row never reaches the row's number of tokens.
    place = segment + np.arange(rows)[:, None] * num_tokens
    counts = np.bincount(place[segment >= 0], minlength=1)
    return counts[counts > 0]


def training_flops(config: ConfigDict, batch: Trajectory) -> dict[str, float]:
    """Operations of one update: those that it needs, and those of all tokens and pairs of its rows.

    The program computes scores between all tokens of a row and masks those across trajectories and
    to the future; the need counts neither these nor padding.
    """
    world = build.make_world(config)
    shape = flops.BaseModelShape.of(config, world.observation_size, world.num_actions)
    observation_head = config.base.observation_loss > 0
    rows, length = batch.segment.shape
    lengths = segment_lengths(batch.segment)
    needed = float(lengths.sum()), flops.causal_pairs(lengths)
    computed = float(rows * length), float(rows * length**2)
    return {
        "needed": flops.base_training(shape, *needed, observation_head),
        "computed": flops.base_training(shape, *computed, observation_head),
    }


def benchmark(config: ConfigDict, stopwatch: Stopwatch, rows: int) -> dict:
    """Whole updates of the pretraining stage: data, gradient and optimiser, one seed."""
    config = config.copy_and_resolve_references()
    config.pretrain.batch_size = max(round(rows * config.data.trajectories_per_row), 1)
    config.pretrain.num_seeds = 1
    stage = pretrain.make_stage(config)
    state = jax.jit(stage.init)(jax.random.key(0), None)
    update = jax.jit(stage.update)
    stream = build.make_stream(config, build.make_world(config))
    batch = jax.jit(stream.next)(state.stream)[1]
    tokens = int(jnp.sum(batch.mask))
    timing = stopwatch.measure({"update": lambda: update(state, None)}, "training")["update"]
    operations = training_flops(config, batch)
    return {
        "rows": int(batch.segment.shape[0]),
        "tokens_per_update": tokens,
        "tokens_per_second": timing.rate(tokens),
        "flops_per_token": operations["needed"] / tokens,
        "flops_per_second": timing.rate(operations["needed"]),
        "share_of_matmul_rate": timing.share_of_matmul(operations["needed"]),
        "computed_share_of_matmul_rate": timing.share_of_matmul(operations["computed"]),
        "seconds": timing.best,
    }
