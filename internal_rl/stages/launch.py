"""The command line of every script: flags, checks, errors in one line.

A script of a stage is `launch.run_stage("pretrain")`; others call `launch.run(main)` with
`main(settings, places)`. Importing this file defines the flags; nothing else in the package does.
"""

import ast
import math
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from internal_rl import hosts
from internal_rl.backend import check_devices
from internal_rl.errors import EXIT_USER_ERROR, ConfigError, UserError
from internal_rl.interruption import Interrupted, end_quietly, leave, watched
from internal_rl.paths import as_path
from internal_rl.stages import running
from internal_rl.stages.catalogue import section_types, stage_spec
from internal_rl.stages.checks import check_settings
from internal_rl.stages.compiled import ON, keep_compiled, nothing_left
from internal_rl.stages.config_file import CONFIG_FOLDERS, DEFAULT_CONFIG, find_config, load_config
from internal_rl.stages.log import hush_closed_loops, show_log, tell_guards
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings, checked
from internal_rl.training.loggers import DEFAULT_LOGGERS

try:
    # It looks at the command line at once, and into the files of flags that are named there.
    _CONFIG = config_flags.DEFINE_config_file(
        "config", help_string=f"Settings and preset; {DEFAULT_CONFIG} where not given."
    )
except (flags.Error, UnicodeDecodeError) as error:
    print(f"error: --flagfile: {error}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder, or gs://BUCKET/FOLDER, where the stages of a run find each other."
)
_UPSTREAM = flags.DEFINE_list(
    "upstream", [], "Work directories of other runs, in which earlier stages may lie."
)

_LOGGERS = flags.DEFINE_list(
    "loggers",
    list(DEFAULT_LOGGERS),
    "Where curves go beside metrics.jsonl: tensorboard, wandb (offline with WANDB_MODE=offline).",
)

_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    ON,
    "Where compiled programs are kept: on (in the work directory, unless JAX_COMPILATION_CACHE_DIR"
    " is set), off, or a folder.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "HOST:PORT of the first of several processes, or auto on a slice of TPUs; SLURM needs none.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many processes train together.", 0)
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0.", -1)

Main = Callable[[Settings, Places], None]


def run_stage(stage: str) -> None:
    """The script of a stage: parses the command line, runs the stage and leaves the process."""
    started = time.monotonic()
    minutes = flags.DEFINE_float(
        "minutes",
        None,
        "Minutes after which training stops, behind its warm-up, and the stage is finished as it"
        " stands, to be trained further later; what is measured at its end comes on top.",
        0.0,
    )
    seeds = flags.DEFINE_list(
        "seeds",
        None,
        "Seeds that are trained, of those that the stage has, so that several processes can share"
        " them out; all where none is named.",
    )

    def main(settings, places):
        if seeds.value is not None:
            settings = settings.with_seeds(stage, _seeds_of(seeds.value))
        if minutes.value is not None and math.isnan(minutes.value):
            raise ConfigError("--minutes: nan given, allowed is 0 or more")
        limit = math.inf if minutes.value is None else 60.0 * minutes.value
        running.run(settings, stage, places, deadline=started + limit)

    run(main, stage=stage)


def _seeds_of(given: Sequence[str]) -> list[int]:
    """The numbers of `--seeds`."""
    for seed in given:
        if not re.fullmatch(r"\d{1,10}", seed, re.ASCII):
            raise ConfigError(f"--seeds: {seed!r} given, allowed are whole numbers such as 0,2")
    return [int(seed) for seed in given]


def run_reproduce() -> None:
    """The script of a whole run: stages in order, studies over several runs, and the report."""
    only = flags.DEFINE_list(
        "only",
        [],
        "Studies that are wanted; stages that they do not need are left out. The report shows"
        " these studies alone and is written to report/only.",
    )
    sweeps = flags.DEFINE_bool("sweeps", True, "Studies over several runs too, which take longest.")

    selected = flags.DEFINE_string(
        "selected",
        "",
        "File report/selection.json of the study selection: every method is made with the settings"
        " that were selected for it.",
    )

    def main(settings, places):
        # Here: it imports matplotlib.
        from internal_rl.stages.reproducing import read_selected, reproduce

        if selected.value:
            settings = settings.with_selected(read_selected(selected.value))
        reproduce(settings, places, only.value, sweeps.value)

    run(main)


def run_report() -> None:
    """The script of the report; without `--config` the stages tell the settings of the run."""
    only = flags.DEFINE_list(
        "only",
        [],
        "Studies that are shown, in report/only; all, in report, where none is named.",
    )

    def main(settings, places):
        # The default config is that of another run as often as not.
        arguments = flags.FLAGS.read_flags_from_files(sys.argv[1:])
        given = any(re.match(r"--?config[.=]", argument) for argument in arguments)
        running.report(places, settings=settings if given else None, only=only.value)

    run(main)


def run(main: Main, default_workdir: str | None = None, stage: str = "") -> None:
    """Parses the command line, runs `main(settings, places)` and leaves the process.

    A fault that the user can mend becomes one line on the standard error and exit code 2.

    Args:
      main: the script.
      default_workdir: where to work unless `--workdir` says otherwise; None asks for the flag.
      stage: the stage that the config has to have; empty for none.
    """

    end_quietly()
    # Around what watches for signals, as it is needed behind that too, where the process ends.
    hush_closed_loops()

    def parse(argv):
        return _exit_with_one_line(lambda: _parse(argv))

    def start(arguments):
        _exit_with_one_line(lambda: _start(main, arguments, default_workdir, stage))

    app.run(start, flags_parser=parse)


def _exit_with_one_line(action: Callable):
    try:
        with watched() as watch:
            try:
                return action()
            except Exception:
                # C code turns what a signal raises inside of it into a fault of its own.
                watch.check()
                raise
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except Interrupted as interrupted:
        leave(interrupted)


def _start(main: Main, arguments: Sequence[str], default_workdir: str | None, stage: str) -> None:
    if len(arguments) > 1:
        raise ConfigError(f"{arguments[1]}: unexpected argument, allowed are flags: see --help")
    name = _WORKDIR.value or default_workdir
    if not name:
        raise ConfigError("--workdir: not given, allowed is a folder for the results of the run")
    keep_compiled(_COMPILATION_CACHE.value, as_path(name))
    hosts.connect(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    check_devices()
    show_log()
    tell_guards()
    with nothing_left(as_path(name)):
        settings = Settings.read(_CONFIG.value)
        if stage:
            stage_spec(settings, stage)
        check_settings(settings)
        loggers = tuple(_LOGGERS.value)
        main(settings, Places(name, tuple(_UPSTREAM.value), _config_arguments(), loggers))


def _config_arguments() -> tuple[str, ...]:
    """The arguments that choose the config, to name them in messages."""
    if not _CONFIG.present:
        return ()
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag).items()
    path = pathlib.Path(config_flags.get_config_filename(flag))
    if path.parent in CONFIG_FOLDERS:
        path = pathlib.Path("configs") / path.name
    chosen = f"--config={path}"
    return (chosen, *(f"--config.{field}={value}" for field, value in overrides))


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; every fault becomes a ConfigError. `--help` lists them and leaves."""
    if {"--help", "-help", "-h", "-?"} & set(argv):
        print(_help())
        sys.exit(0)
    try:
        argv = flags.FLAGS.read_flags_from_files(list(argv))
    except flags.Error as error:
        raise ConfigError(f"--flagfile: {error}") from None
    given = [a.partition("=")[2] for a in argv if re.match(r"--?config=", a)]
    if not given:
        if {"--config", "-config"} & set(argv):
            raise ConfigError(f"--config: write it with an equals sign: --config={DEFAULT_CONFIG}")
        given = [DEFAULT_CONFIG]
        argv = [argv[0], f"--config={given[0]}", *argv[1:]]
    found = {text: find_config(text) for text in given}
    argv = [
        f"--config={found[a.partition('=')[2]]}" if re.match(r"--?config=", a) else a for a in argv
    ]
    _check_overrides(found[given[-1]], argv)
    try:
        return flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
        if match is None:
            raise ConfigError(str(error)) from None
        field, value = match.groups()
        kind = _type_name(_CONFIG.value, field)
        raise ConfigError(f"config.{field}: '{value}' given, allowed is {kind}") from None
    except flags.Error as error:
        raise ConfigError(str(error)) from None
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
        # What the libraries that read values do not foresee.
        raise ConfigError(f"a flag cannot be read ({error}), allowed is --FLAG=VALUE") from None


def _help() -> str:
    """What the script does, its flags, and the sections of a config."""
    script = (sys.modules["__main__"].__doc__ or "").strip()
    ours = ("internal_rl", "experiments", sys.argv[0])
    modules = [m for m in flags.FLAGS.flags_by_module_dict() if m.startswith(ours)]
    listed = "\n".join(flags.FLAGS.module_help(module) for module in modules)
    sections = ", ".join(section_types())
    return (
        f"{script}\n\nusage: {sys.argv[0]} [flags]\n{listed}\n\n"
        "  --config.SECTION.FIELD=VALUE changes one field of the config; an unknown FIELD is\n"
        f"    answered with all there are. Sections: environment, {sections}.\n"
        "  --helpfull lists the flags of all libraries too."
    )


def _check_overrides(specification: str, argv: Sequence[str]) -> None:
    """Checks that the preset exists and that overrides name fields of it.

    Raises:
      ConfigError: names the first unknown field and its neighbours.
    """
    config = load_config(specification)
    for argument in argv:
        match = re.match(r"--?config\.([^=]*)", argument)
        if match and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", match.group(1)):
            raise ConfigError(
                f"{argument}: names no field, allowed is --config.SECTION.FIELD=VALUE"
            )
        section, path = config, []
        for part in match.group(1).split(".") if match else []:
            if not isinstance(section, ConfigDict):
                raise ConfigError(f"config.{'.'.join(path)}: has no fields, '{part}' asked for")
            if part not in section:
                _check_known(path, part)
                fields = ", ".join(sorted(section))
                where = ".".join(["config", *path])
                raise ConfigError(f"{where}.{part}: unknown field, allowed in {where}: {fields}")
            section = section[part]
            path.append(part)
        if match and isinstance(section, tuple):
            _check_depth(".".join(path), argument.partition("=")[2])
        if match and isinstance(section, ConfigDict):
            raise ConfigError(
                f"config.{'.'.join(path)}: a whole section given, allowed are single fields, as"
                f" --config.{'.'.join(path)}.FIELD=VALUE"
            )


def _check_depth(field: str, text: str) -> None:
    """Raises ConfigError about a text that is nested deeper than Python reads."""
    try:
        ast.literal_eval(text)
    except (MemoryError, RecursionError):
        shown = f"{text[:40]}..."
        raise ConfigError(f"config.{field}: '{shown}' given, allowed is a tuple") from None
    except (ValueError, SyntaxError):
        # Told when the flag is read.
        return


def _check_known(path: Sequence[str], field: str) -> None:
    """Raises ConfigError about a field that a section names as replaced by another one."""
    section = section_types().get(path[0]) if len(path) == 1 else None
    if section is not None and field in section.replaced:
        checked(section.check_known, path[0], field)


def _type_name(config: ConfigDict, field: str) -> str:
    value = config
    for part in field.split("."):
        value = value[part]
    names = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a tuple"}
    return names.get(type(value), "single fields, as --config.section.field=value")
