"""Keeps XLA's CPU compiler from a fusion that gives wrong numbers."""

import importlib.metadata
import logging
import os

from internal_rl.host_threads import backend_is_initialised

# jaxlib 0.10.2 fuses `c - (x * c).sum(-1, keepdims=True) * x` wrongly on CPUs where `x` lacks a
# leading axis that `c` has, as in a vmapped gradient of a LayerNorm whose input is shared. Other
# versions may not know the option, and an unknown option ends the process.
AFFECTED_JAXLIB = ("0.10.2",)
OPTION = "--xla_cpu_experimental_ynn_fusion_type"

_logger = logging.getLogger("internal_rl")
_at_risk: list[str] = []


def guard_host_compiler() -> str:
    """Switches the faulty fusion off, for the versions of jaxlib that are known to have it.

    Adds an option to the environment variable `XLA_FLAGS` unless the user has set that option; it
    concerns programs for CPUs alone. Where jax was started before, as in a notebook, it has no
    effect any more: `warn_of_host_compiler` says so before training on a CPU.

    Returns:
      One line that says what was done, also written to the log `internal_rl`.
    """
    version = importlib.metadata.version("jaxlib")
    if version not in AFFECTED_JAXLIB:
        message = f"host compiler: jaxlib {version}, no guard needed"
    elif OPTION in os.environ.get("XLA_FLAGS", ""):
        message = f"host compiler: {OPTION} from the environment"
    elif backend_is_initialised():
        _at_risk.append(
            f"host compiler: jax was started before internal_rl was imported; jaxlib {version} can"
            f" give wrong numbers on CPUs: import internal_rl first or set XLA_FLAGS={OPTION}="
        )
        message = "host compiler: jax was started before, left alone"
    else:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OPTION}=".strip()
        message = f"host compiler: faulty fusion of jaxlib {version} switched off"
    _logger.info(message)
    return message


def warn_of_host_compiler() -> None:
    """Warns once where the guard came too late; before a gradient on CPUs."""
    while _at_risk:
        _logger.warning(_at_risk.pop())
