"""The program that damages files finds what it is made to find."""

import dataclasses
import json
import pathlib
import random
import types

import numpy as np
import pytest

from benchmarks.advice import Advice, advice_of, follow
from benchmarks.calls import Calls
from benchmarks.damage_trial import Round, Trial, faults_of_end
from benchmarks.damage_works import Task, unfinish
from benchmarks.damages import DAMAGES, damage
from benchmarks.starts import Outcome
from internal_rl.errors import UserError
from internal_rl.training.loop import run_stage
from internal_rl.training.weights import save_weights
from tests.training.test_loop import assert_same_params, folder
from tests.training.toy import make_stage

FILE = pathlib.Path("/w/a/seed_0/params.msgpack")


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_changes_every_format(name, tmp_path):
    other = tmp_path / "other"
    other.write_text("of another run")
    save_weights(tmp_path / "a.msgpack", {"b": np.ones(3)})
    (tmp_path / "a.json").write_text(json.dumps({"seeds": [0], "config": {"a": {"b": 1}}}))
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / "a.bin").write_bytes(bytes(range(64)))
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    for path in sorted(tmp_path.glob("a.*")):
        assert damage(path, other, name, random.Random(1)), path
        assert not path.exists() if name == "removed" else path.is_dir() == (name == "folder")


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        (
            f"error: {FILE}: altered; remove it and run: python -m experiments.probe"
            " --workdir=/w, which makes it again from the checkpoint",
            Advice(remove=(FILE,), run=("experiments.probe", "--workdir=/w")),
        ),
        (
            f"error: {FILE}: altered; remove {FILE.parent} and run: internal-rl probe --workdir=/w,"
            " which makes all of it anew",
            Advice(remove=(FILE.parent,), run=("experiments.probe", "--workdir=/w")),
        ),
        (
            f"error: {FILE}: damaged; remove it and DONE beside it and run the stage probe again,"
            " which measures anew",
            Advice(remove=(FILE, FILE.with_name("DONE")), stage="probe"),
        ),
        (
            f"error: {FILE}: line 3 is damaged; remove this line, and run the same command again:"
            " the curve lacks it then",
            Advice(line=(FILE, 3)),
        ),
        (
            "error: /c: no checkpoint is intact (/c/8: a was altered); remove /a and /b and run the"
            " same command again, which trains from the beginning, or choose another --workdir",
            Advice(remove=(pathlib.Path("/a"), pathlib.Path("/b"))),
        ),
        (f"error: {FILE}: damaged; remove it: it is computed again", Advice(remove=(FILE,))),
        (f"error: {FILE}: is missing; run the stage collect again", Advice(stage="collect")),
        ("error: probe: not finished in /w; run: python -m a.b --c", Advice(run=("a.b", "--c"))),
        (f"error: {FILE}: altered; allowed is a fresh copy", Advice(fresh=True)),
        ("error: /w: allowed is that value, or another --workdir", Advice(elsewhere=True)),
        ("error: /w: damaged", None),
    ],
)
def test_what_a_message_advises_is_understood(line, advice):
    assert advice_of(line) == advice


def test_advice_about_what_is_not_there_does_not_work(tmp_path):
    def nothing(_):
        return ""

    gone = Advice(remove=(tmp_path / "gone",))
    assert "which is not there" in follow(gone, nothing, nothing, lambda: None)
    assert follow(Advice(stage="a"), lambda _: "it fails", nothing, lambda: None) == "it fails"


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(1, "Traceback (most recent call last)", ""), "traceback"),
        (Outcome(2, "error: a\nTraceback", ""), "traceback"),
        (Outcome(1, "", ""), "exit code 1"),
        (Outcome(-11, "", ""), "exit code -11"),
        (Outcome(2, "", ""), "0 lines tell it"),
        (Outcome(2, "error: a\nerror: b", ""), "2 lines tell it"),
        (Outcome(2, "W log\nerror: a", ""), None),
        (Outcome(0, "W log", ""), None),
    ],
)
def test_how_a_start_may_end(outcome, fault):
    found = faults_of_end(outcome)
    assert found == [] if fault is None else fault in found[0]


def test_a_fault_of_the_user_is_a_line_and_anything_else_a_traceback(monkeypatch):
    def fail(error):
        def load(*_):
            raise error

        return load

    monkeypatch.setattr("benchmarks.loaded.checksum", fail(UserError("first\nsecond")))
    assert Calls().start(["benchmarks.loaded", "a"]) == Outcome(2, "error: first second\n", "")
    monkeypatch.setattr("benchmarks.loaded.checksum", fail(KeyError("x")))
    assert faults_of_end(Calls().start(["benchmarks.loaded", "a"]))


@dataclasses.dataclass(frozen=True)
class Reader:
    """A task that prints the file `a/seed_0/file`, as `read` has it.

    Attributes:
      read: of a path, what is done with it.
    """

    read: object
    name: str = "load"
    world: str = "gridworld"

    def command(self, work):
        return [work]

    def unlike(self, whole, work, outcome, anew=False):
        return [] if outcome.printed == "content" else ["what is printed differs"]


def faults_where(tmp_path, read, how="removed"):
    """What the judge tells of a reader over a damaged file."""
    path = pathlib.Path("a", "seed_0", "file")

    def start(command):
        try:
            return Outcome(0, *read(command[0] / path))
        except UserError as error:
            return Outcome(2, f"error: {error}", "")

    def copy(task, name, stage=""):
        (tmp_path / name / path).parent.mkdir(parents=True)
        (tmp_path / name / path).write_text("content")
        return tmp_path / name

    works = types.SimpleNamespace(
        undamaged=lambda task: copy(task, "whole"),
        copy=copy,
        finished=lambda world: tmp_path / "whole",
        twin=lambda world, path: None,
        starts=types.SimpleNamespace(start=start),
    )
    trial = Trial(works, Round("config", Reader(read), path, how, 0))
    assert trial.damage()
    return trial.faults()


def refuse(message):
    def read(path):
        if path.exists() and path.read_text() == "content":
            return "", "content"
        raise UserError(message.format(path=path))

    return read


def test_what_is_mended_by_its_advice_is_survived(tmp_path):
    assert faults_where(tmp_path, refuse("{path}: altered; allowed is a fresh copy")) == []


def test_a_warning_that_names_the_file_is_enough(tmp_path):
    assert faults_where(tmp_path, lambda path: (f"W {path} is missing", "")) == []


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (lambda path: ("", "something else"), "silent: what is printed differs"),
        (lambda path: ("W something is missing", ""), "silent"),
        (refuse("altered; allowed is a fresh copy"), "does not name the file"),
        (refuse("{path}: altered"), "tells nothing to do"),
        (refuse("{path}: altered; run the same command again"), "the same again and again"),
        (refuse("{path}: altered; remove it and run the same command again"), "not there"),
    ],
)
def test_a_planted_fault_is_found(read, fault, tmp_path):
    assert fault in faults_where(tmp_path, read)[0]


def test_an_unfinished_copy_goes_on_to_the_same_bits(tmp_path):
    for name in ("whole", "one", "two"):
        run_stage(make_stage(16), tmp_path / name)
    for name in ("one", "two"):
        unfinish(folder(tmp_path / name), one_checkpoint=name == "one")
        run_stage(make_stage(16), tmp_path / name)
        assert_same_params(tmp_path / name, tmp_path / "whole")


def test_tasks_know_what_fits():
    assert Task("next", "gridworld", "pretrain").fits()
    assert not Task("next", "gridworld", "expert").fits()
    assert not Task("load", "ant", "probe").fits()
    assert Task("resume", "ant", "expert").written == "expert"
