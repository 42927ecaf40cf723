"""Device memory of the compiled update of every stage, by XLA's own analysis.

`python -m benchmarks.memory` compiles the stages of the `paper` preset, runs none of them, and
prints one line for each: arguments (parameters, optimiser, data stream, frozen models), outputs,
temporary arrays, what outputs share with arguments, the dataset where there is one (computed, the
program is compiled on a tiny one), and the sum that the device must hold.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks.choices import chosen
from benchmarks.random_inputs import METHODS, dataset_bytes, random_method
from configs import ant, gridworld
from internal_rl.errors import EXIT_USER_ERROR, ConfigError, UserError
from internal_rl.models.steered_model import SteeredModel
from internal_rl.stages.build import stage_of
from internal_rl.stages.catalogue import stage_spec
from internal_rl.stages.settings import Settings
from internal_rl.training.program import Program
from internal_rl.training.stage import Stage

# Exit code of faults that the user can mend.
# Methods that hold a dataset, where the world needs one.
READS_DATASET = ("pretrain", "probe", "steer", "metacontroller", "compile")
WORLDS = {"gridworld": (gridworld, 16 * 2**30), "ant": (ant, 32 * 2**30)}
PARTS = ("argument", "output", "temp", "alias")


def define_flags() -> None:
    """Flags of the command line; not at import, so that both programs can be imported."""
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.")
    flags.DEFINE_enum("world", "gridworld", list(WORLDS), "Which file of configs.")
    flags.DEFINE_string("preset", "paper", "Preset of that file.")
    flags.DEFINE_list("only", list(METHODS), "Stages to compile.")
    flags.DEFINE_integer(
        "num_seeds",
        0,
        "Seeds of every stage in one program; 0 for as many as the preset trains together.",
    )


def update_memory(stage: Stage) -> dict[str, int]:
    """Bytes of the compiled update: the `PARTS` and their `total`."""
    program = Program(stage)
    program.compile_update()
    return compiled_memory(program)


def compiled_memory(program: Program) -> dict[str, int]:
    """The same of a program whose update is compiled."""
    memory = program.compiled.memory_analysis()
    parts = {part: int(getattr(memory, f"{part}_size_in_bytes")) for part in PARTS}
    total = parts["argument"] + parts["output"] + parts["temp"] - parts["alias"]
    return {**parts, "total": total}


def _over_seeds(frozen: Any, num_seeds: int) -> tuple[Any, SteeredModel | None]:
    """Models of `frozen` with one copy for each seed, and the axes of their parameters."""
    if num_seeds == 1:
        return frozen, None
    axes = None

    def stack(part):
        nonlocal axes
        if not isinstance(part, SteeredModel):
            return part
        axes = part.replace(base_params=0, metacontroller_params=0)
        return jax.tree.map(lambda x: np.stack([x] * num_seeds), part)

    if isinstance(frozen, dict):
        return {name: stack(part) for name, part in frozen.items()}, axes
    return stack(frozen), axes


def make_stage(name: str, settings: Settings, num_seeds: int = 0) -> Stage:
    """A stage on random models, each seed with a model of its own.

    Args:
      name: of the stage.
      settings: of the run.
      num_seeds: seeds in its program; 0 for as many as the settings train together.
    """
    method = random_method(name, settings)
    together = min(settings.num_seeds(name), settings.sections[name].seeds_together)
    seeds = tuple(range(num_seeds or together))
    frozen, axes = _over_seeds(method.frozen, len(seeds))
    stage = stage_of(name, settings, method, source=getattr(method, "source", None), axes=axes)
    return dataclasses.replace(stage, frozen=frozen, seeds=seeds)


def measure(
    settings: Settings, stages: Sequence[str], num_seeds: int = 0
) -> dict[str, dict[str, int]]:
    """`update_memory` of each of `stages`, its `dataset`, and the seeds in its program.

    Args:
      settings: of the run.
      stages: their names.
      num_seeds: see `make_stage`.
    """
    result = {}
    for name in stages:
        stage_spec(settings, name)
        stage = make_stage(name, settings, num_seeds)
        held = dataset_bytes(settings) if name in READS_DATASET else 0
        sizes = update_memory(stage)
        sizes |= {"dataset": held, "total": sizes["total"] + held}
        result[name] = {"seeds": len(stage.seeds), **sizes}
        print(f"{name}: {result[name]['total'] / 2**30:.2f} GiB", file=sys.stderr)
        jax.clear_caches()
    return result


def table(figures: dict[str, dict[str, int]], limit_bytes: int) -> str:
    """One line per stage, in GiB, with a remark where the sum is above the limit."""
    columns = (*PARTS, "dataset", "total")
    lines = [f"{'stage':<16}{'seeds':>6}" + "".join(f"{part:>10}" for part in columns)]
    for name, bytes_of in figures.items():
        sizes = "".join(f"{bytes_of[part] / 2**30:>10.3f}" for part in columns)
        above = f"  above {limit_bytes / 2**30:g} GiB"
        verdict = "" if bytes_of["total"] <= limit_bytes else above
        lines.append(f"{name:<16}{bytes_of['seeds']:>6}{sizes}{verdict}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Compiles and prints."""
    del arguments
    try:
        only = chosen(flags.FLAGS.only, METHODS, "only")
        module, limit_bytes = WORLDS[flags.FLAGS.world]
        try:
            settings = Settings.read(module.get_config(flags.FLAGS.preset))
        except ValueError as error:
            raise ConfigError(f"--preset: {error}") from None
        figures = measure(settings, only, flags.FLAGS.num_seeds)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    print(json.dumps(figures, indent=2) if flags.FLAGS.json else table(figures, limit_bytes))


if __name__ == "__main__":
    define_flags()
    app.run(main)
