"""What a run tells while it works: lines of the log on the standard error."""

import logging as python_logging
import sys

from absl import logging

import internal_rl
from internal_rl import hosts


def show_log() -> None:
    """Shows what the project has to say, and of its libraries only warnings.

    Of several processes the first one speaks, the others warn.

    A handler that the caller has set up is left alone.
    """
    if not python_logging.getLogger().handlers:
        logging.use_absl_handler()
    logging.set_verbosity(logging.INFO if hosts.is_first() else logging.WARNING)
    python_logging.getLogger("jax").setLevel(python_logging.WARNING)
    for name in ("asyncio", "concurrent.futures"):
        python_logging.getLogger(name).setLevel(python_logging.CRITICAL)
    absl_logger = python_logging.getLogger("absl")
    if _not_of_orbax not in absl_logger.filters:
        absl_logger.addFilter(_not_of_orbax)


def hush_closed_loops() -> None:
    """Leaves out what threads of Orbax say, once for each array, after a save that has failed."""
    shown = sys.unraisablehook

    def show(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = show


def tell_guards() -> None:
    """Says what the guards at import have done."""
    for line in (internal_rl.HOST_THREADS, internal_rl.HOST_MEMORY, internal_rl.HOST_COMPILER):
        logging.info("%s", line)


def _not_of_orbax(record: python_logging.LogRecord) -> bool:
    """Its faults come with tracebacks of hundreds of lines; `checkpoints` tells them in one."""
    return "orbax" not in record.pathname
