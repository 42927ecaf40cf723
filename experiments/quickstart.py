"""The main job in minutes: internal RL against raw-action RL on the held-out task.

Loads the small pretrained base model and metacontroller that the package ships, or, with
`--from_scratch`, trains every stage.
"""

import time

from absl import flags, logging
from ml_collections import ConfigDict

from experiments import internal_rl, launch, raw_rl
from experiments.reproduce import main as run_all_stages
from internal_rl import pretrained
from internal_rl.analysis.report import write_report

DEFAULT_WORKDIR = "runs/quickstart"

_FROM_SCRATCH = flags.DEFINE_bool("from_scratch", False, "Train every stage instead of loading.")


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the main job and prints one line that compares both ways of learning."""
    started = time.monotonic()
    if _FROM_SCRATCH.value:
        run_all_stages(config, workdir)
    else:
        for section in ("internal_rl", "raw_rl"):
            config[section].update(config.quickstart[section])
        pretrained.install(config.environment.name, config.preset, workdir)
        internal_rl.main(config, workdir)
        raw_rl.main(config, workdir)
    summary = write_report(workdir, time.monotonic() - started)
    logging.info("figures and tables are in %s/report", workdir)
    print(
        f"internal RL solves {summary['internal_rl_success']:.1%} of the held-out task's episodes,"
        f" raw-action RL {summary['raw_rl_success']:.1%},"
        f" after {summary['internal_rl_episodes']:,.0f} and {summary['raw_rl_episodes']:,.0f}"
        f" episodes ({summary['wall_seconds'] / 60:.1f} minutes)"
    )


if __name__ == "__main__":
    launch.run(main, default_workdir=DEFAULT_WORKDIR)
