"""Training rate of the base model."""

import jax
import numpy as np

from benchmarks import flops
from benchmarks.random_inputs import random_method
from benchmarks.timing import Stopwatch
from internal_rl.models.reach import reaches_further
from internal_rl.models.transformer import query_blocks
from internal_rl.stages.build import make_base, stage_of
from internal_rl.stages.settings import Settings
from internal_rl.training.program import Program
from internal_rl.types import Trajectory, num_rows

UPDATES_PER_CALL = 4


def segment_lengths(segment: np.ndarray) -> np.ndarray:
    """Tokens of every packed trajectory of `segment (B, S)`, padding (-1) left out."""
    segment = np.asarray(segment)
    rows, num_tokens = segment.shape
    # A trajectory's index inside its row never reaches the row's number of tokens.
    place = segment + np.arange(rows)[:, None] * num_tokens
    counts = np.bincount(place[segment >= 0], minlength=1)
    return counts[counts > 0]


def training_flops(settings: Settings, batch: Trajectory) -> dict[str, float]:
    """Operations of one update: those that it needs, and those that it computes.

    The program computes scores within blocks of queries and keys and masks those across
    trajectories and to the future; the need counts neither these nor padding.
    """
    shape = flops.BaseModelShape.of(settings)
    observation_head = settings.base.observation_loss > 0
    rows, length = batch.segment.shape
    lengths = segment_lengths(batch.segment)
    needed = float(lengths.sum()), flops.causal_pairs(lengths)
    base = make_base(settings)
    short = base.short_reach
    needs_all = short is None or bool(reaches_further(batch.segment, short))
    blocks = query_blocks(length, base.max_length if needs_all else short)
    pairs = sum((q.stop - q.start) * (k.stop - k.start) for q, k in blocks)
    computed = float(rows * length), float(rows * pairs)
    return {
        "needed": flops.base_training(shape, *needed, observation_head),
        "computed": flops.base_training(shape, *computed, observation_head),
    }


def with_rows(settings: Settings, rows: int) -> Settings:
    """One seed and `rows` rows per update of `pretrain`; each part of a batch keeps its size."""
    section, per_row = settings.pretrain, settings.data.trajectories_per_row
    share = rows / max(round(section.batch_size / per_row), 1)
    return settings.updated(
        "pretrain",
        num_seeds=1,
        num_parts=max(round(share * section.num_parts), 1),
        batch_size=max(round(rows * per_row), 1),
    )


def benchmark(settings: Settings, stopwatch: Stopwatch, rows: int) -> dict:
    """Whole updates of pretraining: data, gradient and optimiser, one seed.

    Runs `UPDATES_PER_CALL` updates in one compiled call, as the training loop does.
    """
    settings = with_rows(settings, rows)
    method = random_method("pretrain", settings)
    program = Program(stage_of("pretrain", settings, method, source=method.source))
    # The program reuses the memory of the state that it is given.
    held = [program.initial_state()]
    source = method.source
    batch = jax.device_get(jax.jit(source.next)(held[0].stream, source.arrays)[1])

    def update():
        held[0], metrics = program.advance(held[0], UPDATES_PER_CALL)
        return metrics

    timing = stopwatch.measure({"update": update}, "training")["update"]
    tokens = float(batch.mask.sum())
    operations = training_flops(settings, batch)
    needed, computed = (UPDATES_PER_CALL * operations[kind] for kind in ("needed", "computed"))
    return {
        "rows": num_rows(source, settings.pretrain.batch_size),
        "tokens_per_update": tokens,
        "tokens_per_second": timing.rate(UPDATES_PER_CALL * tokens),
        "flops_per_token": operations["needed"] / tokens,
        "flops_per_second": timing.rate(needed),
        "share_of_matmul_rate": timing.share_of_matmul(needed),
        "computed_share_of_matmul_rate": timing.share_of_matmul(computed),
        "seconds": timing.best / UPDATES_PER_CALL,
    }
