"""Flags that list names."""

from collections.abc import Collection, Iterable

from internal_rl.errors import ConfigError


def chosen(names: Iterable[str], allowed: Collection[str], flag: str) -> tuple[str, ...]:
    """The names that a flag lists.

    Raises:
      ConfigError: names the first one that is not allowed, and what is.
    """
    names = tuple(names)
    for name in names:
        if name not in allowed:
            raise ConfigError(f"--{flag}: '{name}' given, allowed is {', '.join(allowed)}")
    return names
