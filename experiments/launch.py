"""What every experiment script shares: flags, checks, errors in one line, stages by name.

A script defines `main(config, workdir)` and ends with `launch.run(main)`.
"""

import importlib.util
import json
import logging as python_logging
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import internal_rl
from experiments.validation import check_config
from internal_rl.errors import ConfigError, UserError
from internal_rl.files import storage_faults
from internal_rl.training.stage_directory import StageDirectory, check_stage, load_stage

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
DEFAULT_CONFIG = "configs/gridworld.py:small"

_ROOT = pathlib.Path(__file__).parents[1]

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string=f"Settings and preset; {DEFAULT_CONFIG} where not given."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder where the stages of a run find each other.")

# Sections of the config that decide the results of a stage, those of its inputs included. Only
# worlds whose expert has to be trained have the sections `expert` and `collect`.
_BASE = ("environment", "expert", "collect", "data", "base", "pretrain")
SECTIONS = {
    "expert": ("environment", "expert"),
    "collect": ("environment", "expert", "collect"),
    "pretrain": _BASE,
    "probe": (*_BASE, "probe"),
    "steer": (*_BASE, "steer"),
    "metacontroller": (*_BASE, "metacontroller"),
    "internal_rl": (*_BASE, "metacontroller", "internal_rl"),
    "raw_rl": (*_BASE, "raw_rl"),
}


def run(main: Callable[[ConfigDict, str], None], default_workdir: str | None = None) -> None:
    """Parses the command line, runs `main(config, workdir)` and leaves the process.

    A fault that the user can mend becomes one line on the standard error and exit code 2.

    Args:
      main: the script.
      default_workdir: where to work unless `--workdir` says otherwise; None asks for the flag.
    """

    def parse(argv):
        return _exit_with_one_line(lambda: _parse(argv))

    def start(arguments):
        _exit_with_one_line(lambda: _start(main, arguments, default_workdir))

    app.run(start, flags_parser=parse)


def _exit_with_one_line(action: Callable):
    try:
        return action()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _start(main: Callable, arguments: Sequence[str], default_workdir: str | None) -> None:
    if len(arguments) > 1:
        raise ConfigError(f"{arguments[1]}: unexpected argument, allowed are flags: see --help")
    workdir = _WORKDIR.value or default_workdir
    if not workdir:
        raise ConfigError("--workdir: not given, allowed is a folder for the results of the run")
    _set_up_log()
    _check_stage(_CONFIG.value, pathlib.Path(sys.argv[0]).stem)
    check_config(_CONFIG.value)
    main(_CONFIG.value, workdir)


def _check_stage(config: ConfigDict, script: str) -> None:
    """Refuses a stage that the config has no settings for.

    Raises:
      ConfigError: names the stages that it has.
    """
    if script in SECTIONS and script not in config:
        stages = ", ".join(name for name in SECTIONS if name in config)
        raise ConfigError(f"config.{script}: no such stage in this config, allowed are {stages}")


def _set_up_log() -> None:
    """Shows what the project has to say, and of its libraries only warnings."""
    logging.set_verbosity(logging.INFO)
    python_logging.getLogger("jax").setLevel(python_logging.WARNING)
    python_logging.getLogger("absl").addFilter(
        lambda record: record.levelno > python_logging.INFO or "orbax" not in record.pathname
    )
    for line in (internal_rl.HOST_THREADS, internal_rl.HOST_MEMORY, internal_rl.HOST_COMPILER):
        logging.info("%s", line)


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; every fault becomes a ConfigError."""
    given = [a.partition("=")[2] for a in argv if re.match(r"--?config=", a)]
    if not given:
        if {"--config", "-config"} & set(argv):
            raise ConfigError(f"--config: write it with an equals sign: --config={DEFAULT_CONFIG}")
        folder = pathlib.Path("" if pathlib.Path("configs/gridworld.py").is_file() else _ROOT)
        given = [str(folder / DEFAULT_CONFIG)]
        argv = [argv[0], f"--config={given[0]}", *argv[1:]]
    _check_overrides(given[-1], argv)
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


def _check_overrides(specification: str, argv: Sequence[str]) -> None:
    """Checks that the preset exists and that overrides name fields of it.

    Raises:
      ConfigError: names the first unknown field and its neighbours.
    """
    config = load_config(specification)
    for argument in argv:
        match = re.match(r"--?config\.([^=]+)", argument)
        section, path = config, []
        for part in match.group(1).split(".") if match else []:
            if not isinstance(section, ConfigDict):
                raise ConfigError(f"config.{'.'.join(path)}: has no fields, '{part}' asked for")
            if part not in section:
                fields = ", ".join(sorted(section))
                where = ".".join(["config", *path])
                raise ConfigError(f"{where}.{part}: unknown field, allowed in {where}: {fields}")
            section = section[part]
            path.append(part)


def load_config(specification: str) -> ConfigDict:
    """Builds the config that `--config=<specification>` stands for.

    Args:
      specification: path of a config file and, behind a colon, its preset.

    Raises:
      ConfigError: the file is no config file, or does not know the preset.
    """
    path, *arguments = specification.split(":", 1)
    if not pathlib.Path(path).is_file() or not path.endswith(".py"):
        raise ConfigError(
            f"config: '{path}' is not there, allowed is a file such as {DEFAULT_CONFIG}"
        )
    module_spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    try:
        return module.get_config(*arguments)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _type_name(config: ConfigDict, field: str) -> str:
    value = config
    for part in field.split("."):
        value = value[part]
    names = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a tuple"}
    return names.get(type(value), "single fields, as --config.section.field=value")


def seeds_of(config: ConfigDict, section: str) -> tuple[int, ...]:
    """Seeds that a stage trains."""
    return tuple(range(config.seed, config.seed + config[section].num_seeds))


def for_each_seed(
    config: ConfigDict,
    workdir: str,
    section: str,
    prepare: Callable[[int], Callable[[StageDirectory], int]],
) -> None:
    """Runs a stage that is no loop of updates, seed by seed; finished seeds stay as they are.

    Args:
      config: all settings.
      workdir: work directory of the run.
      section: the stage.
      prepare: `prepare(seed)` reads what the seed needs, before its directory is made; it returns
        `work(directory)`, which goes on from what it finds there and returns the steps taken.

    Raises:
      StageConflictError: a directory was made with another configuration, or is in use.
      StorageError: the work directory cannot be read or written.
    """
    settings = stage_config(config, section)
    with storage_faults(workdir):
        for seed in seeds_of(config, section):
            directory = StageDirectory(workdir, section, seed)
            directory.check(settings)
            if directory.finished:
                logging.info("%s: seed %d finished already", section, seed)
                continue
            work = prepare(seed)
            directory.begin(settings, [seed])
            try:
                directory.finish(work(directory))
            finally:
                directory.release()


def stage_name(config: ConfigDict, section: str) -> str:
    """Name of a stage and of its folder.

    Each variant of the metacontroller, and each training age that is probed, has its own.
    """
    if section == "probe" and config.probe.base_step:
        return f"probe_{config.probe.base_step}"
    if section in ("metacontroller", "internal_rl"):
        variant = config.metacontroller.variant
        return section if variant == "discovered" else f"{section}_{variant}"
    return section


def stage_config(config: ConfigDict, section: str) -> dict:
    """Everything that the results of a stage depend on, as `config.json` holds it.

    Which seeds run together does not belong to it: each seed has a folder of its own.
    """
    result = {}
    for name in SECTIONS[section]:
        if name not in config:
            continue
        result[name] = config[name].to_dict()
        result[name].pop("num_seeds", None)
    # JSON knows no tuples.
    return json.loads(json.dumps(result))


def schedule_of(config: ConfigDict, section: str) -> dict:
    """Name, seeds, config and schedule of a stage, as keyword arguments of `Stage`."""
    settings = config[section]
    return {
        "name": stage_name(config, section),
        "config": stage_config(config, section),
        "seeds": seeds_of(config, section),
        "num_steps": settings.steps,
        "log_every": settings.log_every,
        "evaluate_every": settings.evaluate_every,
        "checkpoint_every": settings.checkpoint_every,
        "steps_per_call": settings.steps_per_call,
    }


def optimiser_of(settings: Mapping) -> dict:
    """Keyword arguments of `make_optimiser` but for the learning rate."""
    names = ("weight_decay", "b1", "b2", "max_gradient_norm", "optimiser")
    return {name: settings[name] for name in names}


def rows_of(config: ConfigDict, section: str) -> int:
    """Rows of tokens that hold `batch_size` trajectories, rounded up to whole parts."""
    rows = max(1, round(config[section].batch_size / config.data.trajectories_per_row))
    num_parts = config[section].get("num_parts", 1)
    return -(-rows // num_parts) * num_parts


def load_upstream(
    config: ConfigDict, workdir: str | os.PathLike, section: str, seed: int, step: int | None = None
) -> dict:
    """Parameters of an earlier stage, which must have been run with the settings of this config.

    Raises:
      StageMissingError: the stage is not finished; names the command that makes it.
      StageConflictError: it was run with other settings.
      StorageError: its files cannot be read.
    """
    params, _ = load_stage(
        workdir,
        stage_name(config, section),
        seed,
        config=stage_config(config, section),
        step=step,
        command=command_of(config, section, workdir),
    )
    return params


def check_upstream(
    config: ConfigDict, workdir: str | os.PathLike, section: str, seed: int
) -> StageDirectory:
    """Directory of an earlier stage that leaves no parameters; errors as in `load_upstream`."""
    return check_stage(
        workdir,
        stage_name(config, section),
        seed,
        stage_config(config, section),
        command_of(config, section, workdir),
    )


def command_of(config: ConfigDict, section: str, workdir: str | os.PathLike) -> str:
    """The command that makes a stage with the settings of this command."""
    arguments = [f"--config={DEFAULT_CONFIG.partition(':')[0]}:{config.preset}"]
    if flags.FLAGS.is_parsed() and _CONFIG.present:
        flag = flags.FLAGS["config"]
        arguments = [f"--config={config_flags.get_config_filename(flag)}"]
        for field, value in config_flags.get_override_values(flag).items():
            arguments.append(f"--config.{field}={value}")
    arguments.append(f"--workdir={workdir}")
    return shlex.join(["python", "-m", f"experiments.{section}", *arguments])
