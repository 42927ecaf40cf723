"""Training curves: JSON lines, and TensorBoard events beside them."""

import json
import math
import os
import pathlib
import sys
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

METRICS_FILE = "metrics.jsonl"


def read_metrics(directory: str | os.PathLike) -> list[dict]:
    """Reads the whole lines of `metrics.jsonl` of a stage directory; a torn last line is left out.

    Returns:
      One dictionary a line, in the order of `step`; empty where there is no file.
    """
    path = pathlib.Path(directory) / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]


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


def progress_bar(total: int, finished: int, name: str, unit: str) -> tqdm:
    """A progress bar; where nobody watches, a line every half minute."""
    return tqdm(
        total=total,
        initial=finished,
        desc=name,
        unit=unit,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )


class MetricsWriter:
    """Appends the metrics of one seed to its stage directory.

    Every line is flushed at once: a killed run leaves whole lines but perhaps the last. Writing is
    synchronous, so that a full disk is an OSError in the caller and nowhere else.
    """

    def __init__(self, directory: str | os.PathLike, last_step: int):
        """Opens the files and drops what lies behind the checkpoint a run goes on from.

        Args:
          directory: stage directory of one seed; exists.
          last_step: step of that checkpoint, 0 for a fresh start.

        Raises:
          OSError: the files cannot be written.
        """
        directory = pathlib.Path(directory)
        path = directory / METRICS_FILE
        if path.exists():
            _truncate(path, last_step)
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115
        events = directory / "events"
        events.mkdir(exist_ok=True)
        # The process id keeps two starts within one second from sharing a file.
        self._events = EventsWriter(str(events / "events"), f".{os.getpid()}")
        restart = Event(step=last_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._events.write_event(restart)

    def write(self, step: int, values: Mapping[str, float], wall_time: float) -> None:
        """Writes one line.

        Args:
          step: updates done.
          values: scalars by name; one that is not finite becomes null.
          wall_time: seconds since the epoch, for TensorBoard alone.

        Raises:
          OSError: the files cannot be written.
        """
        line = {"step": step}
        for name, value in values.items():
            line[name] = float(value) if math.isfinite(value) else None
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        scalars = [Summary.Value(tag=k, simple_value=float(v)) for k, v in values.items()]
        event = Event(step=step, wall_time=wall_time, summary=Summary(value=scalars))
        self._events.write_event(event)
        self._events.flush()

    def close(self) -> None:
        """Closes both files."""
        self._lines.close()
        self._events.close()
