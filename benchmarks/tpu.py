"""Estimates what every stage costs on TPUs, without having one.

`python -m benchmarks.tpu --topology=v5e:2x4` compiles the updates of the `paper` presets for the
chips of that name with libtpu (extra `tpu`) and prints for each memory per chip, XLA's estimate of
the time, the share of the peak rate that the needed operations make of it, the collectives, and
the seconds that compiling took. Nothing is run. What an estimate leaves out and how it compares
with clocks is told in `docs/performance.md`.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags

from benchmarks.choices import chosen
from benchmarks.hlo_cost import kernel_dump_options
from benchmarks.memory import METHODS, WORLDS
from internal_rl.errors import EXIT_USER_ERROR, ConfigError, UserError
from internal_rl.extras import needs_extra

MARK = "RESULT "


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip, by its maker's figures.

    Attributes:
      peak: bfloat16 operations per second.
      clock: cycles per second.
      memory: bytes.
      bandwidth: of the memory, bytes per second.
    """

    peak: float
    clock: float
    memory: int
    bandwidth: float


CHIPS = {
    "v4": Chip(275e12, 1.05e9, 32 * 2**30, 1.2e12),
    "v5e": Chip(197e12, 1.5e9, 16 * 2**30, 0.819e12),
    "v5p": Chip(459e12, 1.75e9, 95 * 2**30, 2.765e12),
    "v6e": Chip(918e12, 1.75e9, 32 * 2**30, 1.64e12),
}


def estimate(
    topology: str,
    programs: Sequence[tuple[str, str]],
    *,
    preset: str = "paper",
    num_seeds: int = 1,
    episode_steps: int = 0,
    parts: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, dict]]:
    """Compiles programs in a process of its own and reads what they cost.

    Args:
      topology: chip and arrangement, such as `v5e:2x4`.
      programs: pairs of world and stage.
      preset: of both worlds.
      num_seeds: seeds in one program; 0 for those that the preset trains together.
      episode_steps: length of every episode of a rollout; 0 for the time limit.
      parts: how many of the most expensive operations to name.
      tell: is given a line about every program as soon as it is done.

    Returns:
      By world and stage: `memory_bytes` per chip; `cycles` and `seconds` of one update, and
      `share_of_peak`; `collectives` by kind with `count` and `bytes` on one chip;
      `compile_seconds`; `assumed_trips` of loops that end when data say so; or `error`.

    Raises:
      ConfigError: the topology is unknown, or libtpu is missing.
      RuntimeError: the process ended without an answer.
    """
    chip = topology.partition(":")[0]
    if chip not in CHIPS or ":" not in topology:
        raise ConfigError(
            f"--topology: '{topology}' given, allowed is one of {', '.join(CHIPS)} and an"
            " arrangement, such as v5e:2x4"
        )
    with needs_extra("tpu", "benchmarks.tpu"):
        # Found, not imported: it must not get into the process that asks.
        if importlib.util.find_spec("libtpu") is None:
            raise ModuleNotFoundError("no libtpu", name="libtpu")
    request = {
        "topology": topology,
        "programs": list(programs),
        "preset": preset,
        "num_seeds": num_seeds,
        "episode_steps": episode_steps,
        "parts": parts,
    }
    with tempfile.TemporaryDirectory(prefix="bundles_") as dump:
        return _ask(request | {"dump": dump}, chip, tell)


def _ask(request: Mapping, chip: str, tell: Callable[[str], None]) -> dict[str, dict[str, dict]]:
    """Starts the process, and reads what it finds."""
    command = [sys.executable, "-m", "benchmarks.tpu_programs", json.dumps(request)]
    options = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {kernel_dump_options(request['dump'])}"
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"LIBTPU_INIT_ARGS": options.strip()},
    )
    found, said = {}, []
    for line in process.stdout:
        if line.startswith(MARK):
            result = json.loads(line.removeprefix(MARK))
            world, stage = result.pop("world"), result.pop("stage")
            found.setdefault(world, {})[stage] = result
            tell(row(world, stage, result, chip))
        else:
            said = [*said, line][-20:]
    if process.wait():
        raise RuntimeError(
            f"{' '.join(command[:3])} ended with {process.returncode}:\n{''.join(said)}"
        )
    return found


HEADINGS = ("world", "stage", "seeds", "GiB/chip", "Mcycles", "ms", "of peak", "compile s")


def row(world: str, stage: str, result: Mapping, chip: str) -> str:
    """One line of the table."""
    if "error" in result:
        return f"{world:<10}{stage:<16}{result['error']}"
    cells = (
        f"{world:<10}{stage:<16}{result['seeds']:>6}{result['memory_bytes'] / 2**30:>10.2f}"
        f"{result['cycles'] / 1e6:>10.2f}{1e3 * result['seconds']:>10.2f}"
        f"{result['share_of_peak']:>9.1%}{result['compile_seconds']:>11.0f}"
    )
    collectives = ", ".join(
        f"{kind} {found['count']:.0f} ({found['bytes'] / 2**20:.2f} MiB)"
        for kind, found in result["collectives"].items()
    )
    assumed = ", ".join(f"{name} {trips:g}" for name, trips in result["assumed_trips"].items())
    above = result["memory_bytes"] > CHIPS[chip].memory
    notes = [
        f"collectives: {collectives}" if collectives else "",
        f"loops taken to run: {assumed}" if assumed else "",
        "more memory than the chip has" if above else "",
        *(f"{cycles / 1e6:.3f} Mcycles {name[-90:]}" for name, cycles in result["largest"]),
    ]
    return "\n".join([cells, *(f"{'':<10}{note}" for note in notes if note)])


def heading() -> str:
    """The line above the table."""
    widths = (-10, -16, 6, 10, 10, 10, 9, 11)
    return "".join(
        f"{name:<{-width}}" if width < 0 else f"{name:>{width}}"
        for name, width in zip(HEADINGS, widths, strict=True)
    )


def define_flags() -> None:
    """Flags of the command line; not at import, so that it can be imported with others."""
    flags.DEFINE_string("topology", "v5e:2x4", "Chip and arrangement, such as v5e:2x4.")
    flags.DEFINE_multi_enum("world", list(WORLDS), list(WORLDS), "Which worlds.")
    flags.DEFINE_list("only", list(METHODS), "Stages to compile.")
    flags.DEFINE_string("preset", "paper", "Preset of the worlds.")
    flags.DEFINE_integer(
        "num_seeds", 1, "Seeds in one program; 0 for those that the preset trains together.", 0
    )
    flags.DEFINE_integer("episode_steps", 0, "Length of episodes; 0 for the time limit.", 0)
    flags.DEFINE_integer("parts", 0, "How many of the most expensive operations to name.", 0)
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(arguments: list[str]) -> None:
    """Compiles and prints."""
    del arguments
    values = flags.FLAGS
    try:
        only = chosen(values.only, METHODS, "only")
        programs = [(world, stage) for world in values.world for stage in only]
        if not values.json:
            print(heading(), flush=True)
        found = estimate(
            values.topology,
            programs,
            preset=values.preset,
            num_seeds=values.num_seeds,
            episode_steps=values.episode_steps,
            parts=values.parts,
            tell=lambda line: None if values.json else print(line, flush=True),
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    if values.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    define_flags()
    app.run(main)
