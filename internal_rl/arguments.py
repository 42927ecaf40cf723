"""Checks of arguments of the public functions: one line, the argument and what is allowed."""

import operator
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from internal_rl.errors import ConfigError


def checked_integer(
    name: str, value: Any, lowest: int, highest: int | None = None, *, what: str = ""
) -> int:
    """A whole number in its range; arrays of one may give it.

    Args:
      name: of the argument.
      value: that was given.
      lowest: number that is allowed.
      highest: number that is allowed; None for any.
      what: the range is, for the message.

    Raises:
      ValueError: it is none.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < lowest or (highest is not None and number > highest):
        span = f"from {lowest} on" if highest is None else f"from {lowest} to {highest}"
        raise ValueError(f"{name} is {value!r}, allowed is a whole number {span}{what}")
    return number


def checked_names(name: str, given: Any, allowed: Sequence[str]) -> tuple[str, ...]:
    """Names out of those that are allowed.

    Raises:
      ValueError: one of them is not, or one text is given in the place of several.
    """
    told = ", ".join(map(repr, allowed))
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{name} is {given!r}, allowed is a tuple of some of {told}")
    found = tuple(given)
    for entry in found:
        if entry not in allowed:
            raise ValueError(f"{name} contains {entry!r}, allowed are {told}")
    return found


def entries_of(name: str, given: Any, what: str) -> tuple:
    """The entries of an argument that is a list; one name alone is a frequent mistake.

    Args:
      name: of the argument.
      given: by the caller.
      what: its entries are, for the message.

    Raises:
      ConfigError: it is no list.
    """
    if isinstance(given, str | os.PathLike):
        shown = os.fspath(given)
        raise ConfigError(f"{name}: {shown!r} given, allowed is a list of {what}, as [{shown!r}]")
    if not isinstance(given, Iterable):
        raise ConfigError(f"{name}: {given!r} given, allowed is a list of {what}")
    return tuple(given)


def check_registered(kind: str, name: Any, **functions: Any) -> None:
    """Checks what something is registered under, and the functions that make it.

    Raises:
      ValueError: the name is no text or is empty, or a function cannot be called.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name of a {kind} is {name!r}, allowed is a text that is not empty")
    for argument, function in functions.items():
        if not callable(function):
            raise ValueError(
                f"{argument} of {kind} '{name}' is {function!r}, allowed is a function"
            )
