"""A stage can be trained further than it was begun for, in the same directory."""

import dataclasses
import json
import time

import pytest

from internal_rl.errors import ConfigError, StageConflictError
from internal_rl.training.loop import run_stage
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_stage
from tests.training.test_loop import (
    assert_same_params,
    checkpoint_steps,
    folder,
    metrics_without_seconds,
    run_interrupted,
)
from tests.training.toy import make_stage


def asked_steps(workdir, seed=0):
    return json.loads((folder(workdir, seed) / "config.json").read_text())["config"]["toy"]["steps"]


def done_steps(workdir, seed=0):
    return json.loads((folder(workdir, seed) / "DONE").read_text())["steps"]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("long")
    run_stage(make_stage(60, seeds=(0, 1)), workdir)
    return workdir


def assert_same_run(workdir, other, seeds=(0, 1)):
    for seed in seeds:
        assert_same_params(workdir, other, seed)
        assert metrics_without_seconds(workdir, seed) == metrics_without_seconds(other, seed)
        assert asked_steps(workdir, seed) == asked_steps(other, seed)
        assert done_steps(workdir, seed) == done_steps(other, seed)


def test_a_finished_stage_goes_on_to_the_bits_of_a_longer_one(tmp_path, long):
    run_stage(make_stage(40, seeds=(0, 1)), tmp_path)
    assert done_steps(tmp_path) == 40
    run_stage(make_stage(60, seeds=(0, 1)), tmp_path)
    assert_same_run(tmp_path, long)


def test_an_unfinished_stage_goes_on_to_the_bits_of_a_longer_one(tmp_path, monkeypatch, long):
    run_interrupted(monkeypatch, make_stage(40, seeds=(0, 1)), tmp_path, 28)
    run_stage(make_stage(60, seeds=(0, 1)), tmp_path)
    assert_same_run(tmp_path, long)


def test_further_training_that_is_interrupted_goes_on(tmp_path, monkeypatch, long):
    run_stage(make_stage(40, seeds=(0, 1)), tmp_path)
    run_interrupted(monkeypatch, make_stage(60, seeds=(0, 1)), tmp_path, 52)
    assert not StageDirectory(tmp_path, "toy", 0).finished
    assert asked_steps(tmp_path) == 60
    run_stage(make_stage(60, seeds=(0, 1)), tmp_path)
    assert_same_run(tmp_path, long)


def test_a_stage_cut_off_while_it_was_opened_again_still_has_its_old_length(tmp_path):
    run_stage(make_stage(40), tmp_path)
    before = (folder(tmp_path) / "params.msgpack").read_bytes()
    (folder(tmp_path) / "DONE").unlink()
    run_stage(make_stage(40), tmp_path)
    assert (folder(tmp_path) / "params.msgpack").read_bytes() == before
    assert done_steps(tmp_path) == 40


def test_steps_cannot_be_taken_back(tmp_path):
    run_stage(make_stage(12), tmp_path)
    with pytest.raises(StageConflictError, match="toy.steps: 8 asked.* made with 12; allowed is"):
        run_stage(make_stage(8), tmp_path)


def test_a_finished_stage_without_checkpoints_says_so_and_stays_as_it_is(tmp_path):
    run_stage(make_stage(12), tmp_path)
    checkpoints = folder(tmp_path) / "checkpoints"
    checkpoints.rename(tmp_path / "away")
    before = {p: p.stat().st_mtime_ns for p in folder(tmp_path).rglob("*")}
    with pytest.raises(StageConflictError, match="toy.steps: 16 asked.*keeps no checkpoint") as e:
        run_stage(make_stage(16), tmp_path)
    assert "\n" not in str(e.value)
    assert {p: p.stat().st_mtime_ns for p in folder(tmp_path).rglob("*")} == before


def test_only_the_length_may_change(tmp_path):
    run_stage(make_stage(12), tmp_path)
    with pytest.raises(StageConflictError, match="toy.learning_rate"):
        run_stage(make_stage(16, learning_rate=0.1), tmp_path)
    fixed = make_stage(16)
    with pytest.raises(StageConflictError, match="toy.steps: 16 asked"):
        StageConfig(fixed.config.values).check({"toy": {"learning_rate": 0.05, "steps": 12}}, "x")


def test_a_later_stage_is_told_to_have_the_earlier_one_trained_further(tmp_path):
    run_stage(make_stage(12), tmp_path)
    with pytest.raises(StageConflictError, match="toy.steps: more asked .* further: this"):
        load_stage(tmp_path, "toy", 0, config=make_stage(16).config, command="this")


def test_a_stage_made_from_a_shorter_one_says_how_to_go_on():
    config = StageConfig({"early": {"steps": 9}, "late": {"steps": 3}}, length="late.steps")
    stored = {"early": {"steps": 6}, "late": {"steps": 3}}
    message = "early.steps: 9 asked.* made with 6; .*another --workdir .* --upstream=/runs/a$"
    with pytest.raises(StageConflictError, match=message):
        config.check(stored, "/runs/a/late/seed_0")


def test_checkpoints_of_the_old_length_are_replaced(tmp_path):
    run_stage(make_stage(40), tmp_path)
    run_stage(make_stage(60), tmp_path)
    assert checkpoint_steps(tmp_path) == [56, 60]


def test_absent_fields_mean_their_historical_value():
    config = StageConfig({"toy": {"old": 1, "new": 5}}, historical={"toy": {"old": 3, "new": 5}})
    assert config.check({"toy": {"old": 1}}, "x") is False
    with pytest.raises(StageConflictError, match="toy.old: 1 asked for, but x was made with 3"):
        config.check({"toy": {"new": 5}}, "x")
    changed = StageConfig({"toy": {"old": 1, "new": 6}}, config.historical)
    with pytest.raises(StageConflictError, match="toy.new: 6 asked for, but x was made with 5"):
        changed.check({"toy": {"old": 1}}, "x")


def test_a_section_that_is_missing_has_no_historical_values():
    config = StageConfig({"a": {"x": 1}, "b": {"y": 2}}, historical={"b": {"y": 2}})
    with pytest.raises(StageConflictError, match="b.y: 2 asked for, .* nothing of the kind"):
        config.check({"a": {"x": 1}}, "x")


def test_a_stored_field_that_is_no_longer_known_is_a_conflict():
    config = StageConfig({"toy": {"old": 1}})
    with pytest.raises(StageConflictError, match="toy.gone: x was made with 7, .* unknown here"):
        config.check({"toy": {"old": 1, "gone": 7}}, "x")


def test_tuples_equal_the_lists_that_json_makes_of_them():
    config = StageConfig({"toy": {"ages": (1, 2)}})
    assert config.check({"toy": {"ages": [1, 2]}}, "x") is False


def test_a_stage_whose_time_is_up_is_finished_as_it_stands(tmp_path):
    run_stage(make_stage(40, seeds=(0, 1)), tmp_path, deadline=time.monotonic())
    # One call, in the middle of a line of metrics.
    assert asked_steps(tmp_path) == done_steps(tmp_path) == 3
    load_stage(tmp_path, "toy", 0, config=make_stage(3).config)
    run_stage(make_stage(3, seeds=(0, 1)), tmp_path / "short")
    assert_same_run(tmp_path, tmp_path / "short")


def test_a_stage_whose_time_was_up_goes_on_to_the_bits_of_a_longer_one(tmp_path, long):
    for _ in range(3):
        run_stage(make_stage(60, seeds=(0, 1)), tmp_path, deadline=time.monotonic())
    assert done_steps(tmp_path) == 7
    run_stage(make_stage(60, seeds=(0, 1)), tmp_path)
    assert done_steps(tmp_path) == 60
    for seed in (0, 1):
        assert_same_params(tmp_path, long, seed)
        lines = metrics_without_seconds(tmp_path, seed)
        # Beside the lines where it paused there are those of an undisturbed run, whole.
        assert [line for line in lines if line["step"] % 4 == 0] == metrics_without_seconds(
            long, seed
        )


def test_a_stage_whose_time_is_up_goes_on_until_it_may_end(tmp_path):
    """As behind its warm-up: settings with fewer updates would be refused by all that reads it."""
    stage = make_stage(40, seeds=(0, 1), may_end_at=lambda num_steps: num_steps > 10)
    run_stage(stage, tmp_path, deadline=time.monotonic())
    assert asked_steps(tmp_path) == done_steps(tmp_path) == 11
    run_stage(make_stage(11, seeds=(0, 1)), tmp_path / "short")
    assert_same_run(tmp_path, tmp_path / "short")


def test_seeds_that_would_end_at_different_ages_are_refused_a_deadline(tmp_path):
    stage = make_stage(40, seeds=(0, 1), seeds_together=1)
    with pytest.raises(ConfigError, match="--minutes: given for 2 groups of seeds"):
        run_stage(stage, tmp_path, deadline=time.monotonic())
    assert not (tmp_path / "toy").exists()


def test_a_seed_beside_others_is_made_with_their_settings(tmp_path):
    run_stage(make_stage(8, seeds=(0,)), tmp_path)
    before = sorted(tmp_path.rglob("*"))
    other = make_stage(8, seeds=(1,))
    values = {**other.config.values, "more": 1}
    other = dataclasses.replace(other, config=dataclasses.replace(other.config, values=values))
    with pytest.raises(StageConflictError, match="more: 1 asked for, .*toy/seed_0"):
        run_stage(other, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    run_stage(make_stage(8, seeds=(1,)), tmp_path)
    # A damaged one is no reason to refuse others.
    (tmp_path / "toy/seed_0/config.json").write_text("{")
    run_stage(make_stage(8, seeds=(2,)), tmp_path)


def falling(steps, decay_steps=0, final=0.0):
    fields = {"decay_steps": decay_steps, "final_learning_rate": final, "steps": steps}
    return StageConfig({"toy": fields}, length="toy.steps")


def test_a_rate_that_has_fallen_is_not_raised_again():
    stored = falling(6).values
    message = "toy.decay_steps: x was made .* falls over 6 updates; .*--config.toy.decay_steps=6,"
    with pytest.raises(StageConflictError, match=message):
        falling(12).check(stored, "x")
    assert falling(12, decay_steps=6).check(stored, "x") is True
    assert falling(6, decay_steps=6).check(stored, "x") is False
    with pytest.raises(StageConflictError, match="falls over 6 updates"):
        falling(12, decay_steps=7).check(stored, "x")
    # What stays constant may go on as it is.
    assert falling(12, final=-1.0).check(falling(6, final=-1.0).values, "x") is True
    with pytest.raises(StageConflictError, match="toy.decay_steps: 5 asked for, but x .* with 0"):
        falling(6, decay_steps=5, final=-1.0).check(falling(6, final=-1.0).values, "x")


def test_a_stage_that_ends_early_tells_over_how_many_updates_its_rate_was_to_fall():
    asked = falling(6)
    short = asked.with_length(4)
    assert short.values["toy"] == {"decay_steps": 6, "final_learning_rate": 0.0, "steps": 4}
    assert asked.check(short.values, "x") is True
    assert falling(4, decay_steps=6).check(short.values, "x") is False
    with pytest.raises(StageConflictError, match="falls over 6 updates"):
        falling(4).check(short.values, "x")
    assert asked.with_length(6).values == asked.values
    assert falling(6, final=-1.0).with_length(4).values["toy"]["decay_steps"] == 0


@pytest.mark.parametrize("field", ["checkpoint_minutes", "checkpoint_every"])
def test_how_often_something_is_saved_may_change(field):
    config = StageConfig({"toy": {field: 2, "steps": 6}}, length="toy.steps")
    assert config.check({"toy": {field: 8, "steps": 6}}, "x") is False


def test_a_stage_does_not_go_on_with_other_data(tmp_path):
    def directory(data):
        return StageDirectory(tmp_path, "toy", 0, data_read=data)

    run_stage(make_stage(8, data_read="one"), tmp_path)
    run_stage(make_stage(12, data_read="one"), tmp_path)
    assert directory("one").read_config()["data_read"] == "one"
    before = (folder(tmp_path) / "config.json").read_bytes()
    for steps in (12, 16):
        with pytest.raises(StageConflictError, match="seed_0: was made with other data than are"):
            run_stage(make_stage(steps, data_read="another"), tmp_path)
    assert (folder(tmp_path) / "config.json").read_bytes() == before
    # Where one of the two is not known, nothing is compared.
    assert directory("").check(make_stage(12).config) is not None
    run_stage(make_stage(8), tmp_path / "older")
    run_stage(make_stage(12, data_read="one"), tmp_path / "older")
