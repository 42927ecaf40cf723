"""Damages files of finished and interrupted runs and starts what reads them.

`python -m benchmarks.damage --rounds=200` makes finished work directories of the `smoke` presets of
both worlds. In each round one file of a copy is damaged in one way, and something that reads it is
started. A round is survived if nobody sees a traceback, and either all results are the bits that
they are without the damage, or a warning names the file, or a line names it and tells what to do,
the exit code is 2, and doing so ends in a finished run. Prints what was tried and what was not
survived; the exit code is then 1.
"""

import collections
import contextlib
import dataclasses
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from absl import app, flags

from benchmarks.advice import advice_of, error_lines, follow
from benchmarks.choices import chosen
from benchmarks.damage_works import PACKAGE, PAPER_RUN, SWEEP, Task, Works, arguments
from benchmarks.damages import DAMAGES, damage
from benchmarks.faults import EXIT_USER_ERROR, STAGES
from benchmarks.starts import Outcome, starts
from internal_rl.errors import UserError

MOST_STEPS = 4
"""So many lines may tell what to do, one after the other."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of files.

    Attributes:
      pattern: of their names in a work directory.
      tasks: what reads them, or might.
    """

    pattern: str
    tasks: tuple[str, ...]


_STAGE = ("again", "next", "resume", "report", "results", "load")
KINDS: Mapping[str, Kind] = {
    "config": Kind("*/seed_0/config.json", _STAGE),
    "params": Kind("*/seed_0/params.msgpack", ("again", "next", "load")),
    "snapshots": Kind("*/seed_0/snapshots/*", ("snapshot",)),
    "artifacts": Kind("*/seed_0/artifacts.npz", ("again", "report", "results")),
    "checksums": Kind("*/seed_0/checksums.json", _STAGE),
    "references": Kind("*/seed_0/references.json", ("again", "resume", "report")),
    "versions": Kind("*/seed_0/versions.json", ("again", "resume", "report", "results")),
    "metrics": Kind("*/seed_0/metrics.jsonl", ("again", "resume", "report", "results")),
    "done": Kind("*/seed_0/DONE", ("again", "next", "report", "results")),
    "checkpoints": Kind("*/seed_0/checkpoints/**/*", ("resume", "resume", "again")),
    "events": Kind("*/seed_0/events/*", ("resume",)),
    "lock": Kind("*/seed_0/.lock", ("resume", "again")),
    "shards": Kind("collect/seed_0/*/*.array_record", ("again", "next")),
    "manifests": Kind("collect/seed_0/*/manifest.json", ("again", "next", "resume")),
    "report": Kind("report/*", ("report",)),
    "sweeps": Kind(f"sweep/{SWEEP}/**/*", ("sweep", "report")),
    "package": Kind(f"{PACKAGE}/gridworld-pinpad/small/*/*/*", ("install",)),
    "paper_run": Kind(f"{PAPER_RUN}/*", ("paper_run",)),
}


def define_flags() -> None:
    """Flags of the command line; not at import, so that other programs can be imported too."""
    flags.DEFINE_integer("rounds", 20, "How many files are damaged.", 1)
    flags.DEFINE_list("world", list(STAGES), "Which worlds.")
    flags.DEFINE_list("kinds", list(KINDS), "Which kinds of files.")
    flags.DEFINE_list("damages", list(DAMAGES), "How they are damaged.")
    flags.DEFINE_list("only", list(STAGES["ant"]), "Files of which stages.")
    flags.DEFINE_integer("random_seed", 0, "Of files, damages and what reads them.")
    flags.DEFINE_string("folder", "", "Where finished runs are kept for later; empty for nowhere.")


@dataclasses.dataclass(frozen=True)
class Round:
    """One damage.

    Attributes:
      kind: of the file, of `KINDS`.
      task: what reads it.
      path: of the file, relative to the work directory.
      how: of `DAMAGES`.
      seed: of what is left open.
    """

    kind: str
    task: Task
    path: pathlib.Path
    how: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}, {self.path} {self.how}"


def draw_round(works: Works, choice: Mapping[str, Sequence[str]], draw: random.Random) -> Round:
    """A round: kinds, worlds and damages alike, then one of the files.

    Args:
      works: finished runs.
      choice: allowed `kinds`, `worlds`, `damages` and `stages`.
      draw: decides.
    """
    while True:
        kind, world = draw.choice(choice["kinds"]), draw.choice(choice["worlds"])
        work = works.finished(world)
        files = sorted(path.relative_to(work) for path in work.glob(KINDS[kind].pattern))
        by_stage = collections.defaultdict(list)
        for path in files:
            if (work / path).is_file() and not (kind == "sweeps" and "checkpoints" in path.parts):
                by_stage[path.parts[0]].append(path)
        stages = [
            name for name in by_stage if name not in STAGES["ant"] or name in choice["stages"]
        ]
        if not stages:
            continue
        stage = draw.choice(stages)
        name = draw.choice(KINDS[kind].tasks)
        own = stage if name in _STAGE[:3] or name == "load" else ""
        task = Task(name, world, own, name == "resume" and draw.random() < 0.5)
        if task.fits():
            path, how = draw.choice(by_stage[stage]), draw.choice(choice["damages"])
            return Round(kind, task, path, how, draw.randrange(2**30))


class Trial:
    """A round on its way.

    Attributes:
      notes: how it went.
    """

    def __init__(self, works: Works, trial: Round):
        self._works = works
        self._trial = trial
        self._whole = works.undamaged(trial.task)
        self._work = works.copy(trial.task, "damaged")
        self._path = self._work / trial.path
        self._left: bytes | None = None
        self._line_taken = False
        self.notes: list[str] = []

    def damage(self) -> bool:
        """Damages the file; whether there was one, and it is another one now."""
        if not self._path.is_file():
            return False
        draw = random.Random(self._trial.seed)
        other = self._works.twin(self._trial.task.world, self._trial.path)
        if self._trial.how == "swapped" and (other is None or draw.random() < 0.3):
            same = self._work.glob(f"*/seed_0/{self._path.name}")
            other = draw.choice([path for path in same if path != self._path] or [other])
        if self._trial.kind == "checkpoints" and self._trial.how == "swapped":
            return self._swap_steps()
        done = damage(self._path, other, self._trial.how, draw)
        self._left = self._path.read_bytes() if self._path.is_file() else None
        return done

    def _swap_steps(self) -> bool:
        """Files of checkpoints have names of their own: the whole step becomes another seed's."""
        parts = self._trial.path.parts[:4]
        step = self._work.joinpath(*parts)
        other = self._works.twin(self._trial.task.world, pathlib.Path(*parts))
        if other is None or not step.is_dir():
            return False
        shutil.rmtree(step)
        shutil.copytree(other, step)
        self._path = step
        return True

    def faults(self) -> list[str]:
        """Starts what reads the file, does what is advised, and tells what was wrong."""
        for _ in range(MOST_STEPS + 1):
            outcome = self._works.starts.start(self._trial.task.command(self._work))
            if faults := faults_of_end(outcome):
                return faults
            if outcome.code == 0:
                return self._judge(outcome)
            (line,) = error_lines(outcome.said)
            self.notes.append(line)
            if not self.names_file(line):
                return [f"does not name the file: {line}"]
            advice = advice_of(line)
            if advice is None:
                return [f"tells nothing to do: {line}"]
            if advice.elsewhere:
                # Nothing is read there: it is what the undamaged run was.
                return []
            self._line_taken |= advice.line is not None
            fault = follow(advice, self._start, self._command_of, self._put_back)
            if fault:
                return [f"the advice does not work ({fault}): {line}"]
        return [f"the same again and again: {self.notes[-1]}"]

    def _start(self, command: Sequence[str]) -> str:
        outcome = self._works.starts.start(command)
        return outcome.said[-500:] if outcome.code else ""

    def _command_of(self, stage: str) -> list[str]:
        return arguments(self._trial.task.world, stage, self._work)

    def _put_back(self) -> None:
        if self._path.is_dir():
            shutil.rmtree(self._path)
        shutil.copyfile(self._works.finished(self._trial.task.world) / self._trial.path, self._path)

    def _judge(self, outcome: Outcome) -> list[str]:
        unlike = self._trial.task.unlike(self._whole, self._work, outcome)
        # Untouched by what was started, and so not read.
        if self._trial.task.name == "again" and self._as_left():
            unlike = [text for text in unlike if self._path.name not in text]
        if self._line_taken:
            unlike = [text for text in unlike if "metrics" not in text]
        if not unlike:
            return []
        told = [line for line in outcome.said.splitlines() if self.names_file(line)]
        self.notes += told[:1]
        return [] if told else [f"silent: {'; '.join(unlike)}"]

    def _as_left(self) -> bool:
        left = self._path.read_bytes() if self._path.is_file() else None
        return self._left == left

    def names_file(self, line: str) -> bool:
        """Whether a line names what was damaged, or the folder of the seed that it is part of."""
        place, names = self._path, []
        while place != self._work:
            names.append(str(place))
            if place.name.startswith("seed_"):
                break
            place = place.parent
        return any(name in line for name in names)


def faults_of_end(outcome: Outcome) -> list[str]:
    """What is wrong with how a start has ended, whatever it has done."""
    if "Traceback" in outcome.said:
        return [f"traceback: {outcome.said[-1500:]}"]
    if outcome.code not in (0, EXIT_USER_ERROR):
        return [f"exit code {outcome.code}: {outcome.said[-500:]}"]
    lines = error_lines(outcome.said)
    if outcome.code and len(lines) != 1:
        return [f"{len(lines)} lines tell it: {outcome.said[-500:]}"]
    return []


@contextlib.contextmanager
def _kept(folder: str) -> Iterator[pathlib.Path]:
    """The folder of the flag, or one that is removed again."""
    if folder:
        path = pathlib.Path(folder).absolute()
        path.mkdir(parents=True, exist_ok=True)
        yield path
    else:
        with tempfile.TemporaryDirectory(prefix="damage_") as found:
            yield pathlib.Path(found)


def run(works: Works, trial: Round) -> tuple[list[str] | None, list[str]]:
    """Faults of a round, None where nothing could be damaged, and how it went."""
    tried = Trial(works, trial)
    if not tried.damage():
        return None, []
    return tried.faults(), tried.notes


def table(counts: Mapping[str, Sequence[int]]) -> str:
    """Tried and survived by kind."""
    lines = [f"{name}: {tried} tried, {good} survived" for name, (tried, good) in counts.items()]
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Tries and prints."""
    del words
    values = flags.FLAGS
    try:
        choice = {
            "kinds": chosen(values.kinds, KINDS, "kinds"),
            "worlds": chosen(values.world, STAGES, "world"),
            "damages": chosen(values.damages, DAMAGES, "damages"),
            "stages": chosen(values.only, STAGES["ant"], "only"),
        }
        draw, counts, done = random.Random(values.random_seed), {}, 0
        with _kept(values.folder) as folder, starts(folder, folder / "compiled") as started:
            works = Works(folder, started)
            while done < values.rounds:
                trial = draw_round(works, choice, draw)
                faults, notes = run(works, trial)
                if faults is None:
                    continue
                done += 1
                for name in (trial.kind, trial.how):
                    tried, good = counts.get(name, (0, 0))
                    counts[name] = (tried + 1, good + (not faults))
                state = "; ".join(faults) or "survived"
                print(f"{done}: {trial}: {state}", flush=True)
                for note in notes:
                    print(f"    {note}", flush=True)
        survived = sum(counts.get(kind, (0, 0))[1] for kind in KINDS)
        print(f"{table(counts)}\n{done} tried, {survived} survived")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    sys.exit(0 if survived == done else 1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
