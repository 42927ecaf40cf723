"""Packages that only some parts need, and the one line that is said where they are missing."""

import contextlib
import os
from collections.abc import Iterator

from internal_rl.errors import ConfigError


@contextlib.contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Around the imports of what the extra `internal_rl[<extra>]` installs.

    Args:
      extra: name of the extra in `setup.py`.
      what: what is asked for, the subject of the message.

    Raises:
      ConfigError: a package is not installed; names it and the command that installs it. Or the
        library that `MUJOCO_GL` chooses is not there.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "internal_rl":
            raise
        raise ConfigError(
            f"{what} needs {missing.name}, which is not installed:"
            f" pip install 'internal_rl[{extra}]'"
        ) from None
    except (AttributeError, OSError, RuntimeError) as error:
        # MuJoCo loads the library that it would draw with.
        chosen = os.environ.get("MUJOCO_GL")
        if chosen is None:
            raise
        raise ConfigError(
            f"MUJOCO_GL: '{chosen}' given, which cannot be loaded here ({error}); allowed are egl,"
            " glfw or osmesa where they are installed, or to unset it"
        ) from None
