"""Stages from Python, with a world and stages of one's own: what reads what, and from where."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest

from configs import ant, gridworld
from internal_rl import run_stages
from internal_rl.analysis import report
from internal_rl.analysis.sweeps.sweep import sweep_named
from internal_rl.checksums import checksum_of, write_checked_json
from internal_rl.envs import world as worlds
from internal_rl.errors import (
    ConfigError,
    StageConflictError,
    StageMissingError,
    StorageError,
    SubgoalsMissingError,
)
from internal_rl.stages import catalogue, origin, reproducing, running, sweep_plan, trained
from internal_rl.stages.places import Places
from internal_rl.stages.records import keep_records
from internal_rl.stages.running import finished_upstream, run
from internal_rl.stages.settings import Settings, make_config
from internal_rl.training.loop import run_stage
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_stage, seed_read
from tests.stages import toy_run
from tests.stages.test_records import contents
from tests.training.test_loop import ROOT
from tests.training.toy import make_stage


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The toy world and its stages are known in these tests alone."""
    toy_run.register()
    for spec in toy_run.STAGES:
        monkeypatch.setitem(catalogue.STAGES, spec.name, spec)
    yield
    del worlds._ENTRIES[toy_run.WORLD]


def parameter(workdir, stage, seed=0):
    return load_stage(workdir, stage, seed)[0]["x"]


def test_stages_run_in_the_order_given_and_read_each_other(tmp_path):
    run_stages(toy_run.config_of(), tmp_path, ["early", "late"])
    assert parameter(tmp_path, "late") > parameter(tmp_path, "early")
    assert [line["step"] for line in read_metrics(tmp_path / "late" / "seed_0")] == [2, 4]
    before = (tmp_path / "early" / "seed_0" / "params.msgpack").stat().st_mtime_ns
    run_stages(toy_run.config_of(), tmp_path, ["early"])
    assert (tmp_path / "early" / "seed_0" / "params.msgpack").stat().st_mtime_ns == before


def test_a_stage_that_is_registered_has_a_section_in_every_config():
    for config in (gridworld.get_config("smoke"), make_config(toy_run.WORLD, "only", {})):
        assert config.late.target == 1.0
        assert Settings.read(config).late == toy_run.LateConfig()
    with pytest.raises(ValueError, match="preset 'small' is unknown, allowed are only$"):
        make_config(toy_run.WORLD, "small", {})


def test_unknown_stages_are_named_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="config.moon: no such stage.*allowed are early, late"):
        run_stages(toy_run.config_of(), tmp_path / "run", ["early", "moon"])
    assert not (tmp_path / "run").exists()


def test_earlier_stages_may_lie_in_other_work_directories(tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    other.mkdir()
    config = toy_run.config_of()
    run_stages(config, first, ["early"])
    run_stages(config, second, ["late"], upstream=[other, first])
    assert not (second / "early").exists()
    run_stages(config, first, ["late"])
    np.testing.assert_array_equal(parameter(second, "late"), parameter(first, "late"))
    message = rf"python -m experiments --stage=early --config=CONFIG.py:only .*--upstream={other}$"
    with pytest.raises(StageMissingError, match=message):
        run_stages(config, tmp_path / "third", ["late"], upstream=[other])
    with pytest.raises(ConfigError, match="--upstream: '/nowhere' is not there"):
        run_stages(config, second, ["late"], upstream=["/nowhere"])


def test_records_upstream_are_no_finished_stages(tmp_path):
    real, records, own = (tmp_path / name for name in ("real", "records", "own"))
    config = toy_run.config_of()
    run_stages(config, real, ["early", "late"])
    keep_records(real, records)
    settings = Settings.read(config)
    assert not finished_upstream(settings, "early", Places(own, (str(records),)))
    assert finished_upstream(settings, "early", Places(own, (str(records), str(real))))
    with pytest.raises(StageMissingError, match="not there or not finished; run: .*--stage=early"):
        run_stages(config, own, ["late"], upstream=[records])
    run_stages(config, own, ["late"], upstream=[records, real])
    assert not (own / "early").exists() and not (own / "late/seed_0/RECORD").exists()
    with pytest.raises(StageMissingError, match="record of a finished stage, without its param"):
        Places(records).finished(settings, "early", 0)


def test_the_own_work_directory_comes_before_the_others(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_stages(toy_run.config_of(early={"target": -5.0}), first, ["early"])
    with pytest.raises(StageConflictError, match="early.target: 1.0 asked for, but .*first"):
        run_stages(toy_run.config_of(), second, ["late"], upstream=[first])
    run_stages(toy_run.config_of(), second, ["early", "late"], upstream=[first])
    assert parameter(second, "early") > parameter(first, "early")


def test_a_whole_run_skips_what_is_finished_elsewhere_and_reports(tmp_path, monkeypatch):
    reports = []
    monkeypatch.setattr(report, "write_report", lambda *arguments: reports.append(arguments))
    first, second = tmp_path / "first", tmp_path / "second"
    config = toy_run.config_of()
    run_stages(config, first, ["early"])
    run_stages(config, second, upstream=[first])
    assert sorted(path.name for path in second.iterdir()) == ["late"]
    assert [arguments[0] for arguments in reports] == [second]
    # Made with other settings, it is made anew.
    run_stages(toy_run.config_of(early={"target": 2.0}), tmp_path / "third", upstream=[first])
    assert sorted(path.name for path in (tmp_path / "third").iterdir()) == ["early", "late"]


def test_a_stage_trained_further_asks_for_later_ones_anew(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_stages(toy_run.config_of(), first, ["early", "late"])
    longer = toy_run.config_of(early={"steps": 8})
    with pytest.raises(StageConflictError, match="early.steps: more .*experiments --stage=early"):
        run_stages(longer, second, ["late"], upstream=[first])
    run_stages(longer, first, ["early"])
    assert parameter(first, "early") > 0.7
    with pytest.raises(StageConflictError, match=f"early.steps: 8 .*--upstream={first}$"):
        run_stages(longer, first, ["late"])
    run_stages(longer, second, ["late"], upstream=[first])
    assert StageDirectory(second, "late", 0).finished


def test_seeds_of_a_later_stage_read_those_of_the_earlier_one_in_turn(tmp_path):
    late = {"seeds_per_input": 2, "learning_rate": 1e-6}
    config = toy_run.config_of(early={"num_seeds": 2}, late=late)
    run_stages(config, tmp_path, ["early", "late"])
    settings = Settings.read(config)
    assert settings.seeds_of("late") == (0, 1, 2, 3)
    for seed in settings.seeds_of("late"):
        stored = json.loads((tmp_path / "late" / f"seed_{seed}" / "config.json").read_text())
        assert stored["reads"] == {"early": seed % 2}
    params, axis = Places(tmp_path).params(settings, "early", (0, 1, 2))
    assert axis == 0
    np.testing.assert_array_equal(params["x"][2], params["x"][0])
    assert params["x"][1] != params["x"][0]
    only, axis = Places(tmp_path).params(settings, "early", (0,))
    assert axis is None and only["x"] == params["x"][0]


def test_a_seed_that_would_read_another_one_than_it_did_is_a_conflict(tmp_path):
    def config(num_seeds):
        return toy_run.config_of(early={"num_seeds": num_seeds}, late={"seeds_per_input": 3})

    run_stages(config(1), tmp_path, ["early", "late"])
    run_stages(config(2), tmp_path, ["early"])
    message = "early: seed 1 is to be read, but .*late/seed_1 was made with seed 0; allowed is as"
    with pytest.raises(StageConflictError, match=message):
        run_stages(config(2), tmp_path, ["late"])
    # A directory that does not tell counts as it would be counted now.
    for seed in range(3):
        file = tmp_path / "late" / f"seed_{seed}" / "config.json"
        stored = json.loads(file.read_text())
        del stored["reads"], stored["parameters_read"]
        write_checked_json(file, stored)
    run_stages(config(2), tmp_path, ["late"])
    assert seed_read(tmp_path, "late", 1, "early") == 1
    assert seed_read(tmp_path, "late", 5, "early") == 1
    assert json.loads((tmp_path / "late/seed_5/config.json").read_text())["reads"] == {"early": 1}


def stored_config(workdir, stage, seed=0):
    return json.loads((workdir / stage / f"seed_{seed}" / "config.json").read_text())


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_a_stage_goes_on_with_the_parameters_that_it_has_read_and_no_others(tmp_path, state):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    config = toy_run.config_of()
    for workdir in (first, other):
        run_stages(config, workdir, ["early"])
    run_stages(config, second, ["late"], upstream=[first])
    assert stored_config(second, "late")["parameters_read"] == {
        "early": checksum_of(first / "early/seed_0/params.msgpack")
    }
    assert "parameters_read" not in stored_config(first, "early")
    if state == "interrupted":
        (second / "late/seed_0/DONE").unlink()
        (second / "late/seed_0/params.msgpack").unlink()
    # On another machine the same training ends with other digits.
    params = load_stage(other, "early", 0)[0]
    StageDirectory(other, "early", 0).save_params({"x": params["x"] + np.float32(1e-6)})
    before = contents(second)
    message = "late/seed_0: was made with other parameters of early than are found here; allowed"
    with pytest.raises(StageConflictError, match=message):
        run_stages(config, second, ["late"], upstream=[other])
    assert contents(second) == before
    run_stages(config, second, ["late"], upstream=[first])
    # Those of which nothing is known are taken as they are.
    (other / "early/seed_0/checksums.json").unlink()
    run_stages(config, second, ["late"], upstream=[other])


def test_a_directory_that_tells_no_parameters_takes_any(tmp_path):
    config = toy_run.config_of()
    run_stages(config, tmp_path, ["early", "late"])
    stored = stored_config(tmp_path, "late")
    del stored["parameters_read"]
    write_checked_json(tmp_path / "late/seed_0/config.json", stored)
    StageDirectory(tmp_path, "early", 0).save_params({"x": np.float32(0.5)})
    run_stages(config, tmp_path, ["late"])
    stored["parameters_read"] = {"early": 1}
    write_checked_json(tmp_path / "late/seed_0/config.json", stored)
    with pytest.raises(StorageError, match="damaged, 'parameters_read' is of another kind"):
        run_stages(config, tmp_path, ["late"])


def test_what_a_stage_stands_on_is_kept_when_it_is_trained_further(tmp_path):
    run_stages(toy_run.config_of(), tmp_path, ["early", "late"])
    before = stored_config(tmp_path, "late")
    run_stages(toy_run.config_of(late={"steps": 8}), tmp_path, ["late"])
    after = stored_config(tmp_path, "late")
    assert after["config"]["late"]["steps"] == 8
    for name in ("reads", "parameters_read"):
        assert after[name] == before[name] != {}


def test_processes_may_share_out_the_seeds_of_a_stage(tmp_path):
    settings = Settings.read(
        toy_run.config_of(early={"num_seeds": 2}, late={"seeds_per_input": 2, "steps": 4})
    )
    places = Places(tmp_path)
    run(settings, "early", places)
    run(settings.with_seeds("late", [3, 1]), "late", places)
    assert sorted(path.name for path in (tmp_path / "late").iterdir()) == ["seed_1", "seed_3"]
    assert seed_read(tmp_path, "late", 3, "early") == 1
    run(settings.with_seeds("late", [0]), "late", places)
    before = (tmp_path / "late/seed_3/params.msgpack").read_bytes()
    run(settings, "late", places)
    assert all(StageDirectory(tmp_path, "late", seed).finished for seed in range(4))
    assert (tmp_path / "late/seed_3/params.msgpack").read_bytes() == before
    # Only of that stage: others keep theirs.
    assert settings.with_seeds("late", [3]).seeds_of("early") == (0, 1)
    both = settings.with_seeds("early", [1]).with_seeds("late", [3])
    assert (both.seeds_of("early"), both.seeds_of("late")) == ((1,), (3,))
    assert both.with_one_seed().seeds_of("late") == (0,)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([1, 4], "--seeds: 4 given, allowed for late is 0 to 3"),
        ([], "--seeds: none given, allowed for late is 0 to 3"),
    ],
)
def test_seeds_that_a_stage_has_not_cannot_be_asked_for(seeds, message):
    settings = Settings.read(toy_run.config_of(late={"seeds_per_input": 4}))
    with pytest.raises(ConfigError, match=message):
        settings.with_seeds("late", seeds)


def test_seeds_beyond_those_that_train_together_follow_in_groups(tmp_path):
    late = {"seeds_per_input": 5, "seeds_together": 2}
    run_stages(toy_run.config_of(late=late), tmp_path, ["early", "late"])
    stored = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("late/*/config.json"))]
    assert [found["seeds"] for found in stored] == [[0, 1], [0, 1], [2, 3], [2, 3], [4]]
    alone = tmp_path / "alone"
    late = {"seeds_per_input": 5, "seeds_together": 1}
    run_stages(toy_run.config_of(late=late), alone, ["early", "late"])
    for folder in (tmp_path, alone):
        assert StageDirectory(folder, "late", 4).finished
    np.testing.assert_allclose(parameter(tmp_path, "late"), parameter(alone, "late"), rtol=1e-6)


def test_a_missing_earlier_stage_names_the_command_with_its_preset(tmp_path):
    run_stage(make_stage(num_steps=4), tmp_path)
    settings = Settings.read(gridworld.get_config("smoke"))
    with pytest.raises(StageMissingError, match=r"experiments.metacontroller --config=\S+:smoke"):
        Places(tmp_path).load(settings, "metacontroller", 0)


def test_a_whole_run_goes_through_all_stages_and_variants_in_order(monkeypatch):
    for spec in toy_run.STAGES:
        monkeypatch.delitem(catalogue.STAGES, spec.name)

    def folders(module):
        settings = Settings.read(module.get_config("smoke")).updated(
            "pretrain", snapshot_steps=(4,)
        )
        return [chosen.folder_of(stage) for stage, chosen in catalogue.whole_run(settings)]

    trained = [
        *("pretrain", "probe_4", "probe", "steer"),
        *("metacontroller", "internal_rl"),
        *("metacontroller_forced", "internal_rl_forced"),
        *("metacontroller_unaligned", "internal_rl_unaligned"),
        *("metacontroller_cotrained", "internal_rl_cotrained"),
        *("compile", "internal_rl_compile"),
        "raw_rl",
    ]
    assert folders(gridworld) == trained
    assert folders(ant) == ["expert", "collect", *trained]


def test_a_stage_is_made_or_run_but_not_both():
    with pytest.raises(ValueError, match="stage x: make and run given, allowed is one of them"):
        catalogue.StageSpec("x", toy_run.Config, make=print, run=print)


def test_a_run_from_python_tells_how_far_it_is(tmp_path):
    code = (
        "import sys; from tests.stages import toy_run; from internal_rl.stages import catalogue;"
        " from internal_rl.stages.running import run_stages; toy_run.register();"
        " [catalogue.register_stage(spec) for spec in toy_run.STAGES];"
        " run_stages(toy_run.config_of(), sys.argv[1], ['early'], log=sys.argv[2] == 'log')"
    )
    said = {}
    for log in ("log", "quiet"):
        command = [sys.executable, "-c", code, str(tmp_path / log), log]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        said[log] = process.stderr
    assert "early: compiles" in said["log"] and "early: 4 of 4 updates" in said["log"]
    assert said["quiet"] == ""


def test_a_whole_run_leaves_out_stages_that_need_subgoals_which_nobody_tells(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(report, "write_report", lambda *arguments: {})
    ran = []

    def run_one(settings, stage, places):
        if stage == "early":
            raise SubgoalsMissingError("the trajectories tell no subgoals")
        ran.append(stage)

    monkeypatch.setattr(running, "run", run_one)
    settings, places = Settings.read(toy_run.config_of()), Places(tmp_path)
    assert running.run_all(settings, places) == {"early"}
    assert "early" not in ran and "late" in ran
    assert "stage early: left out, the trajectories tell no subgoals" in caplog.text
    # What is asked for is not left out without a word.
    monkeypatch.setattr(running, "needed_stages", lambda settings, only: {"early", "late"})
    with pytest.raises(SubgoalsMissingError):
        running.run_all(settings, places, ["a study of early"])


def test_studies_of_stages_that_were_left_out_are_left_out_too(tmp_path, monkeypatch, caplog):
    made = []
    monkeypatch.setattr(running, "run_all", lambda *arguments: frozenset({"steer"}))
    monkeypatch.setattr(running, "report", lambda *arguments, **more: {})
    monkeypatch.setattr(reproducing, "run_sweep", lambda sweep, *more: made.append(sweep.name))
    reproducing.reproduce(Settings.read(gridworld.get_config("smoke")), Places(tmp_path))
    assert made == ["rate_distortion"]
    assert "study layer_by_depth: left out, as subgoals are missing for steer" in caplog.text


def test_stages_that_a_world_cannot_have_are_not_missing(tmp_path):
    def missing(settings):
        return {found.stage for found in origin.missing_stages(settings, Places(tmp_path))}

    told = {"probe", "steer"}
    assert told <= missing(Settings.read(gridworld.get_config("smoke")))
    assert not told & missing(Settings.read(toy_run.config_of()))


class CountsSubgoals(toy_run.ToyWorld):
    """Tells how many subgoals there are, and not in its timesteps which one is next."""

    num_subgoals = 2


def test_controllers_need_a_world_that_tells_the_next_subgoal(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(worlds, "_ENTRIES", dict(worlds._ENTRIES))
    presets = {"only": toy_run.WorldConfig()}
    worlds.register_world("counts", CountsSubgoals, config=toy_run.WorldConfig, presets=presets)
    settings = Settings.read(make_config("counts", "only", {}))
    assert catalogue.STAGES["probe"].suits(settings.world)
    message = (
        "environment.name: 'counts' tells no subgoals, allowed for the stage steer are worlds with"
        " num_subgoals, and timesteps with a subgoal$"
    )
    # Before anything trains, by itself, behind other stages, in a study, in a whole run.
    with pytest.raises(SubgoalsMissingError, match=f"^config.{message}"):
        run(settings, "steer", Places(tmp_path / "run"))
    with pytest.raises(SubgoalsMissingError, match=message):
        run_stages(settings, tmp_path / "run", ["early", "steer"])
    assert not (tmp_path / "run").exists()
    for study in ("layer_by_depth", "ablation_age", "ablation_weight_decay"):
        with pytest.raises(ConfigError, match=f"^--study={study}: {message}"):
            sweep_plan.plan(sweep_named(study), settings, Places(tmp_path))
    assert "steer" not in {x.stage for x in origin.missing_stages(settings, Places(tmp_path))}
    monkeypatch.setattr(report, "write_report", lambda *arguments: {})
    alone = {"early", "steer"}
    monkeypatch.setattr(running, "needed_stages", lambda settings, only: alone)
    assert running.run_all(settings, Places(tmp_path)) == {"steer"}
    assert "stage steer: left out, config.environment.name: 'counts' tells" in caplog.text
    grid = Settings.read(gridworld.get_config("smoke"))
    assert catalogue.STAGES["steer"].suits(grid.world)


@pytest.mark.parametrize("labelled", [True, False])
def test_probes_need_subgoals_of_the_world_and_of_the_trajectories(labelled):
    grid = Settings.read(gridworld.get_config("smoke"))
    source = types.SimpleNamespace(labelled=labelled)
    if labelled:
        assert trained._num_subgoals(grid, "probe", source) == grid.world.num_subgoals
        toy = Settings.read(toy_run.config_of())
        assert "'toy-world' tells no subgoals, allowed" in catalogue.unsuited(toy, "probe")
        assert not catalogue.unsuited(grid, "probe")
    else:
        with pytest.raises(SubgoalsMissingError, match="the trajectories of 'gridworld-pinpad' t"):
            trained._num_subgoals(grid, "steer", source)
