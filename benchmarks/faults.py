"""Stops stages at random moments and runs them again: nothing may be lost.

`python -m benchmarks.faults --rounds=10` runs every stage of the `smoke` presets undisturbed, then
in each round one of them is stopped by SIGTERM or SIGKILL, at any moment from its start or in the
middle of training, and run again to its end. A round is survived if files and curves are the same
bits as without the disturbance and, for SIGTERM, the process left in time with one line and the
exit code 143. Prints what was tried and what was not survived; the exit code is then 1.
"""

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import app, flags

from benchmarks.choices import chosen
from internal_rl.errors import EXIT_USER_ERROR, UserError
from internal_rl.training.metrics import read_metrics

MAX_SECONDS = 10.0
"""After SIGTERM a stage of `smoke` has ended after so long."""

LOOPS = ("pretrain", "probe", "steer", "metacontroller", "compile", "internal_rl", "raw_rl")
STAGES = {"gridworld": LOOPS, "ant": ("expert", "collect", *LOOPS)}
"""Stages by world, in their order. `LOOPS` are those of the training loop."""

SIGNALS = ("SIGTERM", "SIGINT", "SIGKILL")
NUM_STEPS = 60
_ROOT = pathlib.Path(__file__).parents[1]


def define_flags() -> None:
    """Flags of the command line; not at import, so that both programs can be imported."""
    flags.DEFINE_integer("rounds", 10, "How many stages are stopped.", 1)
    flags.DEFINE_list("world", list(STAGES), "Which worlds.")
    flags.DEFINE_list("only", list(STAGES["ant"]), "Which stages are stopped.")
    flags.DEFINE_list("signals", ["SIGTERM", "SIGKILL"], "By what, in turns.")
    flags.DEFINE_integer("random_seed", 0, "Of stages and moments.")


@dataclasses.dataclass(frozen=True)
class Round:
    """One stop.

    Attributes:
      world: file of configs.
      stage: its name.
      number: of the signal.
      moment: share of the stage's own time after which it is stopped; with `in_training` share of
        its lines of metrics.
      in_training: stopped between two lines of metrics.
    """

    world: str
    stage: str
    number: int
    moment: float
    in_training: bool

    def __str__(self) -> str:
        where = "of its lines of metrics" if self.in_training else "of its time"
        name = signal.Signals(self.number).name
        return f"{self.world} {self.stage}, {name} after {self.moment:.0%} {where}"


def rounds_of(
    number: int,
    worlds: Sequence[str],
    only: Sequence[str],
    signals: Sequence[int],
    random_seed: int,
) -> Iterator[Round]:
    """What is tried: every stage in turn, signals in turns, moments at random."""
    draw = random.Random(random_seed)
    stages = [(world, stage) for world in worlds for stage in STAGES[world] if stage in only]
    order = []
    for index in range(number):
        order = order or draw.sample(stages, len(stages))
        world, stage = order.pop()
        in_training = stage in LOOPS and draw.random() < 0.5
        yield Round(world, stage, signals[index % len(signals)], draw.random(), in_training)


def command(
    world: str,
    stage: str,
    workdir: pathlib.Path,
    upstream: pathlib.Path,
    num_steps: int = NUM_STEPS,
) -> list[str]:
    """The script of a stage that reads earlier ones elsewhere; 0 steps for those of the preset."""
    arguments = [f"--config=configs/{world}.py:smoke", f"--workdir={workdir}"]
    if upstream.exists() and upstream != workdir:
        arguments.append(f"--upstream={upstream}")
    if stage in LOOPS and num_steps:
        for name in LOOPS[: LOOPS.index(stage) + 1]:
            arguments.append(f"--config.{name}.steps={num_steps}")
    return [sys.executable, "-m", f"experiments.{stage}", *arguments]


class Faults:
    """Undisturbed runs to compare with, and what disturbs others.

    Attributes:
      folder: where all of it lies.
      seconds: how long each undisturbed stage took, by world and stage.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.seconds: dict[tuple[str, str], float] = {}
        self._environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
        self._said = folder / "said"
        self._tried = 0

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen:
        # A file: a pipe that nobody reads would stop the process when it is full.
        with self._said.open("w") as said:
            return subprocess.Popen(arguments, cwd=_ROOT, env=self._environment, stderr=said)

    def finish(self, arguments: Sequence[str]) -> None:
        """Runs a script to its end."""
        if code := self._start(arguments).wait():
            said = self._said.read_text()[-2000:]
            raise UserError(f"{' '.join(arguments)}: exit code {code}: {said}")

    def undisturbed(self, world: str, stage: str) -> pathlib.Path:
        """Directory of an undisturbed stage; it and all that it reads are run if need be."""
        workdir = self.folder / "undisturbed" / world
        for name in STAGES[world][: STAGES[world].index(stage) + 1]:
            needed = name == stage or name in ("expert", "collect", "pretrain", "metacontroller")
            if needed and (world, name) not in self.seconds:
                self.finish(command(world, name, workdir, workdir))
                # Again, now that its programs are compiled.
                started = time.monotonic()
                other = self.folder / "timed" / world
                self.finish(command(world, name, other, workdir))
                self.seconds[world, name] = time.monotonic() - started
        return workdir / stage / "seed_0"

    def survived(self, trial: Round) -> list[str]:
        """What went wrong in a round; empty if it was survived."""
        whole = self.undisturbed(trial.world, trial.stage)
        self._tried += 1
        workdir = self.folder / f"stopped_{self._tried}"
        folder = workdir / trial.stage / "seed_0"
        arguments = command(trial.world, trial.stage, workdir, whole.parents[1])
        process = self._start(arguments)
        is_time = self._moment_of(trial, whole, folder)
        while process.poll() is None and not is_time():
            time.sleep(0.005)
        process.send_signal(trial.number)
        sent = time.monotonic()
        code = process.wait()
        seconds = time.monotonic() - sent
        said = self._said.read_text()
        # Before a run begins, while Python still imports, signals do what they always do.
        begun = folder.exists() or said or code != -trial.number
        faults = _faults_of_end(trial.number, code, said, seconds) if begun else []
        self.finish(arguments)
        return faults + differences(whole, folder)

    def _moment_of(
        self, trial: Round, whole: pathlib.Path, folder: pathlib.Path
    ) -> Callable[[], bool]:
        if not trial.in_training:
            end = time.monotonic() + trial.moment * self.seconds[trial.world, trial.stage]
            return lambda: time.monotonic() > end
        lines = trial.moment * len(read_metrics(whole))
        metrics = folder / "metrics.jsonl"
        return lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > lines


def _faults_of_end(number: int, code: int, said: str, seconds: float) -> list[str]:
    """What is wrong with how a process ended; one that had come to its end is never wrong."""
    if code == 0 or number == signal.SIGKILL:
        return []
    faults = []
    if code != 128 + number:
        faults.append(f"exit code {code} instead of {128 + number}: {said[-500:]}")
    if seconds > MAX_SECONDS:
        faults.append(f"it took {seconds:.1f} s to leave, allowed are {MAX_SECONDS:.0f}")
    lines = [line for line in said.splitlines() if line.startswith("interrupted: ")]
    if len(lines) != 1 or "Traceback" in said:
        faults.append(f"not one line that tells it: {said[-500:]}")
    return faults


def differences(whole: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Which results of two directories of a stage are not the same bits."""
    found = []
    if not (folder / "DONE").exists():
        found.append("not finished")
    for path in (*whole.glob("params.msgpack"), *whole.glob("*/manifest.json")):
        other = folder / path.relative_to(whole)
        # Manifests hold the checksums of all shards.
        if not other.exists() or other.read_bytes() != path.read_bytes():
            found.append(f"{path.relative_to(whole)} differs")
    if (whole / "artifacts.npz").exists() and not _same_arrays(whole, folder):
        found.append("artifacts.npz differs")
    if _curves(whole) != _curves(folder):
        found.append("metrics.jsonl differs")
    return found


def _same_arrays(whole: pathlib.Path, folder: pathlib.Path) -> bool:
    try:
        first, second = _arrays(whole), _arrays(folder)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return False
    return set(first) == set(second) and all(
        np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
        for name in first
    )


def _arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(folder / "artifacts.npz") as arrays:
        return dict(arrays)


def _curves(folder: pathlib.Path) -> list[dict]:
    """Lines of metrics, without clocks and the speeds that brax measures."""
    lines = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
    clocks = ("seconds", "sps", "walltime")
    return [
        {name: value for name, value in line.items() if not any(word in name for word in clocks)}
        for line in lines
    ]


def main(arguments: list[str]) -> None:
    """Tries and prints."""
    del arguments
    values = flags.FLAGS
    try:
        worlds = chosen(values.world, STAGES, "world")
        only = chosen(values.only, STAGES["ant"], "only")
        names = chosen(values.signals, SIGNALS, "signals")
        signals = [signal.Signals[name] for name in names]
        lost = 0
        with tempfile.TemporaryDirectory(prefix="faults_") as folder:
            faults = Faults(pathlib.Path(folder))
            trials = rounds_of(values.rounds, worlds, only, signals, values.random_seed)
            for index, trial in enumerate(trials):
                found = faults.survived(trial)
                lost += bool(found)
                print(f"{index + 1}: {trial}: {'; '.join(found) or 'survived'}", flush=True)
        print(f"{values.rounds} tried, {values.rounds - lost} survived")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    define_flags()
    app.run(main)
