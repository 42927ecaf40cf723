"""Work directories that damaged copies are made from, and what reads them."""

import dataclasses
import json
import pathlib
import shutil
import sys
from collections.abc import Sequence

from benchmarks.calls import Calls
from benchmarks.faults import STAGES, command, differences
from benchmarks.starts import Outcome, Starts
from internal_rl import pretrained
from internal_rl.checksums import write_checked_json
from internal_rl.errors import StorageError, UserError
from internal_rl.files import write_json
from internal_rl.stages.paper_run import RECORD, SHARES
from internal_rl.stages.weight_files import pack

SWEEP = "ablation_noise"
"""A study with a single run; on the grid world alone."""

STUDY = "learning"
"""What a report draws; it reads all there is, whatever it draws."""

PACKAGE, PAPER_RUN = "package", "paper_run"
_NEXT = {
    "expert": "collect",
    "collect": "pretrain",
    "pretrain": "probe",
    "metacontroller": "internal_rl",
}
"""Of the stages that read another one, the fastest to compile."""

_SNAPSHOTS = "--config.pretrain.snapshot_steps=(4,)"


def arguments(world: str, stage: str, workdir: pathlib.Path) -> list[str]:
    """Module and command line of a stage."""
    return [*command(world, stage, workdir, workdir, num_steps=0)[2:], _SNAPSHOTS]


def unfinish(folder: pathlib.Path, one_checkpoint: bool) -> None:
    """Leaves of a finished seed what a kill behind one of its last checkpoints leaves.

    Args:
      folder: of the seed.
      one_checkpoint: the kill came before the last checkpoint.
    """
    for name in ("DONE", "params.msgpack", "artifacts.npz"):
        (folder / name).unlink(missing_ok=True)
    file = folder / "checksums.json"
    if file.exists():
        kept = ("config.json", "versions.json", "references.json", "metrics.jsonl")
        sums = {name: told for name, told in json.loads(file.read_text()).items() if name in kept}
        write_json(file, sums)
    for manifest in folder.glob("*/manifest.json"):
        content = json.loads(manifest.read_text())
        last = content["shards"].pop()
        (manifest.parent / last["name"]).unlink()
        write_checked_json(manifest, content)
    steps = sorted(
        (path for path in folder.glob("checkpoints/*") if path.name.isdigit()),
        key=lambda path: int(path.name),
    )
    if one_checkpoint and len(steps) > 1:
        shutil.rmtree(steps[-1])
    rounds = sorted(folder.glob("checkpoints/round_*.msgpack"))
    if one_checkpoint and len(rounds) > 1:
        rounds[-1].unlink()


@dataclasses.dataclass(frozen=True)
class Task:
    """What reads a work directory.

    Attributes:
      name: `again` (a finished stage), `resume` (an interrupted one), `next` (the stage after one),
        `snapshot` (a probe of an earlier age), `report`, `results`, `load`, `install`, `sweep`,
        `paper_run`.
      world: file of configs.
      stage: which one is read; empty where that is no question.
      one_checkpoint: see `unfinish`.
    """

    name: str
    world: str
    stage: str = ""
    one_checkpoint: bool = False

    def __str__(self) -> str:
        return f"{self.world} {self.name} {self.stage}".strip()

    @property
    def written(self) -> str:
        """Folder of the stage that is run; empty where none is."""
        if self.name == "next":
            return _NEXT[self.stage]
        return {"snapshot": "probe_4"}.get(
            self.name, self.stage if self.name in ("again", "resume") else ""
        )

    def fits(self) -> bool:
        """Whether there is such a thing."""
        if self.name == "next":
            return self.stage in _NEXT and _NEXT[self.stage] in STAGES[self.world]
        if self.name == "load":
            return self.stage in ("pretrain", "metacontroller")
        return True

    def prepare(self, work: pathlib.Path) -> None:
        """Makes a copy of a finished work directory into what is read."""
        if self.name == "resume":
            unfinish(work / self.stage / "seed_0", self.one_checkpoint)
        elif self.name == "next":
            shutil.rmtree(work / self.written, ignore_errors=True)

    def command(self, work: pathlib.Path) -> list[str]:
        """Module and command line."""
        config, place = f"--config=configs/{self.world}.py:smoke", f"--workdir={work}"
        if self.name == "snapshot":
            return [*arguments(self.world, "probe", work), "--config.probe.base_step=4"]
        if self.written:
            return arguments(self.world, self.written, work)
        return {
            "report": ["experiments.report", place, f"--only={STUDY}"],
            "results": ["experiments.results", place],
            "load": ["benchmarks.loaded", str(work)],
            "install": ["benchmarks.loaded", str(work / "installed"), str(work / PACKAGE)],
            "sweep": ["experiments.sweep", f"--study={SWEEP}", config, place, _SNAPSHOTS],
            "paper_run": [
                *("experiments.paper_run", config, f"--weights={work / PAPER_RUN}"),
                *(f"--out={work / 'carried'}", "--minutes=0.01", "--stages=internal_rl"),
            ],
        }[self.name]

    def unlike(
        self, whole: pathlib.Path, work: pathlib.Path, outcome: Outcome, anew: bool = False
    ) -> list[str]:
        """What it gave that is not what it gives of undamaged files.

        Args:
          whole: an undamaged copy in which it has run, with its `printed` beside the rest.
          work: where it has run.
          outcome: how.
          anew: a stage has been run again, so that it tells another commit and other minutes.
        """
        if self.written:
            folder = pathlib.Path(self.written, "seed_0")
            try:
                return differences(whole / folder, work / folder)
            except (StorageError, OSError) as error:
                return [f"cannot be compared: {error}"]
        if self.name in ("report", "sweep"):
            # Asked for one study, a report leaves the files of others as they are.
            names = sorted(
                path.name
                for path in (whole / "report").glob("*.*")
                if (self.name == "sweep") == path.name.startswith(SWEEP)
            )
            return [
                f"report/{name} differs"
                for name in names
                if not name.endswith("png")
                and _told(whole / "report" / name, whole) != _told(work / "report" / name, work)
            ]
        if self.name == "paper_run":
            return [
                f"{stage} differs"
                for stage in SHARES
                if stage != "internal_rl"
                and _bytes(whole / "carried" / "work" / stage / "seed_0" / "params.msgpack")
                != _bytes(work / "carried" / "work" / stage / "seed_0" / "params.msgpack")
            ]
        before = _without_origins((whole / "printed").read_text(), anew)
        after = _without_origins(outcome.printed.replace(str(work), str(whole)), anew)
        return [] if after == before else ["what is printed differs"]


def _without_origins(text: str, anew: bool) -> list[str]:
    """Lines of results; if asked for, without those that tell when and by what they were made."""
    return [line for line in text.splitlines() if not (anew and line.startswith("**"))]


def _bytes(path: pathlib.Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _told(path: pathlib.Path, work: pathlib.Path) -> str:
    """What a file of the report tells, without where it lies and how long it took."""
    text = _bytes(path).decode(errors="replace").replace(str(work), "WORKDIR")
    lines = (line for line in text.splitlines() if "wall_seconds" not in line)
    return "\n".join(lines)


class Works:
    """Finished work directories of both worlds, made once.

    Attributes:
      folder: where they lie, and stay.
      starts: what runs scripts, or does what they do.
    """

    def __init__(self, folder: pathlib.Path, starts: Starts | Calls):
        self.folder = folder
        self.starts = starts
        self._undamaged: dict[Task, pathlib.Path] = {}

    def run(self, command: Sequence[str]) -> Outcome:
        """Runs a script that has to succeed.

        Raises:
          UserError: it has not.
        """
        outcome = self.starts.start(command)
        if outcome.code:
            told = outcome.said[-2000:]
            raise UserError(f"{' '.join(command)}: exit code {outcome.code}: {told}")
        return outcome

    def finished(self, world: str, seed: int = 0) -> pathlib.Path:
        """A work directory with all stages, a report, a package and what `paper_run` leaves."""
        work = self.folder / f"finished_{seed}" / world
        if (work / "complete").exists():
            return work
        for stage in STAGES[world]:
            print(f"{world}, seed {seed}: {stage}", file=sys.stderr, flush=True)
            self.run([*arguments(world, stage, work), f"--config.seed={seed}"])
        if not seed:
            if world == "gridworld":
                self.run(Task("sweep", world).command(work))
            self.run(Task("report", world).command(work))
        shutil.copytree(pathlib.Path(pretrained.__file__).parent, work / PACKAGE)
        files = pack(work, work / PAPER_RUN, list(SHARES), max_bytes=2**18)
        preset = f"configs/{world}.py:smoke"
        write_json(work / PAPER_RUN / RECORD, {"config": preset, "files": files})
        (work / "complete").write_text("")
        return work

    def copy(self, task: Task, name: str, stage: str = "") -> pathlib.Path:
        """A copy of a finished work directory, ready for a task.

        Args:
          task: what is going to read it.
          name: of its folder.
          stage: whose checkpoints are copied too, beside those that the task reads.
        """
        work, finished = self.folder / name, self.finished(task.world)
        others = {"sweep": ("sweep", "report"), "report": ("sweep", "report")}
        needed = {*STAGES[task.world], task.name, *others.get(task.name, ())}
        needed |= {PACKAGE} if task.name == "install" else set()

        def left_out(folder: str, names: list[str]) -> list[str]:
            place = pathlib.Path(folder).relative_to(finished)
            if not place.parts:
                return [found for found in names if found not in needed]
            kept = place.parts[0] in (stage, task.stage)
            return [found for found in names if found == "checkpoints" and not kept]

        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(finished, work, ignore=left_out)
        task.prepare(work)
        return work

    def undamaged(self, task: Task) -> pathlib.Path:
        """A copy in which a task has run over undamaged files.

        Raises:
          UserError: it does not succeed.
        """
        if task not in self._undamaged:
            work = self.copy(task, f"undamaged_{len(self._undamaged)}")
            (work / "printed").write_text(self.run(task.command(work)).printed)
            self._undamaged[task] = work
        return self._undamaged[task]

    def twin(self, world: str, path: pathlib.Path) -> pathlib.Path | None:
        """The same file of a run with another seed.

        Args:
          world: file of configs.
          path: relative to the work directory.
        """
        parts = ["seed_1" if part == "seed_0" else part for part in path.parts]
        found = self.finished(world, 1).joinpath(*parts)
        return found if found.exists() else None
