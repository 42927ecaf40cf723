"""The console command `internal-rl <command> [flags]`: every script of a checkout, from any folder.

    internal-rl quickstart
    internal-rl pretrain --config=gridworld:small --workdir=runs/small

Stages from outside are called by name, with the config file that registers them.
"""

import sys

from internal_rl.stages.catalogue import STAGES

OTHERS = {
    "quickstart": "internal RL against raw-action RL from shipped weights, in minutes",
    "reproduce": "all stages of a config in order, and the report",
    "report": "figures, table and summary of whatever stages a work directory holds",
}
"""Commands that are no stage, and what they do."""


def usage() -> str:
    """What the command prints when it is called without a name."""
    width = max(map(len, OTHERS))
    lines = [f"  {name:{width}}  {text}" for name, text in OTHERS.items()]
    return "\n".join(
        [
            "usage: internal-rl COMMAND [--config=FILE:PRESET] [--workdir=DIR] [flags]",
            "",
            *lines,
            f"  stages: {', '.join(STAGES)}, or one that the config file registers",
            "",
            "FILE is gridworld, ant or a path; PRESET is smoke, small or paper.",
            "`internal-rl COMMAND --help` lists the flags.",
        ]
    )


def main() -> None:
    """Entry point of the console script; leaves the process.

    Exit codes are those of `launch.run`: 2 for a fault that the user can mend.
    """
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name = sys.argv.pop(1)
    if name.startswith("-"):
        print(f"error: {name}: given in place of a command, allowed is one of", file=sys.stderr)
        print(usage(), file=sys.stderr)
        sys.exit(2)
    sys.argv[0] = f"internal-rl {name}"
    # Importing these defines flags.
    if name == "quickstart":
        from internal_rl.stages import quickstart

        quickstart.launch_quickstart()
    from internal_rl.stages import launch, running

    if name == "reproduce":
        launch.run(running.run_all)
    if name == "report":
        launch.run(lambda settings, places: running.report(places))
    launch.run_stage(name)
