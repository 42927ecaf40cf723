"""Keeps what XLA has compiled in the work directory, so that a run that goes on starts at once.

An entry is named after the program, the options, the versions of jax and XLA, and the devices; on
CPUs the instructions that the processor knows are among the latter, so that another machine finds
nothing in place of something that it cannot run. What is damaged or cannot be written costs a
warning of jax and the time of compiling again.
"""

import contextlib
from collections.abc import Iterator

import jax

from internal_rl.errors import UserError
from internal_rl.paths import AnyPath, as_path, is_remote

FOLDER = "compiled"
FLAG = "--compilation_cache"
ON, OFF = "on", "off"


def keep_compiled(choice: str, workdir: AnyPath) -> None:
    """Chooses the folder in which jax looks for programs before it compiles them.

    Args:
      choice: `"on"` for `<workdir>/compiled`, unless `JAX_COMPILATION_CACHE_DIR` or jax's own
        setting says otherwise; `"off"` for none at all; or a folder, which goes before both.
      workdir: work directory of the run.

    Raises:
      ConfigError: the folder is on a store that nobody knows.
    """
    if choice == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
    elif choice != ON:
        jax.config.update("jax_compilation_cache_dir", str(as_path(choice, FLAG)))
    elif not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(workdir / FOLDER))


@contextlib.contextmanager
def nothing_left(workdir: AnyPath) -> Iterator[None]:
    """Where a start is refused, takes away the folders that jax has made and left empty.

    A folder that was there before stays.
    """
    folders = (workdir / FOLDER, workdir, *workdir.parents)
    made = [] if is_remote(workdir) else [folder for folder in folders if not _is_there(folder)]
    try:
        yield
    except UserError:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _is_there(folder: AnyPath) -> bool:
    try:
        return folder.exists()
    except OSError:
        return True
