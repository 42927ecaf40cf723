"""Training curves: JSON lines, and what goes to loggers beside them."""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

from internal_rl.errors import StorageError
from internal_rl.growing import GrowingFolder
from internal_rl.paths import as_path
from internal_rl.training.loggers import Logger

METRICS_FILE = "metrics.jsonl"


def read_metrics(directory: str | os.PathLike, faults: list[str] | None = None) -> list[dict]:
    """Reads the whole lines of `metrics.jsonl` of a stage directory; a torn last line is left out.

    Args:
      directory: of the stage.
      faults: takes a message about lines that are damaged, which are left out then.

    Returns:
      One dictionary a line, in the order of `step`; empty where there is no file.

    Raises:
      StorageError: a line is damaged, and `faults` is None.
    """
    path = as_path(directory) / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    found = {number: _parse(line) for number, line in enumerate(lines, start=1) if line}
    if damaged := [number for number, values in found.items() if values is None]:
        message = f"{path}: line {damaged[0]} is damaged, allowed are objects of numbers with step"
        if faults is None:
            raise StorageError(message)
        faults.append(f"{message}; {len(damaged)} of {len(found)} lines are left out")
    return [values for values in found.values() if values is not None]


def _parse(line: bytes) -> dict | None:
    """The numbers of a line by name, null for those that were not finite; None if damaged."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("step"), int):
        return None
    fit = all(value is None or isinstance(value, (int, float)) for value in values.values())
    return values if fit else None


def _truncate(path: pathlib.Path, last_step: int) -> None:
    """Cuts everything behind the last whole line whose step is at most `last_step`."""
    keep = 0
    with open(path, "rb+") as file:
        for line in file:
            try:
                behind = not line.endswith(b"\n") or json.loads(line)["step"] > last_step
            except ValueError:
                behind = True
            if behind:
                break
            keep += len(line)
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

        Args:
          directory: stage directory of one seed; exists.
          last_step: step of that checkpoint, 0 for a fresh start.
          loggers: take every line too; they are closed with the file.

        Raises:
          OSError: the file cannot be written.
        """
        self._folder = GrowingFolder(as_path(directory))
        self._folder.fetch(METRICS_FILE)
        path = self._folder.local / METRICS_FILE
        if path.exists():
            _truncate(path, last_step)
            self._folder.upload()
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115
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
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        self._folder.grown()
        for logger in self._loggers:
            logger.write(step, values, wall_time)

    def flush(self) -> None:
        """Makes sure that all lines are where they stay; to be called before a checkpoint.

        Raises:
          OSError: they cannot be written.
        """
        self._folder.upload()

    def close(self) -> None:
        """Closes the file and the loggers."""
        self._lines.close()
        self._folder.close()
        for logger in self._loggers:
            logger.close()
