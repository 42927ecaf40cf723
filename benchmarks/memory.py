"""Device memory of the compiled update of every stage, by XLA's own analysis.

`python -m benchmarks.memory` compiles the stages of the `paper` preset, runs none of them, and
prints one line for each: arguments (parameters, optimiser, data stream, frozen models), outputs,
temporary arrays, what outputs share with arguments, and the sum that the device must hold.
"""

import json
import sys
import tempfile

import jax
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks.reinforcement import random_parameters
from configs import gridworld
from experiments import internal_rl, launch, metacontroller, pretrain, probe, raw_rl, steer
from internal_rl.errors import ConfigError, UserError
from internal_rl.training.program import Program
from internal_rl.training.stage import Stage
from internal_rl.training.stage_directory import StageDirectory

STAGES = {
    "pretrain": pretrain.make_stage,
    "probe": probe.make_stage,
    "steer": steer.make_stage,
    "metacontroller": metacontroller.make_stage,
    "internal_rl": internal_rl.make_stage,
    "raw_rl": raw_rl.make_stage,
}
LIMIT_BYTES = 16 * 2**30
PARTS = ("argument", "output", "temp", "alias")


def define_flags() -> None:
    """Flags of the command line; not at import, so that both programs can be imported."""
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.")
    flags.DEFINE_string("preset", "paper", "Preset of configs/gridworld.py.")
    flags.DEFINE_list("only", list(STAGES), "Stages to compile.")
    flags.DEFINE_integer(
        "num_seeds", 0, "Seeds of every stage in one program; 0 for those of the preset."
    )


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


def update_memory(stage: Stage) -> dict[str, int]:
    """Bytes of the compiled update: the `PARTS` and their `total`."""
    program = Program(stage)
    program.compile()
    parts = {part: int(getattr(program.memory, f"{part}_size_in_bytes")) for part in PARTS}
    total = parts["argument"] + parts["output"] + parts["temp"] - parts["alias"]
    return {**parts, "total": total}


def measure(config: ConfigDict, stages: list[str]) -> dict[str, dict[str, int]]:
    """`update_memory` of each of `stages`, and the seeds in its program."""
    result = {}
    with tempfile.TemporaryDirectory() as workdir:
        publish_random_parameters(config, workdir)
        for name in stages:
            stage = STAGES[name](config, workdir)
            result[name] = {"seeds": len(stage.seeds), **update_memory(stage)}
            print(f"{name}: {result[name]['total'] / 2**30:.2f} GiB", file=sys.stderr)
            jax.clear_caches()
    return result


def table(figures: dict[str, dict[str, int]]) -> str:
    """One line per stage, in GiB."""
    lines = [f"{'stage':<16}{'seeds':>6}" + "".join(f"{part:>10}" for part in (*PARTS, "total"))]
    for name, bytes_of in figures.items():
        sizes = "".join(f"{bytes_of[part] / 2**30:>10.3f}" for part in (*PARTS, "total"))
        verdict = "" if bytes_of["total"] <= LIMIT_BYTES else "  above 16 GiB"
        lines.append(f"{name:<16}{bytes_of['seeds']:>6}{sizes}{verdict}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Compiles and prints."""
    del arguments
    try:
        for name in flags.FLAGS.only:
            if name not in STAGES:
                raise ConfigError(f"--only: '{name}' given, allowed is {', '.join(STAGES)}")
        try:
            config = gridworld.get_config(flags.FLAGS.preset)
        except ValueError as error:
            raise ConfigError(f"--preset: {error}") from None
        if flags.FLAGS.num_seeds:
            for section in STAGES:
                config[section].num_seeds = flags.FLAGS.num_seeds
        figures = measure(config, flags.FLAGS.only)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(launch.EXIT_USER_ERROR)
    print(json.dumps(figures, indent=2) if flags.FLAGS.json else table(figures))


if __name__ == "__main__":
    define_flags()
    app.run(main)
