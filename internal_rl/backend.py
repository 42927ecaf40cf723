"""For which backend programs are traced: what is fast on one is slow on another."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from internal_rl.errors import ConfigError

LANES = 128
"""Numbers side by side in a register of a TPU."""

# Backends that programs are traced for, and whether they may hold kernels; the innermost last.
_targets: list[tuple[str, bool]] = []


def backend() -> str:
    """`"cpu"`, `"gpu"` or `"tpu"`: where the program that is being traced will run."""
    return _targets[-1][0] if _targets else jax.default_backend()


def check_devices() -> None:
    """Starts jax's backend.

    Raises:
      ConfigError: there is none of the kind that `JAX_PLATFORMS` asks for.
    """
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        chosen = jax.config.jax_platforms
        reason = f" ({error})" if str(error) else ""
        raise ConfigError(
            f"JAX_PLATFORMS: '{chosen}' given, which has no devices here{reason}; allowed is cpu,"
            " or cuda or tpu where jax is installed for them: pip install 'internal_rl[cuda]'"
        ) from None


def on_cpu() -> bool:
    """Whether programs are traced for CPUs."""
    return backend() == "cpu"


def traced_for(platform: str) -> contextlib.AbstractContextManager[None]:
    """Traces programs for another backend than the one that is there.

    What was traced before stays as it is: functions that `jax.jit` has seen are not traced again.
    """
    return _traced_for(platform, kernels=True)


@contextlib.contextmanager
def _traced_for(platform: str, *, kernels: bool) -> Iterator[None]:
    _targets.append((platform, kernels))
    try:
        yield
    finally:
        _targets.pop()


PRECISIONS = ("auto", "float32", "bfloat16")
"""What products of models are computed in; `"auto"` is bfloat16 on accelerators."""


def exact_products(wanted: bool = True) -> contextlib.AbstractContextManager[None]:
    """Traces programs whose products of float32 numbers are products of float32.

    Accelerators round the factors unless they are told not to: GPUs to the 10 bits of TF32, TPUs to
    the 7 of bfloat16. Products of bfloat16 numbers stay what they are. CPUs do not round, and what
    is traced for them stays the same program.

    Args:
      wanted: whether to change anything.
    """
    if not wanted or on_cpu():
        return contextlib.nullcontext()
    return jax.default_matmul_precision("highest")


def with_exact_products(function: Callable) -> Callable:
    """`function`, traced with `exact_products`."""

    @functools.wraps(function)
    def run(*arguments, **keywords):
        with exact_products():
            return function(*arguments, **keywords)

    return run


def resolved_precision(precision: str) -> str:
    """`"float32"` or `"bfloat16"`: what `"auto"` means for the present backend."""
    if precision != "auto":
        return precision
    return "float32" if on_cpu() else "bfloat16"


def product_dtype(precision: str) -> DTypeLike | None:
    """The type that products are computed in; None for that of their inputs, in full."""
    return jnp.bfloat16 if resolved_precision(precision) == "bfloat16" else None


def kernels_for_tpu() -> bool:
    """Whether programs are traced for TPUs, with kernels of this package."""
    return backend() == "tpu" and (not _targets or _targets[-1][1])


def without_kernels() -> contextlib.AbstractContextManager[None]:
    """Traces programs that hold no kernels, which cannot be differentiated forwards."""
    return _traced_for(backend(), kernels=False)
