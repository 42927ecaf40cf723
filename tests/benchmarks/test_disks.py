"""Disks that are full or read-only are so, and what is written there is judged."""

import dataclasses
import random
import types

import pytest

from benchmarks import disks
from benchmarks.damage_works import Task
from benchmarks.starts import Outcome
from internal_rl.errors import UserError
from internal_rl.files import storage_faults, write_atomically

mounts = pytest.mark.skipif(not disks.can_mount(), reason="mounting takes the rights of root")


@dataclasses.dataclass(frozen=True)
class Writer:
    """A task that writes 64 KiB."""

    name: str = "report"
    world: str = "gridworld"

    def command(self, work):
        return [work]

    def unlike(self, whole, work, outcome, anew=False):
        return [] if (work / "file").stat().st_size == 2**16 else ["file differs"]


def faults_where(tmp_path, write, state, free):
    def start(command):
        try:
            write(command[0])
        except UserError as error:
            return Outcome(2, f"error: {error}", "")
        except OSError as error:
            return Outcome(1, f"Traceback: {error}", "")
        return Outcome(0, "", "")

    def copy(task, name):
        (tmp_path / name).mkdir()
        return tmp_path / name

    works = types.SimpleNamespace(
        folder=tmp_path,
        undamaged=lambda task: tmp_path,
        copy=copy,
        starts=types.SimpleNamespace(start=start),
    )
    return disks.faults_of(works, disks.Round(Writer(), state, free))[0]


def write_well(work):
    with storage_faults(work):
        write_atomically(work / "file", bytes(2**16))


STATES = [(disks.FULL, 4096), (disks.READ_ONLY, 0)]


@mounts
@pytest.mark.parametrize(("state", "free"), STATES)
def test_one_line_and_a_second_time_with_space_is_survived(state, free, tmp_path):
    assert faults_where(tmp_path, write_well, state, free) == []


@mounts
@pytest.mark.parametrize(("state", "free"), STATES)
def test_a_planted_fault_is_found(state, free, tmp_path):
    def without_care(work):
        (work / "file").write_bytes(bytes(2**16))

    def without_a_name(work):
        try:
            write_well(work)
        except UserError:
            raise UserError("there is no space") from None

    assert "traceback" in faults_where(tmp_path / "a", without_care, state, free)[0]
    assert "does not name" in faults_where(tmp_path / "b", without_a_name, state, free)[0]


@mounts
def test_a_disk_with_enough_space_is_none(tmp_path):
    assert faults_where(tmp_path, write_well, disks.FULL, 2**20) == []


def test_rounds_are_drawn_of_what_there_is():
    choice = {"worlds": ["gridworld"], "stages": ["pretrain"], "tasks": ["next", "report"]}
    draw = random.Random(0)
    found = {disks.draw_round(choice, draw).task for _ in range(40)}
    assert found == {Task("next", "gridworld", "pretrain"), Task("report", "gridworld")}
