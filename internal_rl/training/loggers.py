"""Where curves go beside `metrics.jsonl`: TensorBoard, Weights & Biases, or one of yours."""

import dataclasses
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from internal_rl.arguments import check_registered
from internal_rl.errors import ConfigError
from internal_rl.extras import needs_extra
from internal_rl.growing import GrowingFolder
from internal_rl.paths import AnyPath, is_remote

DEFAULT_LOGGERS = ("tensorboard",)


@dataclasses.dataclass(frozen=True)
class LoggedRun:
    """What a logger is told about one seed of one stage.

    Attributes:
      directory: of the stage and seed, `<workdir>/<stage>/seed_<k>`; exists.
      config: everything that the results depend on, as in `config.json`.
      last_step: updates done before; 0 for a fresh start. Lines behind it are written again.
    """

    directory: AnyPath
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    last_step: int = 0


class Logger(Protocol):
    """Takes the lines of one seed.

    - `write(step, values, wall_time)`: scalars by name after `step` updates; `wall_time` in seconds
      since the epoch. A fault of storage is an OSError.
    - `close()`.
    """

    def write(self, step: int, values: Mapping[str, float], wall_time: float) -> None: ...

    def close(self) -> None: ...


class TensorBoardLogger:
    """Event files in `<directory>/events/`, flushed line by line, on a store now and then."""

    def __init__(self, run: LoggedRun):
        # Here: it takes half a second, and not every start of a script writes curves.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        events = run.directory / "events"
        events.mkdir(exist_ok=True)
        # The process id keeps two starts within one second from sharing a file.
        self._folder = GrowingFolder(events)
        self._events = EventsWriter(str(self._folder.local / "events"), f".{os.getpid()}")
        restart = Event(step=run.last_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._events.write_event(restart)

    def write(self, step: int, values: Mapping[str, float], wall_time: float) -> None:
        """Writes one event."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=k, simple_value=float(v)) for k, v in values.items()]
        event = Event(step=step, wall_time=wall_time, summary=Summary(value=scalars))
        self._events.write_event(event)
        self._events.flush()
        self._folder.grown()

    def close(self) -> None:
        """Closes the file."""
        self._events.close()
        self._folder.close()


class WandbLogger:
    """A run of Weights & Biases for each seed, grouped by work directory.

    What wandb's own environment variables say holds: `WANDB_MODE=offline` writes to
    `<directory>/wandb/` alone (to `./wandb/` of this machine where the directory is on a store),
    `WANDB_PROJECT` names the project. The id of a run stays in `<directory>/wandb_id`, so that a
    run that was cut off goes on in the same curve; wandb leaves out the steps that it has already.
    """

    def __init__(self, run: LoggedRun):
        with needs_extra("wandb", "--loggers=wandb"):
            import wandb

        file = run.directory / "wandb_id"
        if not file.exists():
            file.write_text(secrets.token_hex(4))
        workdir, stage, seed = run.directory.parts[-3:]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "internal_rl"),
            id=file.read_text(),
            resume="allow",
            group=workdir,
            job_type=stage,
            name=f"{workdir}/{stage}/{seed}",
            config=dict(run.config),
            dir=None if is_remote(run.directory) else str(run.directory),
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )

    def write(self, step: int, values: Mapping[str, float], wall_time: float) -> None:
        """Sends one line."""
        del wall_time
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


_LOGGERS: dict[str, Callable[[LoggedRun], Logger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}


def register_logger(name: str, make: Callable[[LoggedRun], Logger]) -> None:
    """Makes a logger known by name, for `--loggers`; registering a name again replaces it.

    Raises:
      ValueError: the name is no text, or what makes it is no function.
    """
    check_registered("logger", name, make=make)
    _LOGGERS[name] = make


def check_loggers(names: tuple[str, ...]) -> None:
    """Raises ConfigError for a name that is not registered."""
    for name in names:
        if name not in _LOGGERS:
            raise ConfigError(f"--loggers: '{name}' given, allowed are {', '.join(_LOGGERS)}")


def make_loggers(names: tuple[str, ...], run: LoggedRun) -> list[Logger]:
    """The loggers of one seed.

    Raises:
      ConfigError: a name is not registered, or its package is not installed.
      OSError: files cannot be written.
    """
    check_loggers(names)
    return [_LOGGERS[name](run) for name in names]
