"""Prints a checksum of what `irl.load` gives: a script to be started over damaged files.

`python -m benchmarks.loaded WORKDIR [PACKAGE]`: with a copy of the folder `internal_rl.pretrained`
its grid world of the preset `small` is copied to the work directory before.
"""

import hashlib
import pathlib
import sys

import jax
import numpy as np


def checksum(workdir: str, package: str = "") -> str:
    """SHA-256 over all parameters of an agent.

    Args:
      workdir: of a run.
      package: folder of shipped stages that are installed first; empty for none.

    Raises:
      UserError: as `irl.load` and `pretrained.install`.
    """
    import internal_rl as irl
    from internal_rl import pretrained

    if package:
        pretrained._FOLDER = pathlib.Path(package)
        pretrained.install("gridworld-pinpad", "small", workdir)
    agent = irl.load(workdir)
    found = hashlib.sha256()
    for place, leaf in jax.tree_util.tree_flatten_with_path(agent.model)[0]:
        found.update(f"{jax.tree_util.keystr(place)} {leaf.shape}".encode())
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    from internal_rl.errors import EXIT_USER_ERROR, UserError

    try:
        print(checksum(*sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
