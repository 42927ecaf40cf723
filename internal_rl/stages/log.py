"""What a run tells while it works: lines of the log on the standard error."""

import logging as python_logging

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
    absl_logger = python_logging.getLogger("absl")
    if _not_of_orbax not in absl_logger.filters:
        absl_logger.addFilter(_not_of_orbax)


def tell_guards() -> None:
    """Says what the guards at import have done."""
    for line in (internal_rl.HOST_THREADS, internal_rl.HOST_MEMORY, internal_rl.HOST_COMPILER):
        logging.info("%s", line)


def _not_of_orbax(record: python_logging.LogRecord) -> bool:
    return record.levelno > python_logging.INFO or "orbax" not in record.pathname
