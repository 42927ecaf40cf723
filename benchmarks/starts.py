"""Starts scripts in forks of a process that has imported everything, which spares seconds each.

A start is as faithful as a process of its own: command line, standard error, exit code. Nothing of
jax but its import has happened before the fork.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import runpy
import subprocess
import sys
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).parents[1]

_IMPORTED_BEFORE = (
    *("internal_rl.stages.running", "internal_rl.stages.trained", "internal_rl.stages.sweeping"),
    *("internal_rl.analysis.report", "internal_rl.stages.page", "internal_rl.agent"),
    *("orbax.checkpoint", "tensorboardX", "jinja2"),
)
_NOBODY = 65534


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a start has ended.

    Attributes:
      code: exit code; negative the signal that has ended it.
      said: its standard error.
      printed: its standard output.
    """

    code: int
    said: str
    printed: str


class Starts:
    """The process of which starts are forks.

    Attributes:
      folder: where what is said is written.
    """

    def __init__(self, folder: pathlib.Path, compiled: pathlib.Path):
        """Begins it.

        Args:
          folder: of files of its own; it exists.
          compiled: where programs are kept once they are compiled.
        """
        self.folder = folder
        kept = {"JAX_COMPILATION_CACHE_DIR": str(compiled)}
        # Small programs too: there are hundreds of them in a stage.
        kept["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.starts"],
            cwd=ROOT,
            env=os.environ | kept,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, arguments: Sequence[str], nobody: bool = False, most_bytes: int = 0) -> Outcome:
        """Runs a module to its end.

        Args:
          arguments: its name, and those of its command line.
          nobody: as a user who may write nowhere, where this one may be another.
          most_bytes: no file may become larger; 0 for any size.
        """
        said, printed = self.folder / "said", self.folder / "printed"
        request = {"arguments": list(arguments), "nobody": nobody, "most_bytes": most_bytes}
        request |= {"said": str(said), "printed": str(printed)}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Outcome(code, said.read_text(errors="replace"), printed.read_text(errors="replace"))

    def close(self) -> None:
        """Ends the process."""
        self._server.stdin.close()
        self._server.wait()


@contextlib.contextmanager
def starts(folder: pathlib.Path, compiled: pathlib.Path) -> Iterator[Starts]:
    """`Starts` that are ended behind the body."""
    found = Starts(folder, compiled)
    try:
        yield found
    finally:
        found.close()


def _run(request: dict) -> None:
    """What the fork does: it becomes the script and leaves with its exit code."""
    for name, number in (("printed", 1), ("said", 2)):
        opened = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(opened, number)
    if request["most_bytes"]:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (request["most_bytes"],) * 2)
    if request["nobody"]:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    module, *rest = request["arguments"]
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _serve() -> None:
    """Forks for every line of the standard input, and prints the exit codes."""
    import importlib

    for name in _IMPORTED_BEFORE:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            sys.stdin.close()
            _run(json.loads(line))
            sys.exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, flush=True)


if __name__ == "__main__":
    _serve()
