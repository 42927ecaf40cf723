"""Starts stages with random settings: each is refused in one line, or runs; none fails, none hangs.

`python -m benchmarks.bad_input --overrides=2000 --texts=300` draws overrides of single fields of
the `smoke` presets and of two or three together, and texts of tasks, task sets and floor plans:
good ones, ones at the edges, and wrong ones. Every one goes through the command line of a stage
that reads it, up to where the stage would begin to write; a share of those that come so far is run
to its end. Faults are printed with the command that shows them; the exit code is then 1.
"""

import collections
import dataclasses
import pathlib
import random
import shlex
import signal
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import bad_starts, bad_values
from benchmarks.bad_starts import ACCEPTED, WORLDS, Limits, Outcome
from benchmarks.choices import chosen
from internal_rl.errors import EXIT_USER_ERROR, UserError
from internal_rl.section import Section
from internal_rl.stages.catalogue import STAGES, section_types
from internal_rl.stages.config_file import load_config

MAX_SECONDS = 10.0
"""Of the processor's time, beyond what the preset itself takes to start."""

_SLOW_START = 40.0
_RUN_SECONDS = 240.0
FAULTS = (
    *("traceback", "hang", "killed", "accepted, then failed"),
    *("not one line", "names nothing", "refused, but written"),
)


def define_flags() -> None:
    """Flags of the command line; not at import, so that both programs can be imported."""
    flags.DEFINE_integer("overrides", 200, "How many overrides, or several together.", 0)
    flags.DEFINE_integer("texts", 30, "How many tasks, task sets and floor plans.", 0)
    flags.DEFINE_list("worlds", list(WORLDS), "Which worlds.")
    flags.DEFINE_integer("random_seed", 0, "Of what is drawn.")
    flags.DEFINE_float("run_share", 0.1, "Share of what is accepted that is run.", 0.0, 1.0)
    flags.DEFINE_list("numbers", [], "Which of what is drawn are tried; all by default.")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is tried.

    Attributes:
      number: from 0 on.
      world: file of configs.
      stage: its name.
      overrides: dotted fields and their values.
      run: whether it is run where it is accepted.
    """

    number: int
    world: str
    stage: str
    overrides: tuple[tuple[str, str], ...]
    run: bool = False

    @property
    def arguments(self) -> list[str]:
        """Of the command line."""
        given = [f"--config.{field}={value}" for field, value in self.overrides]
        return [f"--config=configs/{self.world}.py:smoke", *given]

    def __str__(self) -> str:
        shown = shlex.join(self.arguments)
        shown = shown if len(shown) < 600 else f"{shown[:600]}..."
        return f"{self.number}: python -m experiments.{self.stage} {shown}"


class Drawing:
    """Draws what is tried in one world.

    Attributes:
      world: file of configs.
      values: fields of its preset by dotted name.
    """

    def __init__(self, world: str, draw: random.Random):
        self.world, self._draw = world, draw
        config = load_config(f"configs/{world}.py:smoke")
        # Not as settings: these have a world, which starts jax.
        self._sections = {
            name: section.read(config[name])
            for name, section in section_types().items()
            if name in config
        }
        self.values = dict(_flattened(config))
        self._fields: list[str] = []

    def overrides(self, number: int, run: bool) -> Case:
        """Another value for one field, or for two or three; every field has its turn."""
        draw = self._draw
        if not self._fields:
            self._fields = draw.sample(sorted(self.values), len(self.values))
        first = self._fields.pop()
        beside = [name for name in self.values if _section(name) == _section(first)]
        fields = [first]
        for _ in range(draw.choice((0, 0, 1, 1, 2))):
            fields.append(draw.choice(beside if draw.random() < 0.6 else sorted(self.values)))
        found = [(field, self._value(field)) for field in dict.fromkeys(fields)]
        if draw.random() < 0.02:
            found[0] = (bad_values.disturbed(draw, first), found[0][1])
        return self._case(number, found, run)

    def text(self, number: int, run: bool) -> Case:
        """A text with a grammar of its own, and what it may need beside it."""
        draw = self._draw
        field = draw.choice(sorted(set(bad_values.TEXTS) & set(self.values)))
        text = bad_values.disturbed(draw, bad_values.TEXTS[field](draw, self.values))
        found = [(field, text)]
        if field in ("environment.floor_plan", "environment.homes"):
            found.append(("environment.num_layouts", draw.choice(("16", "64", "4096"))))
        if field == "environment.homes":
            found.append(("environment.home_radius", str(draw.randint(0, 2))))
        return self._case(number, found, run)

    def _value(self, field: str) -> str:
        *sections, name = field.split(".")
        section = section_types().get(sections[-1]) if sections else None
        values = {**self.values, name: self.values[field]}
        return bad_values.value_of(self._draw, section, name, values)

    def _case(self, number: int, found: list[tuple[str, str]], run: bool) -> Case:
        section = _section(found[0][0])
        readers = readers_of(self._sections, section)
        stage = section if section in readers and self._draw.random() < 0.5 else None
        stage = stage or self._draw.choice(readers)
        # `=` in a name would begin the value.
        found = [(field.replace("=", ""), value.replace("\0", "")) for field, value in found]
        return Case(number, self.world, stage, tuple(found), run)


def readers_of(sections: Mapping[str, Section], section: str) -> list[str]:
    """Stages whose results depend on a section; those of the training loop if none does."""
    there = [name for name in STAGES if name in sections]
    settings = types.SimpleNamespace(sections=sections, **sections)
    found = [name for name in there if section in STAGES[name].inputs(settings)]
    return found or [name for name in there if STAGES[name].make]


def _section(field: str) -> str:
    return field.partition(".")[0]


def _flattened(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def cases_of(
    num_overrides: int, num_texts: int, worlds: Sequence[str], random_seed: int, run_share: float
) -> Iterator[Case]:
    """All that is tried, in turns over the worlds."""
    draw = random.Random(random_seed)
    drawings = [Drawing(world, draw) for world in worlds]
    for number in range(num_overrides + num_texts):
        drawing, run = drawings[number % len(drawings)], draw.random() < run_share
        one = drawing.overrides if number < num_overrides else drawing.text
        yield one(number, run)


def judged(case: Case, outcome: Outcome) -> str:
    """One of `FAULTS`, or what became of it: refused, accepted, run, cut or diverged."""
    if outcome.waited or outcome.code == -signal.SIGXCPU:
        return "cut" if outcome.begun else "hang"
    if outcome.code < 0:
        return "killed"
    if outcome.code == ACCEPTED:
        return "accepted"
    if outcome.code == 0:
        return "run"
    if outcome.code != EXIT_USER_ERROR or "Traceback" in outcome.said:
        return "traceback"
    lines = [line for line in outcome.said.splitlines() if line.startswith("error: ")]
    if len(lines) != 1 or outcome.said.splitlines()[-1:] != lines:
        return "not one line"
    if outcome.begun:
        return "diverged" if "not finite by step" in lines[0] else "accepted, then failed"
    if outcome.written:
        return "refused, but written"
    return "refused" if _names(case, lines[0]) else "names nothing"


def _names(case: Case, line: str) -> bool:
    """Whether a line names a field that was given, or its value, or how large a program is."""
    if "GiB of memory here" in line:
        return True
    for field, value in case.overrides:
        parts = field.split(".")
        sections = [".".join(["config", *parts[:n]]) for n in range(1, len(parts))]
        if field in line or parts[-1] in line or (value and value in line):
            return True
        # A section that there is not.
        if any(f"{name}: unknown field" in line for name in sections):
            return True
    return False


class Trials:
    """Starts stages and counts what became of them.

    Attributes:
      counts: cases by what became of them.
      longest: seconds of the slowest start that ended by itself before it would have written.
    """

    def __init__(self):
        self.counts: dict[str, int] = collections.Counter()
        self.longest = 0.0
        self._normal: dict[tuple[str, str], float] = {}

    def try_case(self, case: Case) -> tuple[str, Outcome]:
        """What became of a case, and how."""
        outcome = _started(case, Limits(_SLOW_START, _RUN_SECONDS if case.run else 0.0))
        found = judged(case, outcome)
        if not outcome.begun or outcome.code == ACCEPTED:
            self.longest = max(self.longest, outcome.seconds)
            if self._too_long(case, outcome.seconds):
                found = "hang"
        self.counts[found] += 1
        return found, outcome

    def _too_long(self, case: Case, seconds: float) -> bool:
        """Whether a start took much longer than that of the preset."""
        if seconds <= MAX_SECONDS:
            return False
        known = case.world, case.stage
        if known not in self._normal:
            outcome = _started(Case(-1, *known, ()), Limits(_SLOW_START))
            if outcome.code != ACCEPTED:
                raise UserError(f"{known} does not start: {outcome.said[-2000:]}")
            self._normal[known] = outcome.seconds
        return seconds > self._normal[known] + MAX_SECONDS


def _started(case: Case, limits: Limits) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="bad_input_") as folder:
        return bad_starts.start(case.stage, case.arguments, pathlib.Path(folder), limits)


def summary(counts: Mapping[str, int], seconds: float, longest: float) -> str:
    """What was found, in one line."""
    listed = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    faults = sum(counts.get(name, 0) for name in FAULTS)
    return (
        f"{sum(counts.values())} tried in {seconds:.0f} s: {listed}; {faults} faults; the longest"
        f" start took {longest:.1f} s of the processor"
    )


def main(arguments: list[str]) -> None:
    """Tries and prints."""
    del arguments
    values, started = flags.FLAGS, time.monotonic()
    # Before jax makes its backends, which the processes of the starts do for themselves.
    jax.config.update("jax_disable_most_optimizations", True)
    trials = Trials()
    try:
        worlds = chosen(values.worlds, WORLDS, "worlds")
        sizes = values.overrides, values.texts
        for case in cases_of(*sizes, worlds, values.random_seed, values.run_share):
            if values.numbers and str(case.number) not in values.numbers:
                continue
            found, outcome = trials.try_case(case)
            print(f"{found} ({outcome.seconds:.1f} s): {case}", flush=True)
            if found in FAULTS or values.numbers:
                print(f"    {outcome.written[:3]} {outcome.said[-1500:]}", flush=True)
        print(summary(trials.counts, time.monotonic() - started, trials.longest))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    sys.exit(1 if any(trials.counts.get(name) for name in FAULTS) else 0)


if __name__ == "__main__":
    define_flags()
    app.run(main)
