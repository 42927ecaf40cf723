"""Keeps the C library from giving memory back that XLA's CPU runtime asks for again at once."""

import ctypes
import logging
import os
import sys

# Parameters of glibc's mallopt, and what they are set to: never trim the heap, grow it in large
# steps, and take large blocks from it instead of mapping each of them afresh.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
SETTINGS = {M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28, M_MMAP_MAX: 0}

_logger = logging.getLogger("internal_rl")


def keep_host_memory() -> str:
    """Lets freed memory stay with the process.

    On CPUs every operation of a compiled program writes to freshly allocated arrays. glibc maps and
    unmaps large ones one by one, and the kernel fills each with zeros: up to 45 % of the time of a
    training update. Settings of the user in the environment (`MALLOC_...`) stay; other C libraries
    than glibc are left alone.

    Returns:
      One line that says what was done, also written to the log `internal_rl`.
    """
    given = sorted(name for name in os.environ if name.startswith("MALLOC_"))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if given:
        message = f"host memory: {', '.join(given)} from the environment"
    elif mallopt is None:
        message = "host memory: no glibc, left alone"
    else:
        kept = all(mallopt(name, value) for name, value in SETTINGS.items())
        message = f"host memory: freed memory {'stays' if kept else 'cannot be made to stay'}"
    _logger.info(message)
    return message
