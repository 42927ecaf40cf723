"""A run that is told to stop saves what it has, says so, and goes on with the same bits."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from internal_rl.interruption import Interrupted, watched
from internal_rl.training import loop
from internal_rl.training.loop import run_stage
from internal_rl.training.metrics import read_metrics
from internal_rl.training.program import Program
from internal_rl.training.stage_results import load_stage
from tests.training.test_loop import ROOT
from tests.training.toy import make_stage

NUM_STEPS = 208
SCRIPT = (sys.executable, "-m", "tests.stages.toy_script")


def start(workdir):
    return subprocess.Popen(
        [
            *SCRIPT,
            f"--workdir={workdir}",
            f"--config.pretrain.steps={NUM_STEPS}",
            "--config.pretrain.num_seeds=1",
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )


def num_lines(folder):
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_signals_save_a_checkpoint_and_the_run_ends_with_the_same_bits(tmp_path):
    run_stage(make_stage(NUM_STEPS), tmp_path / "whole")
    folders = [tmp_path / name / "toy" / "seed_0" for name in ("whole", "stopped")]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(tmp_path / "stopped")
        moment = num_lines(folders[1]) + random.randint(1, 8)
        while num_lines(folders[1]) < moment and process.poll() is None:
            time.sleep(0.002)
        sent = time.monotonic()
        process.send_signal(number)
        said = process.communicate()[1].splitlines()
        assert process.returncode == code, said
        assert time.monotonic() - sent < 10
        name = signal.Signals(number).name
        assert said[-1] == f"interrupted: {name}: the same command goes on from here"
        steps = [int(p.name) for p in (folders[1] / "checkpoints").iterdir() if p.name.isdigit()]
        # Nothing that was reported is lost.
        assert max(steps) >= read_metrics(folders[1])[-1]["step"]
    run_stage(make_stage(NUM_STEPS), tmp_path / "stopped")
    params = [(folder / "params.msgpack").read_bytes() for folder in folders]
    assert params[0] == params[1]
    curves = [[{**x, "seconds": 0} for x in read_metrics(folder)] for folder in folders]
    assert curves[0] == curves[1]


def test_a_stop_between_two_lines_loses_no_update_of_the_line(tmp_path, monkeypatch):
    seeds = (0, 1)
    run_stage(make_stage(24, seeds, log_every=12, checkpoint_every=12), tmp_path / "whole")
    with watched() as watch, monkeypatch.context() as patch:
        # Told to stop from the start: every call saves and ends, 3 updates at a time.
        stopped = make_stage(24, seeds, log_every=12, checkpoint_every=12)
        patch.setattr(watch, "_signal", signal.SIGTERM)
        for _ in range(8):
            with pytest.raises(Interrupted):
                run_stage(stopped, tmp_path / "stopped")
    run_stage(stopped, tmp_path / "stopped")
    for seed in seeds:
        one, other = (load_stage(tmp_path / x, "toy", seed)[0] for x in ("whole", "stopped"))
        np.testing.assert_array_equal(one["layer"]["weight"], other["layer"]["weight"])
        curves = [
            [{**x, "seconds": 0} for x in read_metrics(tmp_path / name / "toy" / f"seed_{seed}")]
            for name in ("whole", "stopped")
        ]
        assert curves[0] == curves[1]


def test_checkpoints_are_saved_by_time_too(tmp_path):
    stage = make_stage(24, log_every=12, checkpoint_every=24, checkpoint_minutes=1e-9)
    run_stage(stage, tmp_path)
    steps = {int(p.name) for p in (tmp_path / "toy" / "seed_0" / "checkpoints").iterdir()}
    # The last two are kept; by updates there would be one.
    assert len(steps) == 2
    assert max(steps) == 24


@pytest.mark.parametrize("longest,steps", [(0.0, {"9", "21"}), (1e9, set())])
def test_what_leads_to_a_long_evaluation_is_saved_before_it(tmp_path, monkeypatch, longest, steps):
    """A signal ends the process in the middle of an evaluation that outlasts the grace period."""
    stage = make_stage(
        24,
        log_every=12,
        checkpoint_every=48,
        evaluate_every=12,
        evaluate=lambda state, frozen: {"rows": state.rows_drawn.astype("float32")},
    )
    run_stage(stage, tmp_path / "whole")
    evaluate, calls = Program.evaluate, []

    def ended(program, state):
        calls.append(state)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(program, state)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "LONG_EVALUATION_SECONDS", longest)
        patch.setattr(Program, "evaluate", ended)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, tmp_path / "ended")
    folder = tmp_path / "ended/toy/seed_0/checkpoints"
    assert {path.name for path in folder.glob("*") if path.name.isdigit()} == steps
    run_stage(stage, tmp_path / "ended")
    whole, ended = (load_stage(tmp_path / name, "toy", 0)[0] for name in ("whole", "ended"))
    np.testing.assert_array_equal(whole["layer"]["weight"], ended["layer"]["weight"])
    lines = [
        [line | {"seconds": 0} for line in read_metrics(tmp_path / name / "toy/seed_0")]
        for name in ("whole", "ended")
    ]
    assert lines[0] == lines[1]


def test_seeds_that_were_measured_before_a_stop_are_not_measured_again(tmp_path):
    measured = []

    def artifacts(state, frozen):
        measured.append(int(frozen["target"][0]) // 10)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return {"target": frozen["target"]}

    stage = make_stage(8, seeds=(0, 1, 2), artifacts=artifacts)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, tmp_path)
    done = [(tmp_path / f"toy/seed_{seed}/DONE").exists() for seed in stage.seeds]
    assert done == [True, False, False] and measured == [0, 1]
    first = load_stage(tmp_path, "toy", 0, config=stage.config)[0]
    for _ in range(2):
        run_stage(stage, tmp_path)
        assert measured == [0, 1, 1, 2]
    # They are those of seeds that nobody has stopped.
    run_stage(make_stage(8, seeds=(0, 1, 2)), tmp_path / "whole")
    for seed in stage.seeds:
        params = load_stage(tmp_path / "whole", "toy", seed)[0]
        np.testing.assert_array_equal(
            load_stage(tmp_path, "toy", seed)[0]["layer"]["weight"], params["layer"]["weight"]
        )
        assert len(read_metrics(tmp_path / f"toy/seed_{seed}")) == 2
    np.testing.assert_array_equal(
        first["layer"]["weight"], load_stage(tmp_path, "toy", 0)[0]["layer"]["weight"]
    )


def test_outside_of_training_a_signal_is_an_exception_at_once():
    with pytest.raises(Interrupted) as caught, watched() as watch:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("goes on after the signal")
    assert watch.signalled
    assert caught.value.exit_code == 143
    with watched() as later:
        later.check()


def test_held_signals_are_told_when_asked_for():
    with pytest.raises(Interrupted), watched() as watch:
        with watch.held():
            signal.raise_signal(signal.SIGTERM)
        watch.check()


def test_a_second_interrupt_does_not_wait():
    with pytest.raises(Interrupted), watched() as watch, watch.held():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("goes on after the second one")


def test_handlers_are_put_back_and_other_threads_watch_nothing():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with watched():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    failures = []

    def inside():
        try:
            with watched() as watch:
                watch.check()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert not failures


def test_a_process_that_cannot_answer_is_ended():
    code = (
        "import hashlib, internal_rl.interruption as i\n"
        "with i.watched():\n"
        "    print('ready', flush=True)\n"
        # Python gives other threads their turn here, but sees no signal before its end.
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    # The call has to have begun: before it, Python answers at once.
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 143
    assert said == "interrupted: SIGTERM: the same command goes on from here\n"


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_signal_in_a_callback_that_cannot_raise_is_not_lost(number, capfd):
    class Dying:
        def __del__(self):
            signal.raise_signal(number)
            # The handler runs between two instructions of this method.
            for _ in range(100):
                pass

    hook = sys.unraisablehook
    with pytest.raises(Interrupted, match=signal.Signals(number).name), watched() as watch:
        dying = Dying()
        del dying
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.01)
    assert watch.signalled
    assert sys.unraisablehook == hook
    assert capfd.readouterr().err == ""


def test_other_faults_in_callbacks_are_told_as_ever(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_value))

    class Dying:
        def __del__(self):
            raise ValueError("at the end")

    with watched():
        dying = Dying()
        del dying
    assert [str(value) for value in told] == ["at the end"]
