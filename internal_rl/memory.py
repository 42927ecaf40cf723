"""How much memory there is, to refuse sizes that it cannot hold before they are made."""

import os
import pathlib

import jax

_LIMIT_OF_CONTAINER = pathlib.Path("/sys/fs/cgroup/memory.max")


def memory_there_is() -> int:
    """Bytes of all machines of the run, or of their accelerators where that is more.

    What others have taken of it is not taken off: who is close to the limit is not refused.
    """
    devices = [device.memory_stats() or {} for device in jax.local_devices()]
    accelerators = sum(stats.get("bytes_limit", 0) for stats in devices)
    return max(_host_memory(), accelerators) * jax.process_count()


def _host_memory() -> int:
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 2**63
    try:
        return min(physical, int(_LIMIT_OF_CONTAINER.read_text()))
    except (OSError, ValueError):
        return physical


def shown(num_bytes: float) -> str:
    """Bytes for readers."""
    return f"{num_bytes / 2**30:,.1f} GiB"
