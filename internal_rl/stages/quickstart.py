"""The main job in minutes: internal RL against raw-action RL on the held-out task, one seed.

Loads the small pretrained base model and metacontroller that the package ships, or, with
`--from_scratch`, trains every stage.
"""

import time
from collections.abc import Sequence

from absl import flags

from internal_rl import pretrained
from internal_rl.stages import launch, running
from internal_rl.stages.places import Places
from internal_rl.stages.settings import QUICKSTART_SECTIONS, Settings

DEFAULT_WORKDIR = "runs/quickstart"

_FROM_SCRATCH = flags.DEFINE_bool("from_scratch", False, "Train every stage instead of loading.")


def main(settings: Settings, places: Places) -> None:
    """Runs the main job and prints one line that compares both ways of learning."""
    started, settings = time.monotonic(), settings.with_one_seed()
    if _FROM_SCRATCH.value:
        running.run_all(settings, places)
    else:
        settings = shortened(settings, places.arguments)
        pretrained.install(settings.environment["name"], settings.preset, places.workdir)
        for stage in QUICKSTART_SECTIONS:
            running.run(settings, stage, places)
    summary = running.report(places, time.monotonic() - started)
    internal, raw = map(settings.folder_of, QUICKSTART_SECTIONS)
    print(
        f"internal RL solves {summary[f'{internal}_success']:.1%} of the held-out task's episodes,"
        f" raw-action RL {summary[f'{raw}_success']:.1%},"
        f" after {summary[f'{internal}_episodes']:,.0f} and {summary[f'{raw}_episodes']:,.0f}"
        f" episodes ({summary['wall_seconds'] / 60:.1f} minutes)"
    )


def shortened(settings: Settings, arguments: Sequence[str]) -> Settings:
    """Settings that end within minutes, see `Settings.quickstart`; what was asked for stays.

    Args:
      settings: of the config.
      arguments: of the command line, which choose the config.
    """
    given = {argument.partition("=")[0].removeprefix("--config.") for argument in arguments}
    for stage in QUICKSTART_SECTIONS:
        fields = settings.quickstart[stage].items()
        settings = settings.updated(
            stage, **{name: value for name, value in fields if f"{stage}.{name}" not in given}
        )
    return settings


def launch_quickstart() -> None:
    """The script: parses the command line, runs the main job and leaves the process."""
    launch.run(main, default_workdir=DEFAULT_WORKDIR)
