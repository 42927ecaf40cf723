"""Keeps XLA's CPU runtime from hanging on hosts with few cores."""

import logging
import os
import sys

# XLA's CPU runtime takes the size of its thread pools from NPROC. jaxlib's batched LAPACK calls
# (Cholesky, triangular solves) wait on a thread of the pool for work that only another thread of
# the same pool can do: once as many of them run side by side as there are threads, all wait for
# ever. Three factorisations of an MJX step are independent of each other, so that four threads are
# enough. Models have none; more threads than that only get into each other's way.
SAFE_NUM_THREADS = 4

_logger = logging.getLogger("internal_rl")
_at_risk: list[str] = []


def backend_is_initialised() -> bool:
    """Whether jax already made its backends; never makes them itself."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def guard_host_threads() -> str:
    """Gives XLA's CPU runtime more threads than a host of two or three cores has.

    Sets the environment variable `NPROC`, which the CPU runtime alone reads and reads once, when
    jax makes its backends; accelerators are not touched, and a value set by the user stays.

    Where jax was started before, as in a notebook, nothing can be set any more. That is no fault as
    long as nothing is run that can hang: `warn_of_host_threads` is called by what can.

    Returns:
      One line that says what was done, also written to the log `internal_rl`.
    """
    cores = available_cores()
    if "NPROC" in os.environ:
        message = f"host threads: NPROC={os.environ['NPROC']} from the environment"
    elif cores >= SAFE_NUM_THREADS:
        message = f"host threads: {cores} cores, no guard needed"
    elif backend_is_initialised():
        _at_risk.append(
            f"host threads: jax was started before internal_rl was imported; on {cores} cores XLA's"
            f" CPU runtime may hang: import internal_rl first or set NPROC={SAFE_NUM_THREADS}"
        )
        message = f"host threads: {cores} cores, jax was started before, left alone"
    else:
        os.environ["NPROC"] = str(SAFE_NUM_THREADS)
        message = (
            f"host threads: {cores} cores, NPROC set to {SAFE_NUM_THREADS} against hangs of XLA's"
            " CPU runtime"
        )
    _logger.info(message)
    return message


def warn_of_host_threads() -> None:
    """Warns once where the guard came too late; before a program on CPUs that can hang."""
    while _at_risk:
        _logger.warning(_at_risk.pop())
