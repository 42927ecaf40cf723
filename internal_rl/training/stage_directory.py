"""The directory of one seed of one stage, and how later stages read it.

`<workdir>/<stage>/seed_<k>/` holds `config.json`, `versions.json`, `references.json`,
`metrics.jsonl`, `events/`, `checkpoints/`, `snapshots/` and, once the stage is finished,
`params.msgpack`, perhaps `artifacts.npz`, and `DONE`.
"""

import dataclasses
import fcntl
import importlib.metadata
import io
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from internal_rl.errors import StageConflictError, StageMissingError
from internal_rl.files import read_json, storage_faults, write_atomically, write_json
from internal_rl.paths import as_path, is_remote
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.weights import load_weights, save_weights

_PACKAGES = (
    *("internal_rl", "jax", "jaxlib", "flax", "optax"),
    *("orbax-checkpoint", "numpy", "mujoco", "brax"),
)


def package_versions() -> dict[str, str | int]:
    """Versions of Python and of the packages that decide the numbers, the devices, the commit."""
    versions: dict[str, str | int] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    device = jax.devices()[0]
    where = {"platform": device.platform, "device": device.device_kind}
    where["num_devices"] = jax.device_count()
    return versions | where | {"commit": source_commit()}


def source_commit() -> str:
    """The git commit of the checkout that runs, with `+changes` where files differ from it."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists() or not (root / "setup.py").exists():
        return "not a checkout"

    def git(*arguments):
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}{'+changes' if changes else ''}"


@dataclasses.dataclass(frozen=True)
class Begun:
    """How a directory was begun.

    Attributes:
      seeds: trained together with its own, by one program.
      steps_raised: it was begun with fewer updates than are asked for now.
    """

    seeds: list[int]
    steps_raised: bool


class StageDirectory:
    """Files of one seed of one stage.

    Attributes:
      path: `<workdir>/<stage>/seed_<k>`.
      seed: k.
      reads: on which seeds of earlier stages it stands, by stage; None where that is not asked.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        stage: str,
        seed: int,
        reads: Mapping[str, int] | None = None,
    ):
        folder = as_path(workdir)
        folder = folder if is_remote(folder) else folder.absolute()
        self.path = folder / stage / f"seed_{seed}"
        self.seed = seed
        self.reads = reads
        self._lock = None

    @property
    def finished(self) -> bool:
        """The stage is done: its parameters change only if it is trained further."""
        return (self.path / "DONE").exists()

    @property
    def has_checkpoint(self) -> bool:
        """There is a checkpoint to go on from; shipped stages have none."""
        return any(path.name.isdigit() for path in self.path.glob("checkpoints/*"))

    def check(self, config: StageConfig) -> Begun | None:
        """Compares a configuration with the one the directory was made with; writes nothing.

        Returns:
          How it was begun, or None for a directory not yet begun.

        Raises:
          StageConflictError: the configurations differ in more than the length of the training, or
            it stands on another seed of an earlier stage.
        """
        file = self.path / "config.json"
        if not file.exists():
            return None
        stored = read_json(file)
        steps_raised = config.check(stored["config"], self.path)
        # Older directories do not tell what they stand on.
        before = stored.get("reads", {})
        for stage, seed in (self.reads or {}).items():
            if before.get(stage, seed) != seed:
                raise StageConflictError(
                    f"{stage}: seed {seed} is to be read, but {self.path} was made with seed"
                    f" {before[stage]}; allowed is as many seeds of {stage} as there were, or"
                    " another --workdir"
                )
        return Begun(stored["seeds"], steps_raised)

    def begin(
        self, config: StageConfig, seeds: Sequence[int], computed: Mapping[str, str] | None = None
    ) -> None:
        """Makes and locks the directory; writes `config.json` and `versions.json` once.

        Stores know no locks: there it is left to the user that nothing else works in it.

        Args:
          config: everything the results depend on.
          seeds: seeds trained together with this one, by one program.
          computed: see `Stage`; it goes to `versions.json`.

        Raises:
          StageConflictError: another process works in the directory.
          OSError: the directory cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if is_remote(self.path):
            logging.info("%s: no lock on a store; one run at a time is up to you", self.path)
        else:
            self._take_lock()
        if not (self.path / "config.json").exists():
            write_json(self.path / "versions.json", package_versions() | dict(computed or {}))
            self._write_config(config, seeds, self.reads or {})

    def _take_lock(self) -> None:
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageConflictError(
                f"{self.path}: another process is working here; wait for it or choose another"
                " --workdir"
            ) from None

    def record_start(self, step: int, computed: Mapping[str, str]) -> None:
        """Writes down with what the training goes on, where that is something else than before.

        `versions.json` then holds, under `later`, what changed and from which step on.
        """
        file = self.path / "versions.json"
        versions = read_json(file) if file.exists() else {}
        later = versions.get("later", [])
        before = {name: value for name, value in versions.items() if name != "later"}
        for entry in later:
            before |= entry
        now = package_versions() | dict(computed)
        changed = {name: value for name, value in now.items() if before.get(name) != value}
        if step and changed:
            versions["later"] = [*later, {"from_step": step, **changed}]
            write_json(file, versions)

    def extend(self, config: StageConfig, seeds: Sequence[int]) -> None:
        """Opens a stage again that is trained further; to be called once that is sure to begin."""
        # In this order: a stage that is cut off in between is an unfinished one of its old length.
        (self.path / "DONE").unlink(missing_ok=True)
        self._write_config(config, seeds, self._stored().get("reads", {}))

    def shorten(self, config: StageConfig) -> None:
        """Writes down that the stage has ended with fewer updates than were asked for."""
        stored = self._stored()
        self._write_config(config, stored["seeds"], stored.get("reads", {}))

    def _stored(self) -> dict:
        return read_json(self.path / "config.json")

    def _write_config(
        self, config: StageConfig, seeds: Sequence[int], reads: Mapping[str, int]
    ) -> None:
        told = {"reads": dict(reads)} if reads else {}
        content = {"seeds": list(seeds), **told, "config": config.values}
        write_json(self.path / "config.json", content)

    def release(self) -> None:
        """Gives the directory free for other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def save_snapshot(self, step: int, params: chex.ArrayTree) -> None:
        """Keeps the parameters of one training age, see `load_stage`."""
        folder = self.path / "snapshots"
        folder.mkdir(exist_ok=True)
        save_weights(folder / f"params_{step}.msgpack", params)

    def save_params(self, params: chex.ArrayTree) -> None:
        """Writes the final parameters to `params.msgpack`."""
        save_weights(self.path / "params.msgpack", params)

    def save_artifacts(self, artifacts: Mapping[str, np.ndarray]) -> None:
        """Writes named arrays to `artifacts.npz`."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **artifacts)
        write_atomically(self.path / "artifacts.npz", buffer.getvalue())

    def finish(self, num_steps: int) -> None:
        """Marks the stage as done."""
        write_json(self.path / "DONE", {"steps": num_steps})


def check_stage(
    workdir: str | os.PathLike,
    stage: str,
    seed: int,
    config: StageConfig | None = None,
    command: str = "",
    *,
    reads: Mapping[str, int] | None = None,
) -> StageDirectory:
    """Directory of a stage that has to be finished.

    Args:
      workdir: work directory of the run.
      stage: name of the stage.
      seed: which of its seeds.
      config: configuration that the stage must have been run with; None accepts any.
      command: the command that makes the stage, for the error message.
      reads: on which seeds of earlier stages it must stand; None accepts any.

    Raises:
      StageMissingError: the stage is not finished; names the command that makes it.
      StageConflictError: the stage was run with another configuration, or stands on other seeds.
      StorageError: its files cannot be read.
    """
    directory = StageDirectory(workdir, stage, seed, reads)
    with storage_faults(directory.path):
        _check_same(directory, config, command)
        if not directory.finished:
            raise _missing(workdir, f"{stage} seed {seed}", stage, command)
    return directory


def _check_same(directory: StageDirectory, config: StageConfig | None, command: str) -> None:
    begun = directory.check(config) if config is not None else None
    if begun is not None and begun.steps_raised:
        raise StageConflictError(
            f"{config.length}: more asked for than {directory.path} was trained for; allowed is"
            f" what it was trained for, or to train it further: {command}"
        )


def _missing(workdir, what: str, stage: str, command: str) -> StageMissingError:
    command = command or f"internal-rl {stage} --workdir={workdir}"
    return StageMissingError(f"{what}: not there or not finished in {workdir}; run: {command}")


def load_stage(
    workdir: str | os.PathLike,
    stage: str,
    seed: int,
    *,
    config: StageConfig | None = None,
    reads: Mapping[str, int] | None = None,
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
      step: training age of a snapshot; None for the final parameters.
      command: the command that makes the stage, for the error message.

    Returns:
      `(params, config)`: nested dictionaries of NumPy arrays, and the configuration of the stage.

    Raises:
      StageMissingError: the stage is not finished; names the command that makes it.
      StageConflictError: the stage was run with another configuration, or stands on other seeds.
      StorageError: its files cannot be read.
    """
    directory = StageDirectory(workdir, stage, seed, reads)
    with storage_faults(directory.path):
        if step is None:
            check_stage(workdir, stage, seed, config, command, reads=reads)
            file = directory.path / "params.msgpack"
        else:
            _check_same(directory, config, command)
            file = directory.path / "snapshots" / f"params_{step}.msgpack"
            if not file.exists():
                raise _missing(workdir, f"{stage} seed {seed} at step {step}", stage, command)
        params = jax.tree.map(_whole, load_weights(file))
        return params, read_json(directory.path / "config.json")["config"]


def seed_read(workdir: str | os.PathLike, stage: str, seed: int, earlier: str) -> int:
    """On which seed of an earlier stage a seed stands.

    Older directories do not tell: they count through the seeds of the earlier stage that lie beside
    them.

    Raises:
      StorageError: files cannot be read.
    """
    directory = StageDirectory(workdir, stage, seed)
    with storage_faults(directory.path):
        told = read_json(directory.path / "config.json").get("reads", {})
        if earlier in told:
            return told[earlier]
        paths = directory.path.parent.parent.glob(f"{earlier}/seed_*")
        seeds = sorted(int(path.name.removeprefix("seed_")) for path in paths)
        return seeds[(seed - seeds[0]) % len(seeds)] if seeds else seed


def _whole(leaf: np.ndarray) -> np.ndarray:
    """Parameters are float32; large shipped ones are kept in half the bits."""
    return leaf.astype(np.float32) if leaf.dtype == jnp.bfloat16 else leaf


def load_artifacts(workdir: str | os.PathLike, stage: str, seed: int) -> dict[str, np.ndarray]:
    """Reads `artifacts.npz` of a finished stage.

    Raises:
      StorageError: the file cannot be read.
    """
    directory = StageDirectory(workdir, stage, seed)
    with storage_faults(directory.path):
        content = (directory.path / "artifacts.npz").read_bytes()
        with np.load(io.BytesIO(content)) as file:
            return dict(file)
