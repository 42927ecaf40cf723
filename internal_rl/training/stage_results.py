"""How later stages read what a stage has left in its directory."""

import io
import os
import zipfile
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.checksums import ChecksumsError, read_checked, read_checked_record
from internal_rl.errors import StageConflictError, StageMissingError, StorageError
from internal_rl.files import storage_faults
from internal_rl.paths import AnyPath
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.stage_directory import StageDirectory, seed_of
from internal_rl.training.weights import load_weights

_DAMAGED = (StorageError, ValueError, EOFError, LookupError, zipfile.BadZipFile, zlib.error)


def check_stage(
    workdir: str | os.PathLike,
    stage: str,
    seed: int,
    config: StageConfig | None = None,
    command: str = "",
    *,
    reads: Mapping[str, int] | None = None,
    parameters_read: Mapping[str, str] | None = None,
) -> StageDirectory:
    """Directory of a stage that has to be finished.

    Args:
      workdir: work directory of the run.
      stage: name of the stage.
      seed: which of its seeds.
      config: configuration that the stage must have been run with; None accepts any.
      command: the command that makes the stage, for the error message.
      reads: on which seeds of earlier stages it must stand; None accepts any.
      parameters_read: SHA-256 of their parameters; None accepts any.

    Raises:
      StageMissingError: the stage is not finished, for which it names the command that makes it,
        or there is a record of it alone.
      StageConflictError: the stage was run with another configuration, or stands on other seeds or
        parameters.
      StorageError: its files cannot be read.
    """
    directory = StageDirectory(workdir, stage, seed, reads, parameters_read)
    command = command or _command(workdir, stage)
    with storage_faults(directory.path):
        _check_same(directory, config, command)
        if directory.is_record or not directory.finished:
            raise _missing(directory, command)
        done = directory.path / "DONE"
        read_checked_record(done, {"steps": int}, f"remove it and run: {command}")
    return directory


def _check_same(directory: StageDirectory, config: StageConfig | None, command: str) -> None:
    begun = directory.check(config) if config is not None else None
    if begun is not None and begun.steps_raised:
        raise StageConflictError(
            f"{config.length}: more asked for than {directory.path} was trained for; allowed is"
            f" what it was trained for, or to train it further: {command}"
        )


def _missing(directory: StageDirectory, command: str, step: int | None = None) -> StageMissingError:
    if directory.is_record:
        return StageMissingError(
            f"{directory.path}: holds the record of a finished stage, without its parameters;"
            " allowed is a work directory in which it was trained"
        )
    at_step = "" if step is None else f" at step {step}"
    return StageMissingError(
        f"{directory.path}: not there or not finished{at_step}; run: {command}"
    )


def _command(workdir: str | os.PathLike, stage: str) -> str:
    return f"internal-rl {stage} --workdir={workdir}"


def load_stage(
    workdir: str | os.PathLike,
    stage: str,
    seed: int,
    *,
    config: StageConfig | None = None,
    reads: Mapping[str, int] | None = None,
    parameters_read: Mapping[str, str] | None = None,
    step: int | None = None,
    command: str = "",
) -> tuple[dict, dict]:
    """Reads the parameters a finished stage left.

    Args:
      workdir: work directory of the run.
      stage: name of the stage.
      seed: which of its seeds.
      config: configuration that the stage must have been run with; None accepts any.
      reads: on which seeds of earlier stages it must stand; None accepts any.
      parameters_read: SHA-256 of their parameters; None accepts any.
      step: training age of a snapshot; None for the final parameters.
      command: the command that makes the stage, for the error message.

    Returns:
      `(params, config)`: nested dictionaries of NumPy arrays, and the configuration of the stage.

    Raises:
      StageMissingError: the stage is not finished; names the command that makes it.
      StageConflictError: the stage was run with another configuration, or stands on other seeds or
        parameters.
      StorageError: its files cannot be read.
    """
    stands_on = {"reads": reads, "parameters_read": parameters_read}
    directory = StageDirectory(workdir, stage, seed, **stands_on)
    command = command or _command(workdir, stage)
    with storage_faults(directory.path):
        if step is None:
            check_stage(workdir, stage, seed, config, command, **stands_on)
        else:
            _check_same(directory, config, command)
        file = directory.params_file(step)
        if not file.exists():
            if step is not None and directory.finished:
                raise _no_such_age(directory, step)
            raise _missing(directory, command, step)
        try:
            params = jax.tree.map(_whole, load_weights(file))
        except ChecksumsError:
            raise
        except StorageError as error:
            raise StorageError(f"{error}; {_mended_by(directory, file, command)}") from error
        return params, directory.read_config()["config"]


def seed_read(workdir: str | os.PathLike, stage: str, seed: int, earlier: str) -> int:
    """On which seed of an earlier stage a seed stands.

    Older directories do not tell: they count through the seeds of the earlier stage that lie beside
    them.

    Raises:
      StorageError: files cannot be read.
    """
    directory = StageDirectory(workdir, stage, seed)
    with storage_faults(directory.path):
        told = directory.read_config().get("reads", {})
        if earlier in told:
            return told[earlier]
        paths = directory.path.parent.parent.glob(f"{earlier}/seed_*")
        seeds = sorted(k for k in map(seed_of, paths) if k is not None)
        return seeds[(seed - seeds[0]) % len(seeds)] if seeds else seed


def _no_such_age(directory: StageDirectory, step: int) -> StageMissingError:
    files = directory.path.glob("snapshots/params_*.msgpack")
    ages = sorted(int(file.stem.removeprefix("params_")) for file in files)
    kept = f"0 (its end) or one of {ages}" if ages else "0 (its end)"
    return StageMissingError(
        f"{directory.path}: finished, and keeps no parameters of step {step}; allowed are the ages"
        f" {kept}, or another --workdir"
    )


def _mended_by(directory: StageDirectory, file: AnyPath, command: str) -> str:
    """How a file is made again that a finished stage has left."""
    if directory.has_checkpoint and file.parent == directory.path:
        return f"remove it and run: {command}, which makes it again from the checkpoint"
    return f"remove {directory.path} and run: {command}, which makes all of it anew"


def _whole(leaf: np.ndarray) -> np.ndarray:
    """Parameters are float32; large shipped ones are kept in half the bits."""
    return leaf.astype(np.float32) if leaf.dtype == jnp.bfloat16 else leaf


def load_artifacts(workdir: str | os.PathLike, stage: str, seed: int) -> dict[str, np.ndarray]:
    """Reads `artifacts.npz` of a finished stage.

    Raises:
      StorageError: the file cannot be read.
    """
    directory = StageDirectory(workdir, stage, seed)
    file = directory.path / "artifacts.npz"
    with storage_faults(directory.path):
        try:
            with np.load(io.BytesIO(read_checked(file))) as found:
                return dict(found)
        except ChecksumsError:
            raise
        except _DAMAGED as error:
            told = error if isinstance(error, StorageError) else f"{file}: damaged"
            what = f"it and DONE beside it and run the stage {stage} again, which measures anew"
            if not directory.has_checkpoint:
                what = f"{directory.path} and run the stage {stage} again"
            raise StorageError(f"{told}; remove {what}") from error
