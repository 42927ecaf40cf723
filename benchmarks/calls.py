"""Calls in this process what scripts do, as `benchmarks.starts` starts the scripts themselves.

A fault of the user is a line and the exit code 2, as `stages.launch` makes it; whatever else is
raised is a traceback. What is spared is a second or more of every start.
"""

import ast
import contextlib
import io
import logging
import pathlib
import traceback
from collections.abc import Iterator, Sequence

from absl import logging as absl_logging

from benchmarks import loaded
from benchmarks.starts import Outcome
from internal_rl.errors import EXIT_USER_ERROR, UserError
from internal_rl.stages import running
from internal_rl.stages.config_file import load_config
from internal_rl.stages.log import show_log
from internal_rl.stages.paper_run import PaperRun, paper_run
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings


class Calls:
    """What takes the place of `Starts`."""

    def __init__(self):
        # Leaves out of the log what scripts leave out.
        show_log()

    def start(self, arguments: Sequence[str]) -> Outcome:
        """Does what a module does with a command line, see `Starts.start`."""
        module, *words = arguments
        code = 0
        with _heard() as said, contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                _call(module, words)
            except UserError as error:
                said.write(f"error: {' '.join(str(error).split())}\n")
                code = EXIT_USER_ERROR
            except Exception:
                said.write(traceback.format_exc())
                code = 1
        return Outcome(code, said.getvalue(), printed.getvalue())


@contextlib.contextmanager
def _heard() -> Iterator[io.StringIO]:
    """Takes what is logged while the body runs."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setLevel(logging.WARNING)
    logger = absl_logging.get_absl_logger()
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield said
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)


def _call(module: str, words: Sequence[str]) -> None:
    name = module.rpartition(".")[2]
    if name == "loaded":
        print(loaded.checksum(*words))
        return
    given = dict(word.removeprefix("--").split("=", 1) for word in words)
    if name == "paper_run":
        world = load_config(given["config"])["environment"]["name"]
        out, stages = pathlib.Path(given["out"]), tuple(given["stages"].split(","))
        minutes, weights = float(given["minutes"]), given["weights"]
        run = PaperRun(given["config"], out / "work", out, minutes, stages, 1, weights)
        paper_run(run, world)
        return
    chosen = tuple(f"--{key}={text}" for key, text in given.items() if key.startswith("config"))
    places = Places(given["workdir"], arguments=chosen, loggers=())
    if name == "results":
        # It defines flags when it is imported.
        from experiments.results import results_text

        print(results_text(places.workdir), end="")
    elif name == "report":
        only = given.get("only", "")
        running.report(places, only=only.split(",") if only else ())
    elif name == "sweep":
        from internal_rl.analysis.sweeps.sweep import sweep_named
        from internal_rl.stages.sweeping import run_sweep

        run_sweep(sweep_named(given["study"]), _settings(given), places)
    else:
        running.run(_settings(given), name, places)


def _settings(given: dict[str, str]) -> Settings:
    """Settings of `--config` and the fields that are changed behind it."""
    config = load_config(given["config"]).to_dict()
    for key, text in given.items():
        *sections, field = key.split(".")[1:] or [""]
        if not field:
            continue
        holder = config
        for section in sections:
            holder = holder[section]
        try:
            holder[field] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            holder[field] = text
    return Settings.read(config)
