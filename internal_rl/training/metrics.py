"""Training curves: JSON lines, and what goes to loggers beside them."""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

from absl import logging

from internal_rl.checksums import CHECKSUMS, altered, forget, is_grown, note_grown
from internal_rl.errors import StorageError
from internal_rl.growing import GrowingFolder
from internal_rl.paths import AnyPath, as_path
from internal_rl.training.loggers import Logger

METRICS_FILE = "metrics.jsonl"


def read_metrics(directory: str | os.PathLike, faults: list[str] | None = None) -> list[dict]:
    """Reads the whole lines of `metrics.jsonl` of a stage directory; a torn last line is left out.

    Args:
      directory: of the stage.
      faults: takes a message about what was altered, and about lines that are damaged, which are
        left out then.

    Returns:
      One dictionary a line, in the order of `step`; empty where there is no file.

    Raises:
      StorageError: names a line that is damaged, or a file that was altered, where `faults` is
        None.
    """
    path = as_path(directory) / METRICS_FILE
    if not path.exists():
        return []
    found, damaged = [], []
    content = path.read_bytes()
    whole = content.split(b"\n")[:-1]
    for number, line in enumerate(whole, 1):
        if not line.strip():
            continue
        values = _values_of(line)
        if values is not None:
            found.append(values)
        elif faults is None:
            raise _damaged(path, number)
        else:
            damaged.append(number)
    if damaged:
        left_out = f"{len(damaged)} of {len(found) + len(damaged)} lines are left out"
        faults.append(f"{path}: line {damaged[0]} is damaged; {left_out}")
    elif (fault := _altered(path, content)) is not None:
        if faults is None:
            raise StorageError(fault)
        faults.append(fault)
    return found


def _altered(path: AnyPath, content: bytes) -> str | None:
    """A message where whole lines are not those that were written."""
    try:
        # Where a run goes on there may be more lines by now, and noted.
        if is_grown(path, content) or is_grown(path, path.read_bytes()):
            return None
    except StorageError as error:
        return str(error)
    return (
        f"{altered(path)}; remove {path.parent} and run the stage {path.parent.parent.name} again,"
        f" which makes all of it anew, or remove {CHECKSUMS} to take it as it is"
    )


def _values_of(line: bytes) -> dict | None:
    """Values by name that a line holds; None if it is damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or type(values.get("step")) is not int:
        return None
    numbers = (value is None or type(value) in (int, float) for value in values.values())
    return values if all(numbers) else None


def _damaged(path: pathlib.Path, number: int) -> StorageError:
    return StorageError(
        f"{path}: line {number} is damaged; remove this line, and run the same command again: the"
        " curve lacks it then"
    )


def _truncate(path: pathlib.Path, last_step: int) -> None:
    """Cuts everything behind the last line whose step is at most `last_step`.

    Raises:
      StorageError: a line before that one is damaged; nothing has been cut.
    """
    keep = place = 0
    damaged = None
    with open(path, "rb+") as file:
        for number, line in enumerate(file, 1):
            place += len(line)
            values = _values_of(line) if line.endswith(b"\n") else None
            if values is None:
                damaged = damaged or (number if line.strip() else None)
            elif values["step"] <= last_step:
                if damaged is not None:
                    raise _damaged(path, damaged)
                keep = place
        file.truncate(keep)


class MetricsWriter:
    """Appends the metrics of one seed to its stage directory.

    Every line is flushed at once: a killed run leaves whole lines but perhaps the last. Writing is
    synchronous, so that a full disk is an OSError in the caller and nowhere else. On a store lines
    arrive now and then (`internal_rl.growing`), and all of them with `flush`.
    """

    def __init__(
        self, directory: str | os.PathLike, last_step: int, loggers: Sequence[Logger] = ()
    ):
        """Opens the file and drops what lies behind the checkpoint a run goes on from.

        A file that was altered is named by a warning, and gone on with.

        Args:
          directory: stage directory of one seed; exists.
          last_step: step of that checkpoint, 0 for a fresh start.
          loggers: take every line too; they are closed with the file.

        Raises:
          OSError: the file cannot be written.
        """
        self._folder = GrowingFolder(as_path(directory))
        self._folder.fetch(METRICS_FILE)
        self._path = as_path(directory) / METRICS_FILE
        path = self._folder.local / METRICS_FILE
        content = path.read_bytes() if path.exists() else b""
        if last_step and not is_grown(self._path, content):
            logging.warning("%s; the curve goes on from what is there", altered(self._path))
        # What it is noted with may be cut off.
        forget(self._path)
        if content:
            _truncate(path, last_step)
            self._folder.upload()
            content = path.read_bytes()
        self._size, self._sha256 = len(content), hashlib.sha256(content)
        if content:
            note_grown(self._path, self._size, self._sha256.hexdigest())
        self._lines = open(path, "ab")  # noqa: SIM115
        self._loggers = loggers

    def write(self, step: int, values: Mapping[str, float], wall_time: float) -> None:
        """Writes one line.

        Args:
          step: updates done.
          values: scalars by name; one that is not finite becomes null.
          wall_time: seconds since the epoch, for the loggers alone.

        Raises:
          OSError: it cannot be written.
        """
        line = {"step": step}
        for name, value in values.items():
            line[name] = float(value) if math.isfinite(value) else None
        written = f"{json.dumps(line)}\n".encode()
        self._lines.write(written)
        self._lines.flush()
        self._size += len(written)
        self._sha256.update(written)
        self._folder.grown()
        for logger in self._loggers:
            logger.write(step, values, wall_time)

    def flush(self) -> None:
        """Makes sure that all lines are where they stay; to be called before a checkpoint.

        What they are is noted, so that a change is found.

        Raises:
          OSError: they cannot be written.
        """
        self._folder.upload()
        note_grown(self._path, self._size, self._sha256.hexdigest())

    def close(self) -> None:
        """Closes the file and the loggers."""
        self._lines.close()
        self._folder.close()
        for logger in self._loggers:
            logger.close()
