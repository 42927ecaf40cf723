"""Stages trained in advance and shipped with the package.

Each is a stage directory without its checkpoints, so that a work directory into which it was copied
looks as if the stage had been run there.
"""

import os
import pathlib
import shutil

from internal_rl.errors import StageMissingError
from internal_rl.files import storage_faults

_FOLDER = pathlib.Path(__file__).parent


def available() -> list[str]:
    """Presets for which trained stages are shipped."""
    return sorted(path.name for path in _FOLDER.iterdir() if (path / "pretrain").is_dir())


def install(preset: str, workdir: str | os.PathLike) -> None:
    """Copies the shipped stages of a preset to a work directory, unless they are there already.

    Raises:
      StageMissingError: nothing is shipped for the preset.
      StorageError: the work directory cannot be written.
    """
    if preset not in available():
        raise StageMissingError(
            f"config.preset: no trained weights are shipped for '{preset}', allowed are"
            f" {', '.join(available())}; or train them with --from_scratch"
        )
    with storage_faults(workdir):
        for stage in sorted((_FOLDER / preset).iterdir()):
            for seed in sorted(stage.iterdir()):
                target = pathlib.Path(workdir) / stage.name / seed.name
                if target.exists():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(seed, partial)
                partial.rename(target)
