"""Environments for scripts that see several devices of a CPU."""

import os


def several_devices(number: int) -> dict[str, str]:
    """The present environment, but for the number of devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={number}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
