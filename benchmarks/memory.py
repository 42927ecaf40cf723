"""Device memory of the compiled update of every stage, by XLA's own analysis.

`python -m benchmarks.memory` compiles the stages of the `paper` preset, runs none of them, and
prints one line for each: arguments (parameters, optimiser, data stream, frozen models), outputs,
temporary arrays, what outputs share with arguments, the dataset where there is one (computed, the
program is compiled on a tiny one), and the sum that the device must hold.
"""

import json
import sys
import tempfile

import jax
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import random_inputs
from configs import ant, gridworld
from experiments import internal_rl, launch, metacontroller, pretrain, probe, raw_rl, steer
from internal_rl.errors import ConfigError, UserError
from internal_rl.training.program import Program
from internal_rl.training.stage import Stage

STAGES = {
    "pretrain": pretrain.make_stage,
    "probe": probe.make_stage,
    "steer": steer.make_stage,
    "metacontroller": metacontroller.make_stage,
    "internal_rl": internal_rl.make_stage,
    "raw_rl": raw_rl.make_stage,
}
# Stages that hold a dataset, where the world needs one.
READS_DATASET = ("pretrain", "probe", "steer", "metacontroller")
WORLDS = {"gridworld": (gridworld, 16 * 2**30), "ant": (ant, 32 * 2**30)}
PARTS = ("argument", "output", "temp", "alias")


def define_flags() -> None:
    """Flags of the command line; not at import, so that both programs can be imported."""
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.")
    flags.DEFINE_enum("world", "gridworld", list(WORLDS), "Which file of configs.")
    flags.DEFINE_string("preset", "paper", "Preset of that file.")
    flags.DEFINE_list("only", list(STAGES), "Stages to compile.")
    flags.DEFINE_integer(
        "num_seeds", 0, "Seeds of every stage in one program; 0 for those of the preset."
    )


def update_memory(stage: Stage) -> dict[str, int]:
    """Bytes of the compiled update: the `PARTS` and their `total`."""
    program = Program(stage)
    program.compile()
    parts = {part: int(getattr(program.memory, f"{part}_size_in_bytes")) for part in PARTS}
    total = parts["argument"] + parts["output"] + parts["temp"] - parts["alias"]
    return {**parts, "total": total}


def measure(config: ConfigDict, stages: list[str]) -> dict[str, dict[str, int]]:
    """`update_memory` of each of `stages`, its `dataset`, and the seeds in its program."""
    result, dataset = {}, 0
    with tempfile.TemporaryDirectory() as workdir:
        if "collect" in config:
            dataset = random_inputs.dataset_bytes(config)
            random_inputs.publish_random_datasets(config, workdir)
        random_inputs.publish_random_parameters(config, workdir)
        for name in stages:
            stage = STAGES[name](config, workdir)
            held = dataset if name in READS_DATASET else 0
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
        for name in flags.FLAGS.only:
            if name not in STAGES:
                raise ConfigError(f"--only: '{name}' given, allowed is {', '.join(STAGES)}")
        module, limit_bytes = WORLDS[flags.FLAGS.world]
        try:
            config = module.get_config(flags.FLAGS.preset)
        except ValueError as error:
            raise ConfigError(f"--preset: {error}") from None
        if flags.FLAGS.num_seeds:
            for section in STAGES:
                config[section].num_seeds = flags.FLAGS.num_seeds
        figures = measure(config, flags.FLAGS.only)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(launch.EXIT_USER_ERROR)
    print(json.dumps(figures, indent=2) if flags.FLAGS.json else table(figures, limit_bytes))


if __name__ == "__main__":
    define_flags()
    app.run(main)
