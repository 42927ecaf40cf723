"""The directory of one seed of one stage; `stage_results` is how later stages read it.

`<workdir>/<stage>/seed_<k>/` holds `config.json`, `versions.json`, `references.json`,
`metrics.jsonl`, `events/`, `checkpoints/`, `snapshots/` and, once the stage is finished,
`params.msgpack`, perhaps `artifacts.npz`, and `DONE`. The record of a finished stage holds what it
has measured alone, and `RECORD`, which says so.
"""

import dataclasses
import errno
import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import chex
import numpy as np
from absl import logging

from internal_rl.checksums import (
    CHECKSUMS,
    checksum_of,
    read_checked_record,
    write_checked,
    write_checked_json,
)
from internal_rl.errors import StageConflictError, StorageError
from internal_rl.files import PUT_BACK, parse_record
from internal_rl.paths import AnyPath, as_path, is_remote
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.versions import package_versions
from internal_rl.training.weights import save_weights

ROUND = "round_"
"""How the names of checkpoints begin that are no updates of the training loop."""

RECORD = "RECORD"
"""File that says that a directory holds the record of a finished stage, see `StageDirectory`."""

PARAMETERS = "parameters"
"""What `RECORD` holds: the SHA-256 of the parameters that were left behind."""

_CONFIG = "config.json"
# What file systems answer that know no locks, as those of some clusters.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
# What a start leaves behind before there is anything to go on from.
_OF_A_START = (CHECKSUMS, "references.json", "metrics.jsonl", "wandb_id", "snapshots")


def seed_of(folder: AnyPath) -> int | None:
    """k of a folder `seed_<k>`; None for other names."""
    number = folder.name.removeprefix("seed_")
    return int(number) if number.isascii() and number.isdigit() else None


def is_of(folder: str, stage: str) -> bool:
    """Whether a folder is that of a stage, of a variant or of an age of it: `<stage>_<variant>`."""
    return f"{folder}_".startswith(f"{stage}_")


def stage_of(folder: str, stages: Iterable[str]) -> str:
    """The stage with the longest name that a folder is of; that of the folder if it is of none."""
    return max((name for name in stages if is_of(folder, name)), key=len, default=folder)


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
      parameters_read: SHA-256 of their final parameters, by stage; None where that is not asked.
      data_read: SHA-256 of the arrays that it trains on; empty where that is not asked.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        stage: str,
        seed: int,
        reads: Mapping[str, int] | None = None,
        parameters_read: Mapping[str, str] | None = None,
        data_read: str = "",
    ):
        folder = as_path(workdir)
        folder = folder if is_remote(folder) else folder.absolute()
        self.path = folder / stage / f"seed_{seed}"
        self.seed = seed
        self.reads = reads
        self.parameters_read = parameters_read
        self.data_read = data_read
        self._lock = None

    @property
    def finished(self) -> bool:
        """The stage is done: its parameters change only if it is trained further."""
        return (self.path / "DONE").exists()

    @property
    def has_checkpoint(self) -> bool:
        """There is a checkpoint to go on from, intact or not; shipped stages have none."""
        names = [path.name for path in self.path.glob("checkpoints/*")]
        return any(name.isdigit() or name.startswith(ROUND) for name in names)

    @property
    def has_params(self) -> bool:
        """The final parameters are there."""
        return self.params_file().exists()

    def params_file(self, step: int | None = None) -> AnyPath:
        """Where parameters lie: those of a training age, or the final ones."""
        if step is None:
            return self.path / "params.msgpack"
        return self.path / "snapshots" / f"params_{step}.msgpack"

    @property
    def is_record(self) -> bool:
        """It holds what a finished stage has measured; nothing is trained here or goes on."""
        return (self.path / RECORD).exists()

    @property
    def parameters_checksum(self) -> str:
        """SHA-256 of its final parameters, in a record of those left behind; empty if not known.

        Raises:
          StorageError: what is known of them is damaged.
          OSError: it cannot be read.
        """
        if not self.is_record:
            return checksum_of(self.params_file())
        file = self.path / RECORD
        return parse_record(file, file.read_bytes(), {PARAMETERS: str}, PUT_BACK)[PARAMETERS]

    @property
    def complete(self) -> bool:
        """A stage that leaves parameters is done, and they are there."""
        return self.finished and self.has_params

    @property
    def holds_work(self) -> bool:
        """There is more than what a start leaves behind that came to nothing."""
        found = self.finished or self.has_params or self.has_checkpoint
        return found or any(self.path.glob("*/manifest.json"))

    def read_config(self) -> dict:
        """`config.json`: `seeds` trained together and their `config`; perhaps what it stands on.

        That is `reads`, `parameters_read` and `data_read`, as the attributes.

        Raises:
          StorageError: the file is missing or damaged.
        """
        file = self.path / _CONFIG
        if not file.exists():
            raise StorageError(
                f"{file}: is missing, so that nobody knows what is beside it; {PUT_BACK}"
            )
        stored = read_checked_record(file, {"seeds": list, "config": dict}, PUT_BACK)
        if not all(type(seed) is int for seed in stored["seeds"]):
            raise StorageError(f"{file}: damaged, 'seeds' is of another kind; {PUT_BACK}")
        reads = stored.get("reads", {})
        if not isinstance(reads, dict) or not all(type(seed) is int for seed in reads.values()):
            raise StorageError(f"{file}: damaged, 'reads' is of another kind; {PUT_BACK}")
        sums = stored.get("parameters_read", {})
        if not isinstance(sums, dict) or not all(isinstance(told, str) for told in sums.values()):
            raise StorageError(f"{file}: damaged, 'parameters_read' is of another kind; {PUT_BACK}")
        if not isinstance(stored.get("data_read", ""), str):
            raise StorageError(f"{file}: damaged, 'data_read' is of another kind; {PUT_BACK}")
        return stored

    def check(self, config: StageConfig) -> Begun | None:
        """Compares a configuration with the one the directory was made with; writes nothing.

        A start that came to nothing binds nobody: another configuration may begin anew.

        Returns:
          How it was begun, or None for a directory not yet begun.

        Raises:
          StageConflictError: the configurations differ in more than the length of the training, or
            it stands on another seed or on other parameters of an earlier stage, or on other data.
          StorageError: its `config.json` is missing or damaged.
        """
        if not self.holds_work:
            return None
        stored = self.read_config()
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
        self._compare_parameters(stored, self.parameters_read or {})
        data = stored.get("data_read", "")
        if self.data_read and data and self.data_read != data:
            raise StageConflictError(
                f"{self.path}: was made with other data than are found here; allowed are those, or"
                " another --workdir, for a run on these"
            )
        return Begun(stored["seeds"], steps_raised)

    def check_parameters_read(self, found: Mapping[str, str]) -> None:
        """Compares the parameters that it was made with.

        Args:
          found: SHA-256 of those of earlier stages, by stage; empty where that is not known.

        Raises:
          StageConflictError: they are others.
          StorageError: its `config.json` is missing or damaged.
        """
        self._compare_parameters(self.read_config(), found)

    def _compare_parameters(self, stored: dict, found: Mapping[str, str]) -> None:
        told = stored.get("parameters_read", {})
        for stage, checksum in found.items():
            if checksum and told.get(stage, checksum) != checksum:
                raise StageConflictError(
                    f"{self.path}: was made with other parameters of {stage} than are found here;"
                    " allowed are those (the --workdir or --upstream of that run), or another"
                    " --workdir, for a run on these"
                )

    def begin(
        self, config: StageConfig, seeds: Sequence[int], computed: Mapping[str, str] | None = None
    ) -> None:
        """Makes and locks the directory; writes `config.json` and `versions.json` once.

        What a start has left that came to nothing is cleared away.

        Stores know no locks: there it is left to the user that nothing else works in it.

        Args:
          config: everything the results depend on.
          seeds: seeds trained together with this one, by one program.
          computed: see `Stage`; it goes to `versions.json`.

        Raises:
          StageConflictError: another process works in the directory, or it holds a record.
          OSError: the directory cannot be written.
        """
        if self.is_record:
            raise StageConflictError(
                f"{self.path}: holds the record of a finished stage, without parameters to go on"
                " with; allowed is another --workdir"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if is_remote(self.path):
            logging.info("%s: no lock on a store; one run at a time is up to you", self.path)
        else:
            self._take_lock()
        if self.holds_work:
            return
        if self._begun_with(config, seeds):
            return
        self._clear()
        write_checked_json(self.path / "versions.json", package_versions() | dict(computed or {}))
        content = self._content(config, seeds, self._stands_on)
        write_checked_json(self.path / _CONFIG, content)

    def _begun_with(self, config: StageConfig, seeds: Sequence[int]) -> bool:
        """Whether a start with the same settings has been here: what it has computed stays."""
        try:
            stored = self.read_config()
        except StorageError:
            return False
        content = self._content(config, seeds, self._stands_on)
        return stored == json.loads(json.dumps(content))

    def _clear(self) -> None:
        """Removes what a start has left, lest it be taken for that of the next one."""
        for name in _OF_A_START:
            found = self.path / name
            if found.is_dir():
                found.rmtree() if is_remote(found) else shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)

    def _take_lock(self) -> None:
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageConflictError(
                f"{self.path}: another process is working here; wait for it or choose another"
                " --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logging.warning(
                "%s: its file system has no locks (%s); see to it that nothing else works there",
                *(self.path, error.strerror),
            )

    def record_start(self, step: int, computed: Mapping[str, str]) -> None:
        """Writes down with what the training goes on, where that is something else than before.

        `versions.json` then holds, under `later`, what changed and from which step on; the log says
        so too.
        """
        file = self.path / "versions.json"
        remedy = "remove it: what is there now is written down in its place"
        versions = read_checked_record(file, {}, remedy) if file.exists() else {}
        later = versions.get("later", [])
        if not isinstance(later, list) or not all(isinstance(entry, dict) for entry in later):
            raise StorageError(f"{file}: damaged, 'later' is of another kind; {remedy}")
        before = {name: value for name, value in versions.items() if name != "later"}
        for entry in later:
            before |= entry
        now = package_versions() | dict(computed)
        changed = {name: value for name, value in now.items() if before.get(name) != value}
        if not step or not changed:
            return
        versions["later"] = [*later, {"from_step": step, **changed}]
        write_checked_json(file, versions)
        told = [f"{name} {now[name]}, was {before[name]}" for name in changed if name in before]
        if told:
            logging.warning("%s: goes on from step %d with %s", self.path, step, "; ".join(told))

    def extend(self, config: StageConfig, seeds: Sequence[int]) -> None:
        """Opens a stage again that is trained further; to be called once that is sure to begin."""
        # In this order: a stage that is cut off in between is an unfinished one of its old length.
        (self.path / "DONE").unlink(missing_ok=True)
        self._rewrite(config, seeds)

    def check_there(self) -> None:
        """Raises StorageError if the directory was removed since it was begun."""
        if not (self.path / _CONFIG).exists():
            raise StorageError(
                f"{self.path}: was removed while the stage was running; remove what is left of it"
                " and run the same command again"
            )

    def reopen(self) -> None:
        """Takes the mark of a finished stage away whose parameters are missing."""
        if self.finished and not self.has_params:
            (self.path / "DONE").unlink()

    def shorten(self, config: StageConfig) -> None:
        """Writes down that the stage has ended with fewer updates than were asked for."""
        self._rewrite(config, self.read_config()["seeds"])

    def _rewrite(self, config: StageConfig, seeds: Sequence[int]) -> None:
        """Another configuration of the same stage; what it stands on stays as it is told."""
        stored = self.read_config()
        stands_on = {name: stored.get(name) for name in self._stands_on}
        write_checked_json(self.path / _CONFIG, self._content(config, seeds, stands_on))

    @property
    def _stands_on(self) -> dict[str, Any]:
        """What is told beside its settings, as far as it is known."""
        return {
            "reads": self.reads,
            "parameters_read": self.parameters_read,
            "data_read": self.data_read,
        }

    @staticmethod
    def _content(config: StageConfig, seeds: Sequence[int], stands_on: Mapping[str, Any]) -> dict:
        """What `config.json` holds."""
        told = {name: value for name, value in stands_on.items() if value}
        return {"seeds": list(seeds), **told, "config": config.values}

    def release(self) -> None:
        """Gives the directory free for other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def save_snapshot(self, step: int, params: chex.ArrayTree) -> None:
        """Keeps the parameters of one training age, see `load_stage`."""
        file = self.params_file(step)
        file.parent.mkdir(exist_ok=True)
        save_weights(file, params)

    def save_params(self, params: chex.ArrayTree) -> None:
        """Writes the final parameters to `params.msgpack`."""
        save_weights(self.params_file(), params)

    def save_artifacts(self, artifacts: Mapping[str, np.ndarray]) -> None:
        """Writes named arrays to `artifacts.npz`."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **artifacts)
        write_checked(self.path / "artifacts.npz", buffer.getvalue())

    def finish(self, num_steps: int) -> None:
        """Marks the stage as done."""
        write_checked_json(self.path / "DONE", {"steps": num_steps})
