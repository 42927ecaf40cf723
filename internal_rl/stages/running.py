"""Runs stages by name: what the command line, the quickstart and Python call."""

import dataclasses
import functools
import math
import os
from collections.abc import Collection, Mapping, Sequence

import jax
from absl import logging
from ml_collections import ConfigDict

from internal_rl import hosts
from internal_rl.arguments import entries_of
from internal_rl.errors import (
    ConfigError,
    StageConflictError,
    StageMissingError,
    SubgoalsMissingError,
)
from internal_rl.files import storage_faults
from internal_rl.paths import as_path
from internal_rl.stages.catalogue import (
    STAGES,
    StageSpec,
    function_of,
    stage_spec,
    unsuited,
    whole_run,
)
from internal_rl.stages.checks import check_settings
from internal_rl.stages.log import show_log
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from internal_rl.training.loggers import DEFAULT_LOGGERS
from internal_rl.training.loop import run_stage
from internal_rl.training.stage import Stage
from internal_rl.training.stage_directory import StageDirectory

REPORT = "report"


def make_stage(settings: Settings, stage: str, places: Places) -> Stage:
    """A stage of the training loop, as pure functions.

    Raises:
      ConfigError: the config has no such stage, the training loop does not run it, or the world
        cannot have it.
      UserError: what it reads is missing or was made with other settings.
    """
    spec = stage_spec(settings, stage)
    _require_suited(settings, stage)
    if spec.make is None:
        loops = ", ".join(name for name, other in STAGES.items() if other.make)
        raise ConfigError(f"config.{stage}: is no stage with updates, allowed are {loops}")
    made = function_of(spec.make)(settings, places)
    sums = {seed: places.parameters_read(settings, stage, seed) for seed in made.seeds}
    return dataclasses.replace(made, parameters_read=sums)


def _require_suited(settings: Settings, stage: str) -> None:
    """Raises SubgoalsMissingError where the world does not tell what a stage needs of subgoals."""
    if problem := unsuited(settings, stage):
        raise SubgoalsMissingError(f"config.{problem}")


def run(settings: Settings, stage: str, places: Places, deadline: float = math.inf) -> None:
    """Runs one stage; a finished one is left as it is, an interrupted one goes on.

    Args:
      settings: of the run.
      stage: its name.
      places: where stages are found.
      deadline: when it ends as it stands, see `training.loop.run_stage`.

    Raises:
      UserError: a fault that the user can mend.
    """
    spec = stage_spec(settings, stage)
    if spec.make is not None:
        if _finished_here(settings, stage, places):
            logging.info("%s: finished already", settings.folder_of(stage))
            return
        run_stage(make_stage(settings, stage, places), places.workdir, places.loggers, deadline)
        return
    if deadline < math.inf:
        raise ConfigError(f"--minutes: given, allowed is none for {stage}, which has no updates")
    _run_on_first_host(spec, settings, places)


def _finished_here(settings: Settings, stage: str, places: Places) -> bool:
    """Whether nothing is left to do for a stage of updates.

    Of what it reads the checksums of the parameters are looked at, and nothing else.

    Raises:
      StageConflictError: a seed was made with other settings, or on other parameters.
      StorageError: the work directory cannot be read.
    """
    config = settings.stage_config(stage)
    with storage_faults(places.workdir):
        for seed in settings.seeds_of(stage):
            directory = places.directory(settings, stage, seed)
            begun = directory.check(config)
            if not (begun and directory.complete) or begun.steps_raised:
                return False
    return True


def _run_on_first_host(spec: StageSpec, settings: Settings, places: Places) -> None:
    """A stage without updates, while other processes wait; they all read its files afterwards."""
    if spec.one_process and hosts.several():
        raise ConfigError(
            f"--num_processes: {jax.process_count()} given, allowed is one process alone for the"
            f" stage {spec.name}; the stages after it may have more"
        )
    if hosts.is_first():
        function_of(spec.run)(settings, places)
    hosts.wait_for_all(spec.name)


def needed_stages(settings: Settings, only: Collection[str] = ()) -> set[str]:
    """Folders of the stages that studies look at or begin with, and of what these read.

    Args:
      settings: of the run.
      only: names of studies, over several runs or not; empty for all, which need every stage.

    Raises:
      ConfigError: there is no study of that name.
    """
    # Here, because it brings matplotlib.
    from internal_rl.analysis.report import choose_studies
    from internal_rl.analysis.sweeps.sweep import all_sweeps

    run = [(stage, chosen, chosen.folder_of(stage)) for stage, chosen in whole_run(settings)]
    if not only:
        return {folder for _, _, folder in run}
    studies, needed = choose_studies(only), set()
    sweeps = [sweep for name, sweep in all_sweeps().items() if name in only]
    begun_with = {stage for sweep in sweeps for stage in sweep.inputs}
    for stage, chosen, folder in run:
        if folder in begun_with or any(study.looks_at(folder) for study in studies):
            inputs = STAGES[stage].inputs(chosen)
            read = [name for name in inputs if name in STAGES and name in chosen.sections]
            needed |= {folder, *map(chosen.folder_of, read)}
    return needed


def run_all(settings: Settings, places: Places, only: Collection[str] = ()) -> frozenset[str]:
    """Runs every stage in order, variants and baselines included, and writes the report.

    A stage that is finished in one of `places.upstream` with the same settings is not run again.
    One that needs subgoals which the world or the trajectories do not tell is left out, as the
    log says.

    Args:
      settings: of the run.
      places: where stages are found.
      only: names of studies; stages that these do not need are left out. Empty for all.

    Returns:
      Names of the stages that need subgoals which nobody tells.

    Raises:
      UserError: a fault that the user can mend; with `only` that subgoals are missing too.
    """
    needed = needed_stages(settings, only)
    made, left_out = False, set()
    for stage, chosen in whole_run(settings):
        folder = chosen.folder_of(stage)
        if folder not in needed:
            continue
        if finished_upstream(chosen, stage, places):
            logging.info("stage %s: finished in another work directory", folder)
            continue
        logging.info("stage %s", folder)
        try:
            run(chosen, stage, places)
        except SubgoalsMissingError as error:
            if only:
                raise
            logging.warning("stage %s: left out, %s", folder, error)
            left_out.add(stage)
            continue
        made = True
    if not made and not any(as_path(places.workdir).glob("*/seed_*")):
        where = f", they are finished in {', '.join(places.upstream)}" if places.upstream else ""
        logging.info("nothing to report: no stages were to be run%s", where)
        return frozenset(left_out)
    report(places, settings=settings, only=only)
    return frozenset(left_out)


def finished_upstream(settings: Settings, stage: str, places: Places) -> bool:
    """Whether all seeds are finished with these settings, none of them in the run's own folder."""
    folder = settings.folder_of(stage)
    seeds = settings.seeds_of(stage)
    if any(StageDirectory(places.workdir, folder, seed).path.exists() for seed in seeds):
        return False
    try:
        for seed in seeds:
            places.finished(settings, stage, seed)
    except (StageConflictError, StageMissingError):
        return False
    return True


def report(
    places: Places,
    wall_seconds: float = math.nan,
    *,
    settings: Settings | None = None,
    only: Collection[str] = (),
) -> dict:
    """Writes the report of whatever stages there are, and returns its summary.

    It is `<workdir>/report/`; of some studies alone `<workdir>/report/only/`.

    Of several processes the first one writes, and the others have an empty summary.

    Args:
      places: where stages are found.
      wall_seconds: duration of the whole run; if unknown, the sum over its stages.
      settings: of the run, to tell what has not been run; None for what its stages tell.
      only: names of studies that are shown; empty for all.

    Raises:
      UserError: a fault that the user can mend.
    """
    # Here, because they bring matplotlib, which no other stage needs at its start.
    from internal_rl.analysis.report import report_folder, write_report
    from internal_rl.stages.page import report_page

    if not hosts.is_first():
        return {}
    page = functools.partial(report_page, places=places, settings=settings)
    summary = write_report(places.workdir, wall_seconds, places.upstream, only, page)
    logging.info("the report is %s/index.html", report_folder(places.workdir, only))
    return summary


def run_stages(
    config: Settings | ConfigDict | Mapping,
    workdir: str | os.PathLike,
    stages: Sequence[str] | None = None,
    *,
    upstream: Sequence[str] = (),
    loggers: Sequence[str] = DEFAULT_LOGGERS,
    log: bool = True,
) -> None:
    """Runs stages from Python, as the command line does.

    Args:
      config: what a config file gives, see `make_config`, or settings.
      workdir: work directory of the run.
      stages: names of stages in the order in which they are to run, `"report"` among them; None for
        a whole run with all variants, baselines and the report.
      upstream: other work directories in which earlier stages may lie.
      loggers: what takes the curves beside `metrics.jsonl`: `"tensorboard"`, `"wandb"`, or one of
        yours, see `register_logger`.
      log: tell on the standard error how far the stages have come, as the command line does.

    Raises:
      UserError: a fault that the user can mend, in one line.
    """
    if log:
        show_log()
    if stages is not None:
        stages = entries_of("stages", stages, "names of stages")
    upstream = entries_of("upstream", upstream, "work directories")
    loggers = entries_of("loggers", loggers, "names of loggers")
    settings = config if isinstance(config, Settings) else Settings.read(config)
    check_settings(settings)
    places = Places(workdir, tuple(map(os.fspath, upstream)), loggers=loggers)
    if stages is None:
        run_all(settings, places)
        return
    for stage in stages:
        if stage != REPORT:
            stage_spec(settings, stage)
            _require_suited(settings, stage)
    for stage in stages:
        report(places, settings=settings) if stage == REPORT else run(settings, stage, places)
