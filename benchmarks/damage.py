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
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import jax
from absl import app, flags

from benchmarks.calls import Calls
from benchmarks.choices import chosen
from benchmarks.damage_trial import Round, Trial
from benchmarks.damage_works import PACKAGE, PAPER_RUN, SWEEP, Task, Works
from benchmarks.damages import DAMAGES
from benchmarks.faults import STAGES
from benchmarks.starts import Starts, starts
from internal_rl.errors import EXIT_USER_ERROR, UserError


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
_TASKS = (*_STAGE, "snapshot", "sweep", "install", "paper_run")
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
    flags.DEFINE_list("tasks", list(_TASKS), "What reads them.")
    flags.DEFINE_list("only", list(STAGES["ant"]), "Files of which stages.")
    flags.DEFINE_integer("random_seed", 0, "Of files, damages and what reads them.")
    flags.DEFINE_bool("processes", False, "Start scripts, and do not call what they do.")
    flags.DEFINE_string("folder", "", "Where finished runs are kept for later; empty for nowhere.")


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
        if name not in choice["tasks"]:
            continue
        own = stage if name in _STAGE[:3] or name == "load" else ""
        task = Task(name, world, own, name == "resume" and draw.random() < 0.5)
        if task.fits():
            path, how = draw.choice(by_stage[stage]), draw.choice(choice["damages"])
            return Round(kind, task, path, how, draw.randrange(2**30))


@contextlib.contextmanager
def kept(folder: str) -> Iterator[pathlib.Path]:
    """The folder of the flag, or one that is removed again."""
    if folder:
        path = pathlib.Path(folder).absolute()
        path.mkdir(parents=True, exist_ok=True)
        yield path
    else:
        with tempfile.TemporaryDirectory(prefix="damage_") as found:
            yield pathlib.Path(found)


@contextlib.contextmanager
def starting(folder: pathlib.Path, processes: bool) -> Iterator[Starts | Calls]:
    """What runs scripts; compiled programs are kept in the folder."""
    if processes:
        with starts(folder, folder / "compiled") as found:
            yield found
    else:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        yield Calls()


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
            "tasks": chosen(values.tasks, _TASKS, "tasks"),
        }
        draw, counts, done = random.Random(values.random_seed), {}, 0
        with kept(values.folder) as folder, starting(folder, values.processes) as started:
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
