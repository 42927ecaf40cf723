"""What a traced program needs of memory at least, before it is compiled."""

import contextlib
import math
from collections.abc import Iterator

import chex
import jax
from jax.extend import core

from internal_rl.errors import ConfigError
from internal_rl.memory import memory_there_is, shown
from internal_rl.section import SettingError
from internal_rl.training.stage import Stage

# Their results lie in memory whole; others may be made on the way into what reads them.
_KEPT = ("dot_general", "conv_general_dilated")
_SIZES = ("batch_size", "episodes_per_update")
_PARTS = " (on accelerators a tenth of it for each seed of a program)"


def check_size(stage: Stage, jaxpr: core.ClosedJaxpr, held: chex.ArrayTree) -> None:
    """Refuses a program that no memory here can hold.

    Args:
      stage: whose update it is.
      jaxpr: the program.
      held: arrays or shapes that are there all the time.

    Raises:
      ConfigError: tells what is needed at least and what there is.
    """
    held_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))
    largest = max(_kept(jaxpr.jaxpr, set()), key=_bytes, default=None)
    needed = held_bytes + (0 if largest is None else _bytes(largest))
    there = memory_there_is()
    if needed > there:
        array = "" if largest is None else f" and {list(largest.shape)} numbers at once"
        raise ConfigError(
            f"config.{stage.section}: an update needs {shown(needed)} at least"
            f" ({shown(held_bytes)} of parameters and data{array}), allowed is what fits into the"
            f" {shown(there)} of memory here: {_remedies(stage)}"
        )


def _remedies(stage: Stage) -> str:
    """What makes an update smaller, of the fields that the stage has."""
    there = [name for name in _SIZES if name in stage.fields]
    smaller = f"a smaller {' or '.join(there)}" if there else "smaller batches"
    parts = f", a larger num_parts{_PARTS}" if "num_parts" in stage.fields else ""
    return f"{smaller}{parts}, smaller models, or fewer seeds_together"


def _bytes(array) -> int:
    return math.prod(array.shape) * array.dtype.itemsize


def _kept(jaxpr, seen: set[int]) -> Iterator:
    """Results of products, those in loops and branches included; shared parts count once."""
    if id(jaxpr) in seen:
        return
    seen.add(id(jaxpr))
    for equation in jaxpr.eqns:
        if equation.primitive.name in _KEPT:
            yield from (variable.aval for variable in equation.outvars)
        for inner in core.jaxprs_in_params(equation.params):
            yield from _kept(inner, seen)


@contextlib.contextmanager
def size_faults(stage: Stage) -> Iterator[None]:
    """Turns what is found out while a program is traced, compiled or run into one line.

    Args:
      stage: whose program it is.

    Raises:
      ConfigError: a setting is not allowed, or memory was not enough.
    """
    try:
        yield
    except SettingError as error:
        raise ConfigError(f"config.{stage.section}: {error}") from None
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
            raise
        raise ConfigError(
            f"config.{stage.section}: memory is not enough ({text[:200] or 'of the host'});"
            f" allowed is {_remedies(stage)}; what was saved stays"
        ) from error
