"""The console command `internal-rl <command> [flags]`: every script of a checkout, from any folder.

    internal-rl quickstart
    internal-rl examples
    internal-rl pretrain --config=gridworld:small --workdir=runs/small

Stages from outside are called by name, with the config file that registers them.
"""

import shutil
import sys

import internal_rl
from internal_rl.errors import ConfigError
from internal_rl.files import shipped_folders
from internal_rl.interruption import end_quietly
from internal_rl.paths import as_path, is_remote

OTHERS = {
    "quickstart": "internal RL against raw-action RL from shipped weights, in minutes",
    "reproduce": "all stages of a config in order, the studies over several runs, and the report",
    "paper_run": "as much of the paper's size as fits into some minutes, weights in small files",
    "sweep": "a study over several runs, such as a sweep over alpha",
    "report": "a page with figures and tables of whatever stages a work directory holds",
    "examples": "copies a world, a block and a notebook of one's own to begin with into a folder",
}
"""Commands that are no stage, and what they do."""


def usage() -> str:
    """What the command prints when it is called without a name."""
    from internal_rl.stages.catalogue import STAGES

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
            "`internal-rl COMMAND --help` lists the flags; `internal-rl --version`.",
        ]
    )


def main() -> None:
    """Entry point of the console script; leaves the process.

    Exit codes are those of `launch.run`: 2 for a fault that the user can mend.
    """
    end_quietly()
    # Here: it brings jax, which takes seconds, and Ctrl-C is to end those too.
    from internal_rl.stages.catalogue import STAGES

    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name = sys.argv.pop(1)
    if name == "--version":
        print(f"internal_rl {internal_rl.__version__}")
        sys.exit(0)
    if name.startswith("-"):
        print(f"error: {name}: given in place of a command, allowed is one of", file=sys.stderr)
        print(usage(), file=sys.stderr)
        sys.exit(2)
    # A stage from outside is known as soon as its config file is read.
    with_config = any(argument.lstrip("-").startswith("config=") for argument in sys.argv)
    if name not in (*OTHERS, *STAGES) and not with_config:
        allowed = ", ".join((*OTHERS, *STAGES))
        print(f"error: {name}: unknown command, allowed are {allowed}", file=sys.stderr)
        sys.exit(2)
    if name == "examples":
        _copy_examples(sys.argv[1:])
        sys.exit(0)
    sys.argv[0] = f"internal-rl {name}"
    # Importing these defines flags.
    if name == "quickstart":
        from internal_rl.stages import quickstart

        quickstart.launch_quickstart()
    if name == "paper_run":
        from internal_rl.stages import paper_run

        paper_run.launch_paper_run()
    if name == "sweep":
        from internal_rl.stages import sweeping

        sweeping.launch_sweep()
    from internal_rl.stages import launch

    if name == "reproduce":
        launch.run_reproduce()
    if name == "report":
        launch.run_report()
    launch.run_stage(name)


def _copy_examples(arguments: list[str]) -> None:
    """Copies the example files into a folder; what lies there already is left alone."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print(f"error: {arguments[-1]}: unexpected, allowed is one folder", file=sys.stderr)
        sys.exit(2)
    source = next(folder for folder in shipped_folders("examples") if folder.is_dir())
    name = arguments[0] if arguments else "examples"
    try:
        target = as_path(name, "examples")
        if is_remote(target):
            raise ConfigError(f"examples: '{name}' given, allowed is a folder of this machine")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.glob("*.*")):
            if file.suffix not in (".py", ".ipynb"):
                continue
            copied = target / file.name
            if copied.exists():
                print(f"{copied}: there already, left alone")
                continue
            shutil.copyfile(file, copied)
            print(copied)
    except OSError as error:
        print(f"error: {target}: {error.strerror}, allowed is a writable folder", file=sys.stderr)
        sys.exit(2)
