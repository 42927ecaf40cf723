"""Measures what the project does per second, beside what bounds it on this machine.

`python -m benchmarks.run --json` prints one JSON object; without `--json` the same as a table.
Progress goes to the standard error.
"""

import json
import os
import sys

import jax
import jax.numpy as jnp
from absl import app, flags

import internal_rl
from benchmarks import ant, ant_models, data, environment, reinforcement, training
from benchmarks.choices import chosen
from benchmarks.timing import CLOCKS, Stopwatch
from configs import ant as ant_config
from configs import gridworld
from internal_rl.backend import on_cpu, product_dtype, resolved_precision
from internal_rl.errors import EXIT_USER_ERROR, UserError
from internal_rl.host_threads import available_cores
from internal_rl.stages.settings import PRESETS, Settings

# Exit code of faults that the user can mend.
SECTIONS = ("environment", "data", "training", "internal_rl", "raw_rl")
# Measured once, not for every preset.
WORLDS = ("ant", "ant_models")
# Tokens of one training update on a CPU, where the batch of the paper would take half a minute; the
# rate hardly depends on it.
CPU_TOKENS = 4096


def define_flags() -> None:
    """Flags of the command line; not at import, so that both programs can be imported."""
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.")
    flags.DEFINE_list(
        "preset",
        ["small", "paper"],
        "Presets, of both worlds.",
    )
    flags.DEFINE_list("only", [*SECTIONS, *WORLDS], "What to measure.")
    flags.DEFINE_integer("repeats", 3, "Repetitions of every program.")
    flags.DEFINE_enum(
        "clock", "wall", CLOCKS, "'cpu' leaves out what other processes take from a single core."
    )


def matmul_shapes(settings: Settings, rows: int) -> tuple[tuple[int, int, int], ...]:
    """`(M, K, N)` of products as in the base model on `rows` rows of tokens, and square ones."""
    base = settings.base
    tokens = rows * settings.data.sequence_length
    attention = base.num_heads * base.head_size
    shapes = (
        (tokens, base.width, 3 * attention),
        (tokens, base.width, base.mlp_size),
        (tokens, base.mlp_size, base.width),
        (1024, 1024, 1024),
        (2048, 2048, 2048),
    )
    # Nothing smaller fills an accelerator.
    return shapes if on_cpu() else (*shapes, (8192, 8192, 8192))


def ant_matmul_shapes(settings: Settings) -> tuple[tuple[int, int, int], ...]:
    """The same for the ant's base model, whose blocks have no attention."""
    base, tokens = settings.base, ant_models.CPU_TOKENS
    square, hidden = (tokens, base.width, base.width), (tokens, base.width, base.mlp_size)
    return (square, hidden, (1024, 1024, 1024))


def training_rows(settings: Settings) -> int:
    """Rows of a training update; fewer than the config's on a CPU, see `CPU_TOKENS`."""
    pretrain, per_row = settings.pretrain, settings.data.trajectories_per_row
    rows = max(round(pretrain.batch_size / per_row), 1)
    rows = -(-rows // pretrain.num_parts) * pretrain.num_parts
    if jax.default_backend() != "cpu":
        return rows
    return max(min(rows, CPU_TOKENS // settings.data.sequence_length), 1)


def machine() -> dict:
    """What the figures were measured on."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "cores": available_cores(),
        "load": os.getloadavg()[0],
        "host_threads": internal_rl.HOST_THREADS,
        "jax": jax.__version__,
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",
    }


def benchmark(settings: Settings, only: tuple[str, ...], clock: str, repeats: int) -> dict:
    """All chosen figures of one preset.

    Args:
      settings: as `configs/gridworld.py` makes them.
      only: sections to measure, see `SECTIONS`.
      clock: see `timing.make_clock`.
      repeats: repetitions of every program.

    Returns:
      Nested dictionaries of numbers and strings: one entry per section, and `bounds`.
    """
    rows = training_rows(settings)
    dtype = product_dtype(settings.precision) or jnp.float32
    stopwatch = Stopwatch(clock, repeats, matmul_shapes(settings, rows), dtype)
    sections = {
        "environment": lambda: environment.benchmark(settings.world, stopwatch),
        "data": lambda: data.benchmark(settings, stopwatch, rows),
        "training": lambda: training.benchmark(settings, stopwatch, rows),
        "internal_rl": lambda: reinforcement.benchmark_internal(settings, stopwatch),
        "raw_rl": lambda: reinforcement.benchmark_raw(settings, stopwatch),
    }
    result = {name: sections[name]() for name in SECTIONS if name in only}
    bounds = {
        "precision": resolved_precision(settings.precision),
        "matmul_flops_per_second": stopwatch.matmul_rate,
        "matmul_flops_per_second_by_shape": stopwatch.matmul_rates,
        "copy_bytes_per_second": stopwatch.copy_rate,
    }
    return {"bounds": bounds, **result}


def table(figures: dict, indent: int = 0) -> str:
    """Nested dictionaries as indented lines."""
    lines = []
    for name, value in figures.items():
        head = "  " * indent + name
        if isinstance(value, dict):
            lines += [head, table(value, indent + 1)]
        else:
            shown = f"{value:,.4g}" if isinstance(value, float) else value
            lines.append(f"{head:<52}{shown}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    del arguments
    try:
        presets = chosen(flags.FLAGS.preset, PRESETS, "preset")
        only = chosen(flags.FLAGS.only, SECTIONS + WORLDS, "only")
        figures = {"machine": machine(), "clock": flags.FLAGS.clock, "repeats": flags.FLAGS.repeats}
        figures["presets"] = {
            preset: benchmark(
                Settings.read(gridworld.get_config(preset)),
                only,
                flags.FLAGS.clock,
                flags.FLAGS.repeats,
            )
            for preset in presets
            if set(only) & set(SECTIONS)
        }
        if "ant" in only:
            # The bounds of a matrix product say little about physics: one shape will do.
            stopwatch = Stopwatch(flags.FLAGS.clock, flags.FLAGS.repeats, ((1024, 1024, 1024),))
            figures["ant"] = ant.benchmark(stopwatch)
        if "ant_models" in only:
            figures["ant_models"] = {}
            for preset in presets:
                settings = Settings.read(ant_config.get_config(preset))
                shapes = ant_matmul_shapes(settings)
                stopwatch = Stopwatch(flags.FLAGS.clock, flags.FLAGS.repeats, shapes)
                figures["ant_models"][preset] = ant_models.benchmark(settings, stopwatch)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    print(json.dumps(figures, indent=2) if flags.FLAGS.json else table(figures))


if __name__ == "__main__":
    define_flags()
    app.run(main)
