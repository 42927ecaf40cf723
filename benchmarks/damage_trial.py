"""One damage: of a file of a copy; what reads it is started, and what it advises is done."""

import dataclasses
import pathlib
import random
import re
import shutil
from collections.abc import Sequence

from benchmarks.advice import advice_of, error_lines, follow
from benchmarks.damage_works import Task, Works, arguments
from benchmarks.damages import damage
from benchmarks.starts import Outcome
from internal_rl.errors import EXIT_USER_ERROR

MOST_STEPS = 4
"""So many lines may tell what to do, one after the other."""


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


class Trial:
    """A round on its way.

    Attributes:
      notes: how it went.
    """

    def __init__(self, works: Works, trial: Round):
        self._works = works
        self._trial = trial
        self._whole = works.undamaged(trial.task)
        self._work = works.copy(trial.task, "damaged", trial.path.parts[0])
        self._path = self._work / trial.path
        self._left: bytes | None = None
        self._line_taken = self._anew = False
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
            self._anew |= bool(advice.run or advice.stage)
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
        unlike = self._trial.task.unlike(self._whole, self._work, outcome, self._anew)
        # Untouched by what was started, and so not read.
        if self._trial.task.name == "again" and self._as_left():
            unlike = [text for text in unlike if self._path.name not in text]
        if self._line_taken:
            unlike = [text for text in unlike if "metrics" not in text]
        if not unlike:
            return []
        told = [line for line in outcome.said.splitlines() if self.names_file(line)]
        told += self._listed_as_begun()
        self.notes += told[:1]
        return [] if told else [f"silent: {'; '.join(unlike)}"]

    def _listed_as_begun(self) -> list[str]:
        """What a page of the report says of a stage without its mark of a finished one."""
        page = self._work / "report" / "index.html"
        if self._trial.task.name != "report" or self._path.name != "DONE":
            return []
        stage = self._trial.path.parts[0]
        row = rf'<th scope="row">{stage}</th>\s*<td>0</td>\s*<td>begun</td>.*?</code>'
        return [re.sub(r"<.*?>|\s+", " ", x) for x in re.findall(row, page.read_text(), re.DOTALL)]

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
