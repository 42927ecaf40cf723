"""Runs the studies of `analysis.sweeps`: run after run, each in a work directory of its own.

The runs of a study lie in `<workdir>/sweep/<study>/<run>/`. They read what they share from each
other, from the work directory and from those upstream of it. What is finished is skipped, what was
interrupted goes on; a run that fails is named at the end, and the others go on.
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence

import jax
from absl import flags, logging

from internal_rl import hosts
from internal_rl.analysis.sweeps import report
from internal_rl.analysis.sweeps.sweep import Sweep, sweep_named
from internal_rl.errors import StageConflictError, UserError
from internal_rl.files import storage_faults
from internal_rl.stages import running
from internal_rl.stages.checks import check_settings
from internal_rl.stages.places import Places, config_arguments
from internal_rl.stages.settings import Settings
from internal_rl.stages.sweep_plan import (
    ELSEWHERE,
    FINISHED,
    PlannedRun,
    bases_of,
    choose,
    plan,
    seed_fields,
    tell,
)
from internal_rl.training.stage_copies import copy_stage
from internal_rl.training.stage_directory import StageDirectory

# Stages whose programs stay in memory. What measures the runs of a study is the same program for
# all, but each is trained by one of its own, and there may be hundreds.
_STAGES_WITH_PROGRAMS = 8
_stages_made = itertools.count(1)


def check_inputs(sweep: Sweep, planned: Sequence[PlannedRun], places: Places) -> None:
    """Checks that what the runs of a study share is finished.

    Raises:
      StageMissingError: it is not; names the command that makes it.
      StageConflictError: it was made with other settings.
    """
    settings = planned[0].settings
    for stage in sweep.inputs:
        if stage not in settings.sections:
            continue
        own = places.arguments or config_arguments(settings)
        seeds = settings.seeds_of(stage)
        fields = seed_fields({stage: len(seeds)}).items()
        flags_of_seeds = (f"--config.{field}={value}" for field, value in fields)
        there = dataclasses.replace(places, arguments=(*own, *flags_of_seeds))
        for seed in seeds:
            there.finished(settings, stage, seed)


def run_sweep(sweep: Sweep, settings: Settings, places: Places, names: Sequence[str] = ()) -> str:
    """Runs a study and writes its table and figures into `<workdir>/report/`.

    Args:
      sweep: the study.
      settings: of the config.
      places: where the study is written, and what is upstream of it.
      names: of the runs that are made, with what they read; all without any.

    Returns:
      The table as Markdown.

    Raises:
      UserError: an input is missing, or runs have failed: each is named, the others are made.
    """
    planned = plan(sweep, settings, places)
    chosen = choose(planned, names)
    check_inputs(sweep, chosen, places)
    _check_list(sweep.name, planned, places)
    if hosts.is_first():
        listed = [_listed(item, planned) for item in planned if item.run.labels]
        report.write_list(places.workdir, sweep.name, listed)
    failed: dict[str, str] = {}
    for index, item in enumerate(chosen):
        name = item.run.name
        logging.info("run %d of %d: %s", index + 1, len(chosen), name)
        if broken := [read for read in item.run.reads if read in failed]:
            failed[name] = f"reads {broken[0]}, which failed"
            continue
        try:
            _make(item, places.loggers)
        except UserError as error:
            failed[name] = " ".join(str(error).split())
        except Exception as error:
            logging.exception("run %s", name)
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if name in failed:
            logging.error("run %s failed: %s", name, failed[name])
    first = hosts.is_first()
    shown = report.write_sweep(places.workdir, sweep, places.upstream) if first else None
    if failed:
        told = "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        raise UserError(f"{len(failed)} of {len(chosen)} runs failed: {told}")
    return f"# {shown.title}\n\n{shown.text}" if shown is not None else ""


def _check_list(study: str, planned: Sequence[PlannedRun], places: Places) -> None:
    """Compares with what is finished of the study: its list would tell of other runs than it has.

    Raises:
      StageConflictError: a finished run is none of the study any more, has other fields, or was
        made with other settings.
      StorageError: the list that is there is damaged.
    """
    if study not in report.studies_in(places.workdir):
        return
    asked = {item.run.name: item for item in planned if item.run.labels}
    for run in report.read_sweep(places.workdir, study, places.upstream).runs:
        item = asked.get(run.name)
        if item is not None and json.loads(json.dumps(item.run.fields)) == dict(run.fields):
            item.state(item.run.stages[-1])
            continue
        told = ", ".join(f"{name}={value}" for name, value in run.fields.items())
        raise StageConflictError(
            f"--study={study}: {report.folder_of(places.workdir, study)} holds the finished run"
            f" {run.name}, made with {told or 'no fields'}, which this config does not have;"
            " allowed is the --config of that study, another --workdir, or to move its folder"
        )


def _listed(item: PlannedRun, planned: Sequence[PlannedRun]) -> dict:
    """What the list of a study holds of a run."""
    run, stage = item.run, item.run.stages[-1]
    bases = zip(item.settings.seeds_of(stage), bases_of(item, planned), strict=True)
    return {
        "name": run.name,
        "labels": dict(run.labels),
        "fields": dict(run.fields),
        "stage": item.settings.folder_of(stage),
        "bases": dict(bases),
    }


def _make(item: PlannedRun, loggers: tuple[str, ...]) -> None:
    """Runs the stages of a run that are not found elsewhere; finished ones stay as they are."""
    check_settings(item.settings)
    for stage in item.run.stages:
        state = item.state(stage)
        if state == ELSEWHERE:
            logging.info("%s: %s", item.settings.folder_of(stage), state)
            if item.measures(stage):
                _copy_here(item, stage)
            continue
        running.run(item.settings, stage, item.places(loggers))
        if state != FINISHED and next(_stages_made) % _STAGES_WITH_PROGRAMS == 0:
            jax.clear_caches()


def _copy_here(item: PlannedRun, stage: str) -> None:
    """Copies what is measured to the run's own folder, where the study looks for it."""
    # No process asks for the state of the stage while it is copied.
    hosts.wait_for_all("the state of a run")
    if hosts.is_first():
        folder, places = item.settings.folder_of(stage), item.places(())
        with storage_faults(item.workdir):
            for seed in item.settings.seeds_of(stage):
                source = places.finished(item.settings, stage, seed)
                copy_stage(source.path, StageDirectory(item.workdir, folder, seed).path)
    hosts.wait_for_all("the copy of a run")


def launch_sweep() -> None:
    """The script: parses the command line, runs a study and leaves the process."""
    # It defines flags when it is imported.
    from internal_rl.stages import launch

    study = flags.DEFINE_string("study", None, "Name of the study.")
    names = flags.DEFINE_list("runs", [], "Runs to make, with what they read; all if not given.")
    dry_run = flags.DEFINE_bool("dry_run", False, "Print the runs and their commands alone.")

    def main(settings: Settings, places: Places) -> None:
        sweep = sweep_named(study.value)
        if dry_run.value:
            print(tell(choose(plan(sweep, settings, places), names.value)))
            return
        print(run_sweep(sweep, settings, places, names.value))

    launch.run(main)
