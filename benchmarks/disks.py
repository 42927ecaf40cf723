"""Fills disks and makes them read-only while something is written.

`python -m benchmarks.disks --rounds=20` puts a copy of a work directory of `benchmarks.damage` on a
file system of its own, with next to no space or read-only, and starts something that writes there.
A round is survived if nobody sees a traceback, and either the results are those of a disk with
space, or one line names a place on that disk and says what is needed, the exit code is 2, and the
same command ends with the same results once there is space. Mounting takes the rights of root;
without them it says so and tries nothing.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

from absl import app, flags

from benchmarks.advice import error_lines
from benchmarks.choices import chosen
from benchmarks.damage import kept, starting, table
from benchmarks.damage_trial import faults_of_end
from benchmarks.damage_works import Task, Works
from benchmarks.faults import STAGES
from internal_rl.errors import EXIT_USER_ERROR, UserError

FULL, READ_ONLY = "full", "read_only"
_TASKS = ("again", "resume", "next", "report", "results", "load", "install", "paper_run")
_WHOLE = "1g"
_MOST_FREE = 2**20


def define_flags() -> None:
    """Flags of the command line."""
    flags.DEFINE_integer("rounds", 20, "How often something is written.", 1)
    flags.DEFINE_list("world", list(STAGES), "Which worlds.")
    flags.DEFINE_list("only", list(STAGES["ant"]), "Which stages.")
    flags.DEFINE_list("tasks", list(_TASKS), "What writes.")
    flags.DEFINE_integer("random_seed", 0, "Of tasks and of the space that there is.")
    flags.DEFINE_bool("processes", False, "Start scripts, and do not call what they do.")
    flags.DEFINE_string("folder", "", "Where finished runs are kept for later; empty for nowhere.")


@dataclasses.dataclass(frozen=True)
class Round:
    """One disk.

    Attributes:
      task: what writes.
      state: `full` or `read_only`.
      free: bytes that a full disk has left.
    """

    task: Task
    state: str
    free: int

    def __str__(self) -> str:
        return f"{self.task}, {self.state}" + (f" ({self.free:,} bytes)" if self.free else "")


def draw_round(choice: dict[str, Sequence[str]], draw: random.Random) -> Round:
    """A round: worlds, tasks, stages and states alike; small spaces as often as large ones."""
    while True:
        world, name = draw.choice(choice["worlds"]), draw.choice(choice["tasks"])
        staged = name in ("again", "resume", "next", "load")
        stages = [stage for stage in STAGES[world] if stage in choice["stages"]]
        task = Task(name, world, draw.choice(stages) if staged else "")
        if task.fits():
            state = draw.choice((FULL, READ_ONLY))
            free = int(4096 * (_MOST_FREE / 4096) ** draw.random()) if state == FULL else 0
            return Round(task, state, free)


def can_mount() -> bool:
    """Whether this process may mount a file system."""
    return os.name == "posix" and os.geteuid() == 0 and shutil.which("mount") is not None


class Disk:
    """A file system in memory.

    Attributes:
      place: where it is mounted.
    """

    def __init__(self, place: pathlib.Path):
        self.place = place

    def remount(self, options: str) -> None:
        """Changes its options."""
        command = ["mount", "-o", f"remount,{options}", str(self.place)]
        subprocess.run(command, check=True, capture_output=True)

    def trouble(self, trial: Round) -> None:
        """Leaves it full or read-only."""
        if trial.state == READ_ONLY:
            self.remount("ro")
            return
        found = os.statvfs(self.place)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        self.remount(f"size={used + trial.free}")

    def mend(self) -> None:
        """Gives it space, and the right to write."""
        self.remount(f"rw,size={_WHOLE}")


@contextlib.contextmanager
def mounted(place: pathlib.Path) -> Iterator[Disk]:
    """A file system that is gone behind the body."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_WHOLE}", "tmpfs", str(place)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def faults_of(works: Works, trial: Round) -> tuple[list[str], list[str]]:
    """What was wrong in a round, and the line that told it."""
    whole = works.undamaged(trial.task)
    notes = []
    with mounted(works.folder / "disk") as disk:
        work = works.copy(trial.task, "disk/work")
        disk.trouble(trial)
        outcome = works.starts.start(trial.task.command(work))
        faults = faults_of_end(outcome)
        if outcome.code == EXIT_USER_ERROR and not faults:
            (line,) = error_lines(outcome.said)
            notes.append(line)
            if str(disk.place) not in line:
                faults.append(f"does not name the place: {line}")
            if "writable" not in line and "space" not in line:
                faults.append(f"does not say what is needed: {line}")
        disk.mend()
        if outcome.code:
            outcome = works.starts.start(trial.task.command(work))
            if outcome.code:
                faults.append(f"does not go on with space: {outcome.said[-500:]}")
        if not outcome.code:
            faults += trial.task.unlike(whole, work, outcome)
    return faults, notes


def main(words: list[str]) -> None:
    """Tries and prints."""
    del words
    values = flags.FLAGS
    if not can_mount():
        print("skipped: mounting file systems takes the rights of root", file=sys.stderr)
        sys.exit(0)
    try:
        choice = {
            "worlds": chosen(values.world, STAGES, "world"),
            "stages": chosen(values.only, STAGES["ant"], "only"),
            "tasks": chosen(values.tasks, _TASKS, "tasks"),
        }
        draw, counts = random.Random(values.random_seed), {}
        with kept(values.folder) as folder, starting(folder, values.processes) as started:
            works = Works(folder, started)
            for index in range(values.rounds):
                trial = draw_round(choice, draw)
                faults, notes = faults_of(works, trial)
                tried, good = counts.get(trial.state, (0, 0))
                counts[trial.state] = (tried + 1, good + (not faults))
                print(f"{index + 1}: {trial}: {'; '.join(faults) or 'survived'}", flush=True)
                for note in notes:
                    print(f"    {note}", flush=True)
        survived = sum(good for _, good in counts.values())
        print(f"{table(counts)}\n{values.rounds} tried, {survived} survived")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    sys.exit(0 if survived == values.rounds else 1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
