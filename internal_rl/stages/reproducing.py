"""A whole run and the studies over several runs that make the figures of the method."""

import json
from collections.abc import Collection

from absl import logging

from internal_rl.analysis.study import all_studies
from internal_rl.analysis.sweeps.sweep import Sweep, all_sweeps
from internal_rl.errors import ConfigError, UserError
from internal_rl.paths import as_path
from internal_rl.stages import running
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from internal_rl.stages.sweep_plan import runs_of
from internal_rl.stages.sweeping import run_sweep


def reproduce(
    settings: Settings, places: Places, only: Collection[str] = (), with_sweeps: bool = True
) -> None:
    """Runs every stage, then every study over several runs, and writes the report.

    The report is written before the studies too, as these may take hours. A study that the config
    does not allow is left out, unless it was asked for.

    Args:
      settings: of the run.
      places: where stages are found.
      only: names of studies, over several runs or not; empty for all that show figures of the
        method.
      with_sweeps: studies over several runs are made too.

    Raises:
      UserError: a fault that the user can mend.
    """
    within = {study.name for study in all_studies()}
    asked = [name for name in only if name in all_sweeps() and name not in within]
    if asked and not with_sweeps:
        raise ConfigError(
            f"--only: {', '.join(asked)} given with --nosweeps, which leaves studies over several"
            " runs out; allowed is one of both"
        )
    sweeps = chosen_sweeps(settings, only) if with_sweeps else []
    left_out = running.run_all(settings, places, only)
    failed = []
    for sweep in sweeps:
        stages = {stage for run in runs_of(sweep, settings) for stage in run.stages}
        if lacking := left_out & stages:
            told = ", ".join(sorted(lacking))
            logging.warning("study %s: left out, as subgoals are missing for %s", sweep.name, told)
            continue
        logging.info("study %s", sweep.name)
        try:
            run_sweep(sweep, settings, places)
        except UserError as error:
            # The others can be made all the same.
            failed.append(f"study {sweep.name}: {error}")
    if sweeps:
        running.report(places, settings=settings, only=only)
    if failed:
        raise UserError("; ".join(failed))


def read_selected(file: str) -> dict[str, dict[str, object]]:
    """Fields by method out of a file as a selection writes it, see `Settings.with_selected`.

    Raises:
      ConfigError: there is no such file, or it holds something else.
    """
    allowed = "allowed is report/selection.json of a study selection, fields by method"
    try:
        found = json.loads(as_path(file, "--selected").read_text())
    except OSError as error:
        raise ConfigError(f"--selected={file}: {error.strerror or error}; {allowed}") from None
    except ValueError:
        raise ConfigError(f"--selected={file}: cannot be read as JSON; {allowed}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--selected={file}: holds no fields by method; {allowed}")
    return found


def chosen_sweeps(settings: Settings, only: Collection[str] = ()) -> list[Sweep]:
    """Studies over several runs that are part of a whole run, or those that are asked for.

    Raises:
      ConfigError: one that is asked for does not fit to the config.
    """
    refused, chosen = refused_sweeps(settings), []
    for name, sweep in all_sweeps().items():
        if name not in only if only else not sweep.reproduced:
            continue
        if name not in refused:
            chosen.append(sweep)
        elif only:
            raise ConfigError(f"--only={name}: {refused[name]}")
        else:
            logging.info("study %s: left out, as %s", name, refused[name])
    return chosen


def refused_sweeps(settings: Settings) -> dict[str, str]:
    """Studies over several runs that this world or config cannot have, and why, by name."""
    refused = {}
    for name, sweep in all_sweeps().items():
        try:
            runs_of(sweep, settings)
        except ValueError as error:
            refused[name] = str(error)
    return refused
