"""What is drawn to be refused, how it is judged, and that a planted fault is found."""

import collections
import dataclasses
import json
import random
import signal
import subprocess
import sys

import pytest

from benchmarks import bad_input, bad_values
from benchmarks.bad_input import Case, Drawing, cases_of, judged
from benchmarks.bad_starts import ACCEPTED, Outcome
from internal_rl.envs import tasks
from tests.training.test_loop import ROOT

CASE = Case(0, "gridworld", "probe", (("probe.steps", "-1"), ("base.width", "x")))
REFUSED = Outcome(2, "error: config.probe.steps: -1 given, allowed is 1\n", False, (), 0.3)


def test_what_is_drawn_is_a_function_of_the_seed():
    first, again, other = (list(cases_of(12, 4, ["gridworld", "ant"], n, 0.5)) for n in (0, 0, 1))
    assert first == again != other
    assert [case.number for case in first] == list(range(16))
    assert {case.world for case in first} == {"gridworld", "ant"}


def test_every_field_has_its_turn_and_is_read_by_the_stage():
    drawing = Drawing("ant", random.Random(0))
    count = len(drawing.values)
    cases = [drawing.overrides(number, False) for number in range(count)]
    drawn = collections.Counter(case.overrides[0][0] for case in cases)
    # A few names are misspelt on purpose.
    assert len(set(drawing.values) & set(drawn)) > 0.95 * count
    assert max(drawn.values()) == 1
    for case in cases:
        if case.overrides[0][0].startswith("raw_rl."):
            assert case.stage == "raw_rl"
    assert {len(case.overrides) for case in cases} == {1, 2, 3}


def test_texts_are_such_as_worlds_read_until_they_are_disturbed():
    draw, values = random.Random(0), {"environment.num_colours": 4}
    for _ in range(50):
        task = tasks.parse_task(bad_values.TEXTS["raw_rl.task"](draw, values))
        assert all(first != second for first, second in zip(task, task[1:], strict=False))
    plan = bad_values.floor_plan_text(draw, 5, 3)
    assert [len(row) for row in plan.split("/")] == [5] * 5 and plan.count("#") == 3
    homes = bad_values.homes_text(draw, 3, 4)
    assert sorted(homes.replace("/", "").replace(".", "")) == list("0123")
    assert len({bad_values.disturbed(draw, plan) for _ in range(50)}) > 20


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "refused"),
        ({"said": "error: config.probe: wrong\n"}, "names nothing"),
        ({"said": "error: an update needs 9 GiB, allowed is 4 GiB of memory here\n"}, "refused"),
        ({"said": "error: config.probe.steps: wrong\nmore\n"}, "not one line"),
        ({"said": "Traceback (most recent call last):\n"}, "traceback"),
        ({"code": 1, "said": "KeyError\n"}, "traceback"),
        ({"code": -signal.SIGSEGV}, "killed"),
        ({"code": -signal.SIGXCPU}, "hang"),
        ({"code": -signal.SIGKILL, "waited": True}, "hang"),
        ({"code": -signal.SIGXCPU, "begun": True}, "cut"),
        ({"written": ("probe",)}, "refused, but written"),
        ({"begun": True}, "accepted, then failed"),
        ({"begun": True, "said": "error: probe: loss not finite by step 4\n"}, "diverged"),
        ({"code": ACCEPTED, "begun": True}, "accepted"),
        ({"code": 0, "begun": True}, "run"),
    ],
)
def test_how_a_start_ended_is_judged(changes, verdict):
    assert judged(CASE, dataclasses.replace(REFUSED, **changes)) == verdict
    good = {"refused", "accepted", "run", "cut", "diverged"}
    assert (verdict in good) != (verdict in bad_input.FAULTS)


def test_the_summary_counts_faults():
    line = bad_input.summary({"refused": 3, "hang": 1, "traceback": 1}, 60.0, 2.0)
    assert line.startswith("5 tried in 60 s: 1 hang, 3 refused, 1 traceback; 2 faults; ")


# In a process of its own: this one has started jax, of which no fork may be made.
_PLANTED = """
import json
from benchmarks import bad_input
from internal_rl.stages import checks

def lookup(settings):
    raise KeyError("planted")

def loop(settings):
    while True:
        pass

bad_input._SLOW_START = 2.0
verdicts = []
for planted, value in ((checks.check_settings, "-1"), (lookup, "8"), (loop, "8")):
    checks.check_settings = planted
    case = bad_input.Case(0, "gridworld", "probe", (("base.width", value),))
    verdicts.append(bad_input.Trials().try_case(case)[0])
print(json.dumps(verdicts))
"""


def test_a_planted_fault_is_found():
    process = subprocess.run(
        [sys.executable, "-c", _PLANTED], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == ["refused", "traceback", "hang"]
