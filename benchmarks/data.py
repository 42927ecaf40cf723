"""Trajectories and tokens per second of the expert stream."""

import jax
import jax.numpy as jnp

from benchmarks.timing import Stopwatch
from internal_rl.stages.build import make_source
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings


def benchmark(settings: Settings, stopwatch: Stopwatch, rows: int) -> dict:
    """Data of pretraining, `rows` rows per call, with all one-hot observations written out.

    The bound is the memory bandwidth: the bytes of a batch, written once.
    """
    stream = make_source(settings, Places(""), "pretraining")
    next_rows = jax.jit(stream.next)
    state = stream.init(jax.random.key(0), rows)
    state, batch = next_rows(state)
    timing = stopwatch.measure({"data": lambda: next_rows(state)}, "data")["data"]
    tokens = int(jnp.sum(batch.mask))
    trajectories = int(jnp.sum(batch.segment.max(axis=1) + 1))
    num_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch))
    return {
        "rows": rows,
        "trajectories_per_row": trajectories / rows,
        "padding": float(jnp.mean(batch.segment < 0)),
        "tokens_per_second": timing.rate(tokens),
        "trajectories_per_second": timing.rate(trajectories),
        "share_of_copy_rate": timing.share_of_copy(num_bytes),
        "seconds": timing.best,
    }
