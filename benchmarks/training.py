"""Training rate of the base model."""

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import flops
from benchmarks.timing import Stopwatch
from experiments import build, launch, pretrain
from internal_rl.models.reach import reaches_further
from internal_rl.models.transformer import query_blocks
from internal_rl.training.program import Program
from internal_rl.types import Trajectory

UPDATES_PER_CALL = 4


def segment_lengths(segment: np.ndarray) -> np.ndarray:
    """Tokens of every packed trajectory of `segment (B, S)`, padding (-1) left out."""
    segment = np.asarray(segment)
    rows, num_tokens = segment.shape
    # A trajectory's index inside its row never reaches the row's number of tokens.
    place = segment + np.arange(rows)[:, None] * num_tokens
    counts = np.bincount(place[segment >= 0], minlength=1)
    return counts[counts > 0]


def training_flops(config: ConfigDict, batch: Trajectory) -> dict[str, float]:
    """Operations of one update: those that it needs, and those that it computes.

    The program computes scores within blocks of queries and keys and masks those across
    trajectories and to the future; the need counts neither these nor padding.
    """
    world = build.make_world(config)
    shape = flops.BaseModelShape.of(config, world.observation_size, world.action_size)
    observation_head = config.base.observation_loss > 0
    rows, length = batch.segment.shape
    lengths = segment_lengths(batch.segment)
    needed = float(lengths.sum()), flops.causal_pairs(lengths)
    base = build.make_base_model(config, world)
    short = base.short_reach
    needs_all = short is None or bool(reaches_further(batch.segment, short))
    blocks = query_blocks(length, base.max_length if needs_all else short)
    pairs = sum((q.stop - q.start) * (k.stop - k.start) for q, k in blocks)
    computed = float(rows * length), float(rows * pairs)
    return {
        "needed": flops.base_training(shape, *needed, observation_head),
        "computed": flops.base_training(shape, *computed, observation_head),
    }


def benchmark(config: ConfigDict, stopwatch: Stopwatch, rows: int, workdir: str = "") -> dict:
    """Whole updates of the pretraining stage: data, gradient and optimiser, one seed.

    Runs `UPDATES_PER_CALL` updates in one compiled call, as the training loop does. Worlds that
    need datasets find them in `workdir`.
    """
    config = config.copy_and_resolve_references()
    # Fewer rows in fewer parts: each part keeps its size.
    share = rows / launch.rows_of(config, "pretrain")
    config.pretrain.num_parts = max(round(share * config.pretrain.num_parts), 1)
    config.pretrain.batch_size = max(round(rows * config.data.trajectories_per_row), 1)
    config.pretrain.num_seeds = 1
    program = Program(pretrain.make_stage(config, workdir))
    # The program reuses the memory of the state that it is given.
    held = [program.initial_state()]
    stream = build.make_stream(config, build.make_world(config), workdir)
    batch = jax.device_get(jax.jit(stream.next)(held[0].stream, stream.source)[1])

    def update():
        held[0], metrics = program.advance(held[0], UPDATES_PER_CALL)
        return metrics

    timing = stopwatch.measure({"update": update}, "training")["update"]
    tokens = float(batch.mask.sum())
    operations = training_flops(config, batch)
    needed, computed = (UPDATES_PER_CALL * operations[kind] for kind in ("needed", "computed"))
    return {
        "rows": int(batch.segment.shape[0]),
        "tokens_per_update": tokens,
        "tokens_per_second": timing.rate(UPDATES_PER_CALL * tokens),
        "flops_per_token": operations["needed"] / tokens,
        "flops_per_second": timing.rate(needed),
        "share_of_matmul_rate": timing.share_of_matmul(needed),
        "computed_share_of_matmul_rate": timing.share_of_matmul(computed),
        "seconds": timing.best / UPDATES_PER_CALL,
    }
