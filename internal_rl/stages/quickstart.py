"""The main job in minutes: internal RL against raw-action RL on the held-out task, one seed.

Loads the small pretrained base model and metacontroller that the package ships, or, with
`--from_scratch`, trains every stage.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence

from absl import flags

from internal_rl import pretrained
from internal_rl.errors import ConfigError
from internal_rl.stages import launch, running
from internal_rl.stages.origin import differing_flags
from internal_rl.stages.places import Places, config_arguments
from internal_rl.stages.settings import COUNTS, QUICKSTART_SECTIONS, Settings
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_directory import StageDirectory

DEFAULT_WORKDIR = "runs/quickstart"

_FROM_SCRATCH = flags.DEFINE_bool("from_scratch", False, "Train every stage instead of loading.")


def main(settings: Settings, places: Places) -> None:
    """Runs the main job and prints one line that compares both ways of learning.

    Raises:
      UserError: a fault that the user can mend.
    """
    given = _given(places.arguments)
    for field in sorted(given):
        section, _, name = field.partition(".")
        if name in COUNTS and getattr(settings.sections[section], name) != 1:
            raise ConfigError(
                f"config.{field}: given, but the quickstart has one seed; allowed are more with the"
                " scripts of the stages, or experiments.reproduce"
            )
    asked, settings = settings, settings.with_one_seed()
    if not _FROM_SCRATCH.value:
        settings = shortened(settings, given)
    arguments = places.arguments or config_arguments(asked)
    fields = differing_flags(asked, settings)
    places = dataclasses.replace(places, arguments=(*arguments, *fields))
    if _FROM_SCRATCH.value:
        _check_not_shipped(places)
        running.run_all(settings, places)
    else:
        _check_what_is_there(settings, places)
        pretrained.install(settings.environment["name"], settings.preset, places.workdir)
        for stage in QUICKSTART_SECTIONS:
            running.run(settings, stage, places)
    internal, raw = map(settings.folder_of, QUICKSTART_SECTIONS)
    # Of what is made here: a run that goes on or is finished already tells the same.
    seconds = math.nan if _FROM_SCRATCH.value else sum(_seconds(places, x) for x in (internal, raw))
    summary = running.report(places, seconds, settings=settings)
    print(
        f"internal RL solves {summary[f'{internal}_success']:.1%} of the held-out task's episodes,"
        f" raw-action RL {summary[f'{raw}_success']:.1%},"
        f" after {summary[f'{internal}_episodes']:,.0f} and {summary[f'{raw}_episodes']:,.0f}"
        f" episodes ({summary['wall_seconds'] / 60:.1f} minutes)"
    )


def _seconds(places: Places, stage: str) -> float:
    return read_metrics(StageDirectory(places.workdir, stage, 0).path)[-1]["seconds"]


def _given(arguments: Sequence[str]) -> set[str]:
    """Fields that the command line has changed."""
    return {argument.partition("=")[0].removeprefix("--config.") for argument in arguments}


def _check_what_is_there(settings: Settings, places: Places) -> None:
    """Raises StageConflictError where the folder is that of other settings; copies nothing."""
    for stage in pretrained.stages_of(settings.environment["name"], settings.preset):
        places.directory(settings, stage, 0).check(settings.stage_config(stage))


def _check_not_shipped(places: Places) -> None:
    """Raises ConfigError where what would be trained is there as it is shipped."""
    for stage in ("expert", "pretrain", "metacontroller"):
        directory = StageDirectory(places.workdir, stage, 0)
        if directory.finished and not directory.has_checkpoint:
            raise ConfigError(
                f"--from_scratch: {directory.path} holds what is shipped; allowed is another"
                " --workdir"
            )


def shortened(settings: Settings, given: Collection[str] = ()) -> Settings:
    """Settings that end within minutes, see `Settings.quickstart`; what was asked for stays.

    Args:
      settings: of the config.
      given: fields that were asked for, as in `raw_rl.steps`.

    Raises:
      ConfigError: the fields of the quickstart do not fit to those that were asked for.
    """
    for stage in QUICKSTART_SECTIONS:
        fields = settings.quickstart[stage].items()
        chosen = {name: value for name, value in fields if f"{stage}.{name}" not in given}
        try:
            settings = settings.updated(stage, **chosen)
        except ConfigError as error:
            told = ", ".join(f"{stage}.{name}={value}" for name, value in chosen.items())
            raise ConfigError(f"{error} (the quickstart takes {told})") from None
    return settings


def launch_quickstart() -> None:
    """The script: parses the command line, runs the main job and leaves the process."""
    launch.run(main, default_workdir=DEFAULT_WORKDIR)
