"""For which backend programs are traced: what is fast on one is slow on another."""

import contextlib
from collections.abc import Iterator

import jax

_target: list[str] = []


def backend() -> str:
    """`"cpu"`, `"gpu"` or `"tpu"`: where the program that is being traced will run."""
    return _target[-1] if _target else jax.default_backend()


def on_cpu() -> bool:
    """Whether programs are traced for CPUs."""
    return backend() == "cpu"


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Traces programs for another backend than the one that is there.

    What was traced before stays as it is: functions that `jax.jit` has seen are not traced again.
    """
    _target.append(platform)
    try:
        yield
    finally:
        _target.pop()
