"""What a message advises, and doing it: as a reader would who does nothing else."""

import dataclasses
import pathlib
import re
import shlex
import shutil
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Advice:
    """What is to be done before the same command is run again.

    Attributes:
      remove: files and folders.
      line: file and number of a line to be taken out; None for none.
      run: a command, as a module and its arguments; empty for none.
      stage: a stage to be run again; empty for none.
      fresh: put back what was damaged, as somebody does who has a copy: a package, packed stages.
      elsewhere: begin anew in another work directory.
    """

    remove: tuple[pathlib.Path, ...] = ()
    line: tuple[pathlib.Path, int] | None = None
    run: tuple[str, ...] = ()
    stage: str = ""
    fresh: bool = False
    elsewhere: bool = False


def error_lines(said: str) -> list[str]:
    """Lines that tell a fault of the user."""
    return [line for line in said.splitlines() if line.startswith("error: ")]


def advice_of(line: str) -> Advice | None:
    """What a message advises first; None for nothing that can be done."""
    path = re.search(r"/[^\s:;,()']+", line)
    subject = pathlib.Path(path.group()) if path else None
    if found := re.search(r"line (\d+) is damaged; remove this line", line):
        return Advice(line=(subject, int(found.group(1))))
    if found := re.search(r"remove ([^;:]+?) and run: (.+?)(?:, which|; |$)", line):
        run = _module_of(found.group(2))
        return Advice(remove=_paths(found.group(1), subject), run=run)
    if found := re.search(r"remove ([^;:]+?) and run the stage (\w+) again", line):
        return Advice(remove=_paths(found.group(1), subject), stage=found.group(2))
    if found := re.search(r"remove ([^;:]+?)(?:,? and run the same command again|[:;,]|$)", line):
        return Advice(remove=_paths(found.group(1), subject))
    if found := re.search(r"run: (.+?)(?:, which|; |$)", line):
        return Advice(run=_module_of(found.group(1)))
    if found := re.search(r"run the stage (\w+) again", line):
        return Advice(stage=found.group(1))
    if re.search(r"fresh copy|install .* again", line):
        return Advice(fresh=True)
    if "another --workdir" in line:
        return Advice(elsewhere=True)
    if "run the same command again" in line:
        return Advice()
    return None


def _paths(text: str, subject: pathlib.Path | None) -> tuple[pathlib.Path, ...]:
    """The files that `it`, `DONE beside it` and names of paths stand for."""
    found = []
    for part in text.split(" and "):
        if part.strip() == "it":
            found.append(subject)
        elif beside := re.fullmatch(r"(\S+) beside it", part.strip()):
            found.append(subject.with_name(beside.group(1)))
        elif named := re.search(r"/\S+", part):
            found.append(pathlib.Path(named.group()))
    return tuple(path for path in found if path is not None)


def _module_of(command: str) -> tuple[str, ...]:
    """A command as a module and its arguments."""
    words = shlex.split(command)
    if words[:2] == ["python", "-m"]:
        return tuple(words[2:])
    if words[0] == "internal-rl":
        return (f"experiments.{words[1]}", *words[2:])
    return tuple(words)


def follow(
    advice: Advice,
    start: Callable[[Sequence[str]], str],
    command_of: Callable[[str], Sequence[str]],
    put_back: Callable[[], None],
) -> str:
    """Does what is advised, but for running the same command again.

    Args:
      advice: what.
      start: runs a module; returns why that has failed, or nothing.
      command_of: the module and arguments of a stage.
      put_back: brings the undamaged file.

    Returns:
      Why it cannot be followed; empty if it was.
    """
    for path in advice.remove:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            return f"is to remove {path}, which is not there"
    if advice.line is not None:
        path, number = advice.line
        lines = path.read_bytes().split(b"\n")
        del lines[number - 1]
        path.write_bytes(b"\n".join(lines))
    if advice.fresh:
        put_back()
    if advice.run:
        return start(advice.run)
    return start(command_of(advice.stage)) if advice.stage else ""
