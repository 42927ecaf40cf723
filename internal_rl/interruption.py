"""SIGTERM and SIGINT: a run that is told to stop saves what it has and leaves in time.

While signals are watched, one that arrives raises `Interrupted` at once, as every file is either
whole or not there. Training holds that back until its state is saved. Where neither happens, as in
a compilation that takes minutes, a thread ends the process before the grace period is over.
"""

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_SECONDS = 25.0
"""At most this long after a signal the process has ended; machines are taken away after 30."""

_AT_ONCE_SECONDS = 3.0


class Interrupted(KeyboardInterrupt):
    """The process was told to stop.

    Attributes:
      exit_code: 128 and the number of the signal, as shells count: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, number: int):
        super().__init__(f"{signal.Signals(number).name}: the same command goes on from here")
        self.exit_code = 128 + number


def leave(interrupted: Interrupted) -> None:
    """Tells in one line what has happened and ends the process.

    Nothing is taken down on the way: what was trained is saved, and threads of libraries that still
    compile have been seen to crash a process that frees what they work with. Only processes that
    train together say goodbye to each other.
    """
    # Here: whoever has nothing but this file has imported no jax, and can be ended all the same.
    import jax

    print(f"interrupted: {interrupted}", file=sys.stderr)
    if jax.distributed.is_initialized():
        sys.exit(interrupted.exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(interrupted.exit_code)


def end_quietly() -> None:
    """Lets SIGINT end the process without a traceback wherever nothing watches for it.

    That is before a run begins and behind its last line. A handler of the caller stays.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class Watch:
    """What is watching for signals in this process; see `watched`."""

    def __init__(self):
        self._signal = 0
        self._holding = 0
        self._swallowed = self._again = False
        self._ended = threading.Event()

    @property
    def signalled(self) -> bool:
        """Whether the process has been told to stop."""
        return bool(self._signal)

    def check(self) -> None:
        """Raises `Interrupted` if the process has been told to stop."""
        if self._signal:
            raise Interrupted(self._signal)

    def stop(self) -> None:
        """Raises `Interrupted`, also where another process of the run has been told to stop."""
        raise Interrupted(self._signal or signal.SIGTERM)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, signals are noted and nothing more; the body asks `signalled` and `check`."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1

    def _handle(self, number: int, frame) -> None:
        del frame
        second = self._signal and number == signal.SIGINT and not self._again
        self._again = False
        self._signal = self._signal or number
        if second or not self._holding:
            raise Interrupted(number)

    def _take_unraisable(self, unraisable, otherwise: Callable) -> None:
        """Python cannot raise out of a callback of its garbage collection, or a `__del__`."""
        if isinstance(unraisable.exc_value, Interrupted):
            self._swallowed = True
        else:
            otherwise(unraisable)

    def _follow(self, wake: socket.socket) -> None:
        """Ends the process where its main thread does not; runs in a thread of its own.

        A signal whose exception was swallowed is sent again.
        """
        number = 0
        while number not in SIGNALS:
            received = wake.recv(1)
            if not received:
                return
            number = received[0]
        arrived = time.monotonic()
        free_since = arrived
        while not self._ended.wait(0.05):
            if self._swallowed:
                self._swallowed, self._again = False, True
                signal.pthread_kill(threading.main_thread().ident, number)
            now = time.monotonic()
            free_since = now if self._holding else free_since
            if now - free_since > _AT_ONCE_SECONDS or now - arrived > GRACE_SECONDS:
                print(f"interrupted: {Interrupted(number)}", file=sys.stderr, flush=True)
                os._exit(128 + number)


_current: list[Watch] = []


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watches for `SIGNALS` inside; within another one it is the same watch.

    Python hands signals to the main thread alone: elsewhere nothing is watched.
    """
    if _current:
        yield _current[-1]
        return
    watch = Watch()
    if threading.current_thread() is not threading.main_thread():
        yield watch
        return
    wake, written = socket.socketpair()
    written.setblocking(False)
    handlers = {number: signal.signal(number, watch._handle) for number in SIGNALS}
    # C code notes a signal at once, Python only between two of its instructions.
    hook = sys.unraisablehook
    sys.unraisablehook = functools.partial(watch._take_unraisable, otherwise=hook)
    descriptor = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    follower = threading.Thread(target=watch._follow, args=(wake,), daemon=True)
    follower.start()
    _current.append(watch)
    try:
        yield watch
    finally:
        _current.pop()
        watch._ended.set()
        signal.set_wakeup_fd(descriptor)
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
        written.close()
        follower.join()
        wake.close()
