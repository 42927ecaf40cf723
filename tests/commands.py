"""Commands as texts: which of the project's scripts they call, and whether its flags know them.

`python -m tests.commands` reads lines of JSON, `[script, flag, ...]`, and answers each with a line.
"""

import json
import os
import pathlib
import runpy
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def words_of(text):
    """Words of a line of shell; what separates commands is a word of its own."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(lexer)


def scripts_in(text):
    """`[script, flag, ...]` of every `python -m experiments...`, also of quoted ones."""
    found, words = [], words_of(text)
    for index, word in enumerate(words):
        if word == "-m" and words[index + 1].partition(".")[0] == "experiments":
            call = []
            for argument in words[index + 1 :]:
                if set(argument) <= set(";&|<>()"):
                    break
                call.append(argument)
            found.append(call)
        elif "experiments" in word and any(mark in word for mark in "; "):
            found += scripts_in(word.partition("--command=")[2] or word)
    return found


def faults_of(calls):
    """For every call that the flags or settings do not know one line, in one process."""
    calls = sorted({tuple(call) for call in calls})
    given = "".join(json.dumps(call) + "\n" for call in calls)
    process = subprocess.run(
        [sys.executable, "-m", "tests.commands"],
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
    )
    answers = process.stdout.splitlines()
    assert len(answers) == len(calls), process.stdout + process.stderr
    return [f"{call}: {answer}" for call, answer in zip(calls, answers, strict=True) if answer]


def _fault_of(call):
    """Begins a script as a user does, up to where the work would begin."""
    from internal_rl.paths import as_path
    from internal_rl.stages import checks, launch, settings

    def only_check(main, default_workdir=None, stage=""):
        del main
        rest = launch._parse(sys.argv)
        if len(rest) > 1:
            raise ValueError(f"{rest[1]}: unexpected argument")
        as_path(launch._WORKDIR.value or default_workdir or "")
        found = settings.Settings.read(launch._CONFIG.value)
        if stage:
            launch.stage_spec(found, stage)
        checks.check_settings(found)

    launch.run = only_check
    script, *sys.argv[1:] = call
    try:
        runpy.run_module(script, run_name="__main__")
    except (Exception, SystemExit) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def _main():
    import internal_rl.stages.launch  # noqa: F401

    for line in sys.stdin.read().splitlines():
        # Flags are defined once in a process.
        child = os.fork()
        if not child:
            print(_fault_of(json.loads(line)), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    _main()
