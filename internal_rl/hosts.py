"""Several processes, one for each host, that train as one program.

Every process runs the same code on its own devices; collectives inside of the compiled programs
bring them together. Files, logs and figures are left to the first process.
"""

import collections
import os
import re
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from internal_rl.errors import ConfigError

Value = TypeVar("Value", bool, int)


def connect(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Brings the processes together, before jax is used.

    Args:
      coordinator: `HOST:PORT` of the first process; `"auto"` asks the machine, as on slices of
        Cloud TPUs; empty looks into the environment, where SLURM says who takes part. One process
        alone is left alone.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      ConfigError: some of the three are missing, or the processes do not find each other.
    """
    auto = coordinator == "auto"
    given = [bool(coordinator) and not auto, num_processes > 0, process_id >= 0]
    if auto and any(given):
        raise ConfigError("--coordinator: 'auto' given, allowed is it without the other flags")
    if any(given) and not all(given):
        raise ConfigError(
            "--coordinator, --num_processes, --process_id: some given, allowed is all three or none"
        )
    if all(given):
        if process_id >= num_processes:
            raise ConfigError(
                f"--process_id: {process_id} given, allowed is 0 to {num_processes - 1}"
                " (--num_processes - 1)"
            )
        arguments = (coordinator, num_processes, process_id)
    elif auto or _several_in_environment():
        arguments = ()
    else:
        return
    try:
        jax.distributed.initialize(*arguments, local_device_ids=_local_device_ids())
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"--coordinator: the processes do not find each other: {reason}"
        ) from None


def _local_device_ids() -> list[int] | None:
    """Devices of this process as `jax.distributed.initialize` takes them: none named means all.

    Under SLURM jax takes one device for each process, which where there is one process on a node
    leaves all others idle. None leaves it to jax, or to its own `JAX_LOCAL_DEVICE_IDS`.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    alone = re.fullmatch(r"1(\(x\d+\))?", tasks)
    return [] if alone and not os.environ.get("JAX_LOCAL_DEVICE_IDS") else None


def _several_in_environment() -> bool:
    """Whether SLURM or a slice of TPUs started several processes."""
    tasks = os.environ.get("SLURM_NTASKS", "1")
    started_by_slurm = "SLURM_PROCID" in os.environ and tasks.isdigit() and int(tasks) > 1
    return started_by_slurm or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def several() -> bool:
    """Whether there is more than one process."""
    return jax.process_count() > 1


def devices_of_each() -> list[int]:
    """How many devices every process has."""
    found = collections.Counter(device.process_index for device in jax.devices())
    return [found[number] for number in range(jax.process_count())]


def is_first() -> bool:
    """Whether this process writes files and tells what happens."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Waits until every process has come here."""
    if several():
        multihost_utils.sync_global_devices(what)


def any_of_all(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them have to ask."""
    if not several():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def of_first(value: Value) -> Value:
    """What the first process has of a flag or a number; all of them have to ask."""
    if not several():
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value)))
