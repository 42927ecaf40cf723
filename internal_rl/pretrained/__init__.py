"""Stages trained in advance and shipped with the package.

Each is a stage directory without its checkpoints, so that a work directory into which it was copied
looks as if the stage had been run there.
"""

import os
import pathlib

from internal_rl.checksums import (
    CHECKSUMS,
    ChecksumsError,
    known_sums,
    read_checked_record,
    read_intact,
)
from internal_rl.errors import StageConflictError, StageMissingError, StorageError
from internal_rl.files import storage_faults
from internal_rl.paths import as_path
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.stage_copies import copy_stage
from internal_rl.training.stage_directory import StageDirectory, seed_of

_FOLDER = pathlib.Path(__file__).parent
_REMEDY = "install the package again"


def available(world: str) -> list[str]:
    """Presets of a world for which all stages that the quickstart needs are shipped."""
    folders = (_FOLDER / world).iterdir() if (_FOLDER / world).is_dir() else ()
    return sorted(path.name for path in folders if (path / "metacontroller").is_dir())


def names() -> list[str]:
    """What can be loaded by name: `"<world>/<preset>"`."""
    worlds = sorted(path.name for path in _FOLDER.iterdir() if path.is_dir())
    return [f"{world}/{preset}" for world in worlds for preset in available(world)]


def stages_of(world: str, preset: str) -> list[str]:
    """Names of the stages that are shipped for a preset of a world."""
    return sorted({path.parent.name for path in (_FOLDER / world / preset).glob("*/seed_*")})


def folder_of(name: str) -> pathlib.Path | None:
    """Folder of the stages that are shipped under one of `names`, laid out as a work directory."""
    world, _, preset = name.partition("/")
    return _FOLDER / world / preset if preset in available(world) else None


def offers(world: str, preset: str, stage: str, seed: int, config: StageConfig) -> bool:
    """Whether a stage is shipped for one seed and was trained with this configuration."""
    file = _FOLDER / world / preset / stage / f"seed_{seed}" / "config.json"
    if not file.exists():
        return False
    try:
        told = read_checked_record(file, {"config": dict}, _REMEDY)
        return not config.check(told["config"], file.parent)
    except StageConflictError:
        return False


def check(folder: pathlib.Path) -> None:
    """Compares all files of shipped stages with the checksums that they are shipped with.

    Args:
      folder: of a preset, or of one of its stages.

    Raises:
      StorageError: names the first one that is missing or altered.
    """
    for sums in sorted(folder.rglob(CHECKSUMS)):
        try:
            for name, told in known_sums(sums).items():
                content = read_intact(sums.parent / name)
                if isinstance(told, dict) and len(content) > told["bytes"]:
                    raise StorageError(f"{sums.parent / name}: altered since it was shipped")
        except ChecksumsError as error:
            raise StorageError(f"{sums}: damaged; {_REMEDY}") from error
        except (StorageError, OSError) as error:
            where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
            raise StorageError(f"{where}; {_REMEDY}") from error


def install(world: str, preset: str, workdir: str | os.PathLike, stage: str = "*") -> None:
    """Copies shipped stages to a work directory, unless they are there already.

    Args:
      world: name of the world.
      preset: preset of its config.
      workdir: work directory of the run.
      stage: which stage; all of them by default, of which the preset must be `available`.

    Raises:
      StageMissingError: nothing is shipped for the preset, or not this stage.
      StageConflictError: the work directory has another base model than the shipped stage.
      StorageError: the work directory cannot be written, or what is shipped is damaged.
    """
    if stage == "*" and preset not in available(world):
        raise StageMissingError(
            f"config.preset: no trained weights are shipped for '{preset}' of {world}, allowed are"
            f" {', '.join(available(world)) or 'none'}; or train them with --from_scratch"
        )
    if stage != "*" and stage not in stages_of(world, preset):
        shipped = ", ".join(stages_of(world, preset)) or "none"
        raise StageMissingError(
            f"stage: no '{stage}' of {world}/{preset} is shipped, allowed are {shipped}; or train"
            " it"
        )
    with storage_faults(workdir):
        seeds = sorted((_FOLDER / world / preset).glob(f"{stage}/seed_*"))
        for seed in seeds:
            check(seed)
            if not (as_path(workdir) / seed.parent.name / seed.name).exists():
                _check_base_model(seed, workdir)
        for seed in seeds:
            copy_stage(seed, as_path(workdir) / seed.parent.name / seed.name)


def _check_base_model(shipped: pathlib.Path, workdir: str | os.PathLike) -> None:
    """Compares the base model that a shipped stage stands on with that of a work directory."""
    told = StageDirectory(shipped.parents[1], shipped.parent.name, seed_of(shipped)).read_config()
    for stage, checksum in told.get("parameters_read", {}).items():
        there = StageDirectory(workdir, stage, told["reads"][stage])
        if there.parameters_checksum not in ("", checksum):
            raise StageConflictError(
                f"{there.path}: is another one than the shipped {shipped.parent.name} stands on;"
                " allowed is another --workdir, or to train it with --from_scratch"
            )
