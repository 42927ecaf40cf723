"""Studies over several runs: what is planned, run, skipped, resumed and named."""

import dataclasses
import json
import math
import shlex

import jax.numpy as jnp
import pytest

from configs import gridworld
from internal_rl.analysis import report as run_report
from internal_rl.analysis.drawing import panels
from internal_rl.analysis.sweeps import report, sweep
from internal_rl.analysis.sweeps.sweep import Run, Sweep, sweep_named
from internal_rl.analysis.sweeps.table import SweepTable
from internal_rl.envs import world as worlds
from internal_rl.errors import (
    ConfigError,
    StageConflictError,
    StageMissingError,
    StorageError,
    UserError,
)
from internal_rl.interruption import Interrupted
from internal_rl.stages import catalogue, running, sweep_plan, sweeping
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_stage
from tests.commands import faults_of, scripts_in
from tests.stages import toy_run
from tests.stages.test_seeds import finish


def toy_runs(settings):
    """One base that two runs read, and one that makes its own."""
    del settings
    shared = Run("base", ("early",), {"early.target": 2.0}, {"early": 1})
    reading = [
        Run(
            f"target{target:g}",
            ("late",),
            {"early.target": 2.0, "late.target": target},
            {"early": 1, "late": 2},
            {"target": target},
            reads=("base",),
        )
        for target in (0.0, 4.0)
    ]
    own = Run("own", ("early", "late"), {}, {"early": 1, "late": 1}, {"target": 1.0})
    return [shared, *reading, own]


def toy_table(results):
    rows = [(run.name, len(run.seeds), run.labels["target"]) for run in results.runs]
    return SweepTable(("run", "seeds", "target"), rows)


def toy_figures(results):
    return {"toy": panels(1, 1, (3.0, 3.0))[0]} if results.runs else {}


SWEEP = Sweep("toy", "Toys", toy_runs, toy_table, toy_figures)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The toy world, its stages and its study are known in these tests alone."""
    toy_run.register()
    for spec in toy_run.STAGES:
        monkeypatch.setitem(catalogue.STAGES, spec.name, spec)
    monkeypatch.setattr(sweep, "_SWEEPS", sweep.all_sweeps() | {"toy": SWEEP})
    yield
    del worlds._ENTRIES[toy_run.WORLD]


@pytest.fixture
def settings():
    return Settings.read(toy_run.config_of())


def parameter(folder, stage, seed=0):
    return load_stage(folder, stage, seed)[0]["x"]


def times(workdir):
    return {path: path.stat().st_mtime_ns for path in workdir.glob("sweep/toy/*/*/*/*.msgpack")}


def test_runs_are_made_one_after_the_other_and_finished_ones_are_left_alone(tmp_path, settings):
    text = sweeping.run_sweep(SWEEP, settings, Places(tmp_path))
    folder = tmp_path / "sweep" / "toy"
    assert sorted(path.name for path in folder.iterdir()) == [
        "base",
        "checksums.json",
        "own",
        "sweep.json",
        "target0",
        "target4",
    ]
    # Both read the base of the study; each has two seeds.
    assert not (folder / "target0" / "early").exists()
    assert parameter(folder / "target4", "late", 1) > parameter(folder / "target0", "late", 1)
    assert "3 of 3 runs are finished." in text and "| target4 | 2 | 4 |" in text
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {"toy.md", "toy.csv", "toy.png"}
    before = times(tmp_path)
    assert len(before) == 7
    assert sweeping.run_sweep(SWEEP, settings, Places(tmp_path)) == text
    assert times(tmp_path) == before


def test_a_plan_tells_commands_and_numbers_and_writes_nothing(tmp_path, settings):
    workdir = tmp_path / "run"
    planned = sweep_plan.plan(SWEEP, settings, Places(workdir))
    told = sweep_plan.tell(planned)
    assert not workdir.exists()
    assert told.splitlines()[-1] == "# 4 runs: 4 to do"
    commands = [shlex.split(line) for line in told.splitlines() if not line.startswith("#")]
    assert len(commands) == 5
    folder = f"{workdir}/sweep/toy"
    assert commands[1][2:] == [
        *("experiments", "--stage=late", "--config=CONFIG.py:only"),
        *(
            "--config.early.target=2.0",
            "--config.late.target=0.0",
            "--config.late.seeds_per_input=2",
        ),
        *(f"--workdir={folder}/target0", f"--upstream={folder}/base"),
    ]
    # What is as the config has it is not repeated.
    assert commands[3][4:] == ["--config=CONFIG.py:only", f"--workdir={folder}/own"]
    sweeping.run_sweep(SWEEP, settings, Places(workdir), ["target4"])
    told = sweep_plan.tell(sweep_plan.plan(SWEEP, settings, Places(workdir)))
    assert told.splitlines()[-1] == "# 4 runs: 2 finished, 2 to do"


def test_single_runs_are_made_with_what_they_read_and_the_others_are_missing(tmp_path, settings):
    text = sweeping.run_sweep(SWEEP, settings, Places(tmp_path), ["target4"])
    assert "1 of 3 runs are finished. Missing: target0, own." in text
    message = "--runs: 'target5' given, allowed are base, target0, target4, own"
    with pytest.raises(ConfigError, match=message):
        sweeping.run_sweep(SWEEP, settings, Places(tmp_path), ["target5"])


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, settings):
    def runs(settings):
        good = toy_runs(settings)
        broken = dataclasses.replace(good[1], fields={**good[1].fields, "late.learning_rate": 1e30})
        return [good[0], broken, *good[2:]]

    broken = dataclasses.replace(SWEEP, runs=runs)
    with pytest.raises(UserError, match="^1 of 4 runs failed: target0: .*late"):
        sweeping.run_sweep(broken, settings, Places(tmp_path))
    assert StageDirectory(tmp_path / "sweep/toy/own", "late", 0).finished
    assert "Missing: target0" in (tmp_path / "report" / "toy.md").read_text()


def test_runs_that_read_one_that_failed_are_not_begun(tmp_path, settings, monkeypatch):
    def run(settings, stage, places):
        if str(places.workdir).endswith("base"):
            raise RuntimeError("out of\nmemory")
        original(settings, stage, places)

    original = running.run
    monkeypatch.setattr(running, "run", run)
    with pytest.raises(UserError) as caught:
        sweeping.run_sweep(SWEEP, settings, Places(tmp_path))
    assert str(caught.value) == (
        "3 of 4 runs failed: base: RuntimeError: out of memory;"
        " target0: reads base, which failed; target4: reads base, which failed"
    )
    assert StageDirectory(tmp_path / "sweep/toy/own", "late", 0).finished


def test_a_study_that_was_interrupted_goes_on_where_it_was(tmp_path, settings, monkeypatch):
    def run(settings, stage, places):
        if str(places.workdir).endswith("target4"):
            raise Interrupted(15)
        original(settings, stage, places)

    original = running.run
    with monkeypatch.context() as patch:
        patch.setattr(running, "run", run)
        with pytest.raises(Interrupted):
            sweeping.run_sweep(SWEEP, settings, Places(tmp_path))
    before = times(tmp_path)
    assert len(before) == 3
    sweeping.run_sweep(SWEEP, settings, Places(tmp_path))
    after = times(tmp_path)
    assert len(after) == 7 and after.items() >= before.items()


def test_what_a_run_only_reads_is_not_made_again_where_it_is_finished_elsewhere(tmp_path, settings):
    first, second = tmp_path / "first", tmp_path / "second"
    same = settings.updated("early", target=2.0)
    running.run(same, "early", Places(first))
    sweeping.run_sweep(SWEEP, settings, Places(second, (str(first),)))
    assert not (second / "sweep/toy/base").exists()
    assert (second / "sweep/toy/own/early").exists()
    planned = sweep_plan.plan(SWEEP, settings, Places(second, (str(first),)))
    assert planned[0].state_of_run() == sweep_plan.ELSEWHERE
    assert str(first) in planned[1].upstream


def test_what_is_measured_is_copied_from_where_it_is_finished(tmp_path, settings):
    first, second = tmp_path / "first", tmp_path / "second"
    one = settings.updated("early", num_seeds=1).updated("late", seeds_per_input=1)
    running.run(one, "early", Places(first))
    running.run(one, "late", Places(first))
    source = first / "late" / "seed_0"
    planned = sweep_plan.plan(SWEEP, settings, Places(second, (str(first),)))
    states = {item.run.name: item.state_of_run() for item in planned}
    assert states == {
        "base": sweep_plan.TO_DO,
        "target0": sweep_plan.TO_DO,
        "target4": sweep_plan.TO_DO,
        "own": sweep_plan.ELSEWHERE,
    }
    text = sweeping.run_sweep(SWEEP, settings, Places(second, (str(first),)), ["own"])
    own = second / "sweep/toy/own"
    assert [path.name for path in own.iterdir()] == ["late"]
    for path in (own / "late" / "seed_0").iterdir():
        assert path.read_bytes() == (source / path.name).read_bytes()
    assert "1 of 3 runs are finished." in text
    # A second time it is found where it was copied to.
    before = times(second)
    sweeping.run_sweep(SWEEP, settings, Places(second, (str(first),)), ["own"])
    assert times(second) == before
    (found,) = report.read_sweep(second, "toy").runs
    assert [seed.base for seed in found.seeds] == ["0"]


def test_what_was_measured_with_other_settings_is_not_copied(tmp_path, settings):
    first, second = tmp_path / "first", tmp_path / "second"
    other = settings.updated("early", num_seeds=1).updated("late", target=7.0, seeds_per_input=1)
    running.run(other, "early", Places(first))
    running.run(other, "late", Places(first))
    sweeping.run_sweep(SWEEP, settings, Places(second, (str(first),)), ["own"])
    config = StageDirectory(second / "sweep/toy/own", "late", 0).read_config()["config"]
    assert config["late"]["target"] != 7.0


def test_a_run_whose_earlier_stages_lie_elsewhere_was_made_with_the_settings_that_it_has(
    tmp_path, settings, monkeypatch
):
    """As in records: what they stand on is not looked for, what was measured tells its settings."""
    monkeypatch.setattr(sweep_plan, "sweep_named", lambda name: SWEEP)
    first, second = tmp_path / "first", tmp_path / "second"
    for stage in ("early", "late"):
        own = settings.updated("early", num_seeds=1).updated("late", seeds_per_input=1)
        running.run(own, stage, Places(first))
    sweeping.run_sweep(SWEEP, settings, Places(second, (str(first),)), ["own"])
    assert not sweep_plan.made_otherwise("toy", ["own"], settings, Places(second))
    other = settings.updated("late", target=7.0)
    (note,) = sweep_plan.made_otherwise("toy", ["own"], other, Places(second))
    assert note == "1 of 1 runs were made with other settings: own"


def test_a_missing_input_is_named_with_its_command_before_anything_is_made(tmp_path, settings):
    needy = dataclasses.replace(SWEEP, inputs=("early", "moon"))
    message = r"early/seed_0: not there .*--config.early.num_seeds=1 --workdir="
    with pytest.raises(StageMissingError, match=message):
        sweeping.run_sweep(needy, settings, Places(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_made_with_other_settings_is_refused(tmp_path, settings):
    sweeping.run_sweep(SWEEP, settings, Places(tmp_path), ["own"])
    other = settings.updated("late", target=7.0)
    with pytest.raises(UserError, match="late.target: 7.0 asked for, .* was made with 1.0"):
        sweeping.run_sweep(SWEEP, other, Places(tmp_path), ["own"])
    told = sweep_plan.tell(sweep_plan.plan(SWEEP, other, Places(tmp_path)))
    assert "# own: made with other settings" in told


def test_the_list_of_a_study_is_not_that_of_another_config(tmp_path, settings):
    """What has been measured is not told under other fields, nor forgotten, nor mixed."""
    sweeping.run_sweep(SWEEP, settings, Places(tmp_path), ["target0"])
    file = report.folder_of(tmp_path, "toy") / report.LIST
    before = file.read_bytes()

    def with_runs(change):
        return dataclasses.replace(SWEEP, runs=lambda settings: change(toy_runs(settings)))

    def renamed(runs):
        return [
            dataclasses.replace(run, fields={}) if run.name == "target0" else run for run in runs
        ]

    without = with_runs(lambda runs: [run for run in runs if run.name != "target0"])
    for other in (without, with_runs(renamed)):
        with pytest.raises(
            StageConflictError, match="toy holds the finished run target0, made with"
        ):
            sweeping.run_sweep(other, settings, Places(tmp_path))
    with pytest.raises(StageConflictError, match="late.learning_rate: 0.5 asked for"):
        sweeping.run_sweep(SWEEP, settings.updated("late", learning_rate=0.5), Places(tmp_path))
    assert file.read_bytes() == before
    # A run that has only been begun binds nobody.
    kept = with_runs(lambda runs: [run for run in runs if run.name != "own"])
    sweeping.run_sweep(kept, settings, Places(tmp_path), ["target4"])


def test_fields_of_a_study_that_the_config_does_not_have_are_named(settings):
    with pytest.raises(ConfigError, match="config.moon.size: no such section, allowed are early"):
        settings.with_fields({"moon.size": 1})
    with pytest.raises(ConfigError, match="config.late.size: unknown field"):
        settings.with_fields({"late.size": 1})


def test_seeds_multiply_along_the_stages():
    seeds = {"pretrain": 10, "metacontroller": 3, "internal_rl": 1}
    fields = sweep_plan.seed_fields(seeds)
    settings = Settings.read(gridworld.get_config("smoke"))
    settings = settings.with_fields(fields)
    assert [settings.num_seeds(stage) for stage in seeds] == [10, 30, 30]


def test_the_report_shows_the_studies_of_a_work_directory(tmp_path, settings, monkeypatch):
    sweeping.run_sweep(SWEEP, settings, Places(tmp_path), ["own"])
    for path in (tmp_path / "report").iterdir():
        path.unlink()
    run_report.write_report(tmp_path)
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"toy.md", "toy.csv", "toy.png", "table.md"} <= written
    assert "- Toys: [toy.md](toy.md)" in (tmp_path / "report" / "table.md").read_text()
    # A study that nobody knows here is named.
    monkeypatch.delitem(sweep._SWEEPS, "toy")
    assert "sweep/toy: left out" in "".join(run_report.gather(tmp_path).faults)
    with pytest.raises(StorageError, match="holds no stage of a run, nothing to report; sweep/toy"):
        run_report.write_report(tmp_path)


def test_the_base_model_of_every_run_is_written_down(tmp_path):
    settings = Settings.read(gridworld.get_config("smoke"))
    planned = sweep_plan.plan(sweep_named("rate_distortion"), settings, Places(tmp_path))
    many = {item.run.name: item for item in planned}
    frozen = many["frozen_alpha0.17"]
    three = {"pretrain": 1, "metacontroller": 3}
    own = tuple(f"cotrained_alpha0.17/cotrained/{seed}" for seed in range(3))
    for item, bases in ((frozen, ("0", "0", "0")), (many["cotrained_alpha0.17"], own)):
        item = dataclasses.replace(
            item,
            run=dataclasses.replace(item.run, seeds=three),
            settings=item.settings.with_fields(sweep_plan.seed_fields(three)),
        )
        assert sweep_plan.bases_of(item, planned) == bases


def test_a_base_model_has_the_name_of_the_run_that_makes_it(tmp_path):
    settings = Settings.read(gridworld.get_config("smoke"))

    def bases_of(study):
        planned = sweep_plan.plan(sweep_named(study), settings, Places(tmp_path))
        return {item.run.name: sweep_plan.bases_of(item, planned) for item in planned}

    assert bases_of("ablation_age")["depth2_age4"] == ("depth2_base/0",)
    selection = bases_of("selection")
    assert selection["discovered_alpha0.1_rate0.001"] == ("0",)
    # Trials with other rates read what the first one has trained.
    own = {base for name, base in selection.items() if name.startswith("cotrained")}
    assert own == {("cotrained_alpha0.1/cotrained/0",)}
    depths = bases_of("layer_by_depth")
    assert depths == {name: (f"{name}/0",) for name in ("depth1", "depth2")}
    finish(settings, tmp_path, "pretrain", lambda key: {"weight": jnp.ones(2)})
    assert bases_of("layer_by_depth") == {"depth1": ("depth1/0",), "depth2": ("0",)}


def test_the_commands_of_plans_are_known_to_the_project(tmp_path):
    settings, calls = Settings.read(gridworld.get_config("small")), []
    for study in ("ablation_age", "rate_distortion", "selection"):
        planned = sweep_plan.plan(sweep_named(study), settings, Places(tmp_path))
        for item in (planned[0], planned[-1]):
            calls += [call for text in item.commands() for call in scripts_in(text)]
    assert len(calls) == 6 and not faults_of(calls)


@pytest.mark.slow
@pytest.mark.parametrize("study", ["rate_distortion", "ablation_age"])
def test_a_study_of_the_grid_world_runs_from_its_base_model_to_its_figure(study, tmp_path):
    settings = Settings.read(gridworld.get_config("smoke"))
    if study == "rate_distortion":
        running.run(settings, "pretrain", Places(tmp_path))
    sweeping.run_sweep(sweep_named(study), settings, Places(tmp_path))
    assert (tmp_path / "report" / f"{study}.png").exists()
    results = report.read_sweep(tmp_path, study)
    assert results.runs and not results.missing
    table = sweep_named(study).table(results)
    values = [row[2] for row in table.rows]
    assert all(math.isfinite(value) for value in values)
    listed = json.loads((report.folder_of(tmp_path, study) / report.LIST).read_text())
    assert [run["name"] for run in listed["runs"]] == [run.name for run in results.runs]


@pytest.mark.parametrize("seeds", [{}, {"late": 2}, {"early": 2}, {"early": 2, "late": 3}])
def test_base_models_are_told_whatever_seeds_a_run_names(tmp_path, settings, seeds):
    runs = [Run("one", ("early", "late"), {"late.target": 3.0}, seeds, {"target": 3.0})]
    study = dataclasses.replace(SWEEP, runs=lambda settings: runs)
    (item,) = sweep_plan.plan(study, settings, Places(tmp_path))
    late, early = (item.settings.seeds_of(stage) for stage in ("late", "early"))
    assert len(early) == seeds.get("early", settings.num_seeds("early"))
    expected = tuple(f"one/{early[seed % len(early)]}" for seed in late)
    assert sweep_plan.bases_of(item, [item]) == expected
    # A run of the last stage alone stands on what the work directory has.
    runs[0] = dataclasses.replace(runs[0], stages=("late",))
    (item,) = sweep_plan.plan(study, settings, Places(tmp_path))
    assert sweep_plan.bases_of(item, [item]) == tuple(str(early[k % len(early)]) for k in late)
