"""A whole run with the studies over several runs."""

import json

import pytest

from configs import ant, gridworld
from internal_rl.analysis.sweeps.sweep import sweep_named
from internal_rl.errors import ConfigError, UserError
from internal_rl.stages import reproducing, running
from internal_rl.stages.catalogue import whole_run
from internal_rl.stages.origin import missing_stages
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings

OF_THE_METHOD = {
    *("ablation_age", "ablation_weight_decay", "ablation_observation_loss", "ablation_noise"),
    *("layer_by_depth", "rate_distortion"),
}


@pytest.fixture(scope="module")
def grid():
    return Settings.read(gridworld.get_config("smoke"))


@pytest.fixture(scope="module")
def legs():
    return Settings.read(ant.get_config("smoke"))


def names(sweeps):
    return {sweep.name for sweep in sweeps}


def test_all_studies_of_the_method_are_made_that_a_world_allows(grid, legs):
    assert names(reproducing.chosen_sweeps(grid)) == OF_THE_METHOD
    assert names(reproducing.chosen_sweeps(legs)) == OF_THE_METHOD - {"ablation_noise"}


def test_studies_are_made_that_are_asked_for(grid, legs):
    assert names(reproducing.chosen_sweeps(grid, ["selection", "gates"])) == {"selection"}
    assert not reproducing.chosen_sweeps(grid, ["gates"])
    with pytest.raises(ConfigError, match="--only=ablation_noise: .*gridworld-pinpad"):
        reproducing.chosen_sweeps(legs, ["ablation_noise"])


def test_stages_that_a_study_reads_are_made_before(grid, legs):
    needed = running.needed_stages
    # A study within a run has this name too, and looks at every metacontroller.
    shown = {f"metacontroller{name}" for name in ("", "_forced", "_unaligned", "_cotrained")}
    assert needed(legs, ["rate_distortion"]) == {"expert", "collect", "pretrain", *shown}
    assert needed(legs, ["ablation_weight_decay"]) == {"expert", "collect"}
    assert needed(grid, ["rate_distortion"]) == {"pretrain", *shown}
    # Its own runs make the metacontrollers.
    assert needed(grid, ["selection"]) == {"pretrain"}
    assert needed(grid, ["selection", "probe"]) >= {"pretrain", "probe"}


def test_a_study_that_fails_does_not_stop_the_others(grid, tmp_path, monkeypatch):
    done = []

    def run_sweep(sweep, settings, places):
        done.append(sweep.name)
        if sweep.name == "layer_by_depth":
            raise UserError("1 of 2 runs failed: depth3: no space")

    monkeypatch.setattr(reproducing, "run_sweep", run_sweep)
    monkeypatch.setattr(
        reproducing.running, "run_all", lambda *given: done.append(given[-1]) or frozenset()
    )
    monkeypatch.setattr(reproducing.running, "report", lambda *_, **__: done.append("report"))
    with pytest.raises(UserError, match="study layer_by_depth: 1 of 2 runs failed"):
        reproducing.reproduce(grid, Places(tmp_path), ["layer_by_depth", "rate_distortion"])
    only = ["layer_by_depth", "rate_distortion"]
    assert done == [only, "layer_by_depth", "rate_distortion", "report"]
    done.clear()
    reproducing.reproduce(grid, Places(tmp_path), ["rate_distortion"], with_sweeps=False)
    assert done == [["rate_distortion"]]


def test_a_study_over_runs_is_not_asked_for_and_left_out_at_once(grid, tmp_path):
    with pytest.raises(ConfigError, match="--only: layer_by_depth given with --nosweeps"):
        only = ["layer_by_depth", "rate_distortion"]
        reproducing.reproduce(grid, Places(tmp_path / "run"), only, with_sweeps=False)
    assert not (tmp_path / "run").exists()


def test_a_whole_run_that_is_finished_elsewhere_reports_nothing(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "finished_upstream", lambda *_: True)
    monkeypatch.setattr(running, "report", lambda *_, **__: pytest.fail("nothing lies there"))
    running.run_all(grid, Places(tmp_path / "run", (str(tmp_path),)))
    assert not (tmp_path / "run").exists()


def test_unknown_studies_are_refused_before_anything_is_made(grid, tmp_path):
    with pytest.raises(ConfigError, match="--only: 'moon' given, allowed are"):
        reproducing.reproduce(grid, Places(tmp_path / "run"), ["moon"])
    assert not (tmp_path / "run").exists()


SELECTED = {
    "discovered": {"metacontroller.alpha": 0.3, "internal_rl.learning_rate": 2e-3},
    "forced": {"metacontroller.alpha": 0.7, "metacontroller.variant": "unaligned"},
    "compile": {"compile.temperature": 0.5, "internal_rl.codes": "metacontroller"},
    "raw_actions": {"raw_rl.learning_rate": 4e-3},
}


def test_a_whole_run_makes_every_method_with_the_settings_selected_for_it(grid, tmp_path):
    def made(settings):
        return {
            chosen.folder_of(stage): chosen.stage_config(stage).values
            for stage, chosen in whole_run(settings)
        }

    before, after = made(grid), made(grid.with_selected(SELECTED))
    # What a file says of the method itself does not turn it into another one.
    assert list(after) == list(before)
    assert after["metacontroller"]["metacontroller"]["alpha"] == 0.3
    assert after["internal_rl"]["metacontroller"]["alpha"] == 0.3
    assert after["internal_rl"]["internal_rl"]["learning_rate"] == 2e-3
    assert after["metacontroller_forced"]["metacontroller"]["alpha"] == 0.7
    assert after["internal_rl_compile"]["compile"]["temperature"] == 0.5
    assert after["raw_rl"]["raw_rl"]["learning_rate"] == 4e-3
    changed = {folder for folder in before if before[folder] != after[folder]}
    methods = ("metacontroller", "internal_rl")
    assert changed == {
        *methods,
        *(f"{stage}_forced" for stage in methods),
        *("compile", "internal_rl_compile", "raw_rl"),
    }
    # The page tells the commands with these settings.
    lacking = missing_stages(grid.with_selected(SELECTED), Places(tmp_path))
    command = next(x.command for x in lacking if x.stage == "internal_rl_forced")
    assert "--config.metacontroller.alpha=0.7" in command
    assert "--config.metacontroller.variant=forced" in command


@pytest.mark.parametrize("config", [gridworld, ant])
def test_what_a_selection_finds_is_what_a_whole_run_takes(config):
    settings = Settings.read(config.get_config("smoke"))
    by_method = {
        run.labels["method"]: run.fields
        for run in sweep_named("selection").runs(settings)
        if run.labels
    }
    chosen = settings.with_selected(json.loads(json.dumps(by_method)))
    made = {chosen.folder_of(stage): chosen for stage, chosen in whole_run(chosen)}
    for method, folder in (
        *(("discovered", "internal_rl"), ("compile", "internal_rl_compile")),
        *((name, f"internal_rl_{name}") for name in ("forced", "unaligned", "cotrained")),
        ("raw_actions", "raw_rl"),
    ):
        for field, value in by_method[method].items():
            section, _, name = field.partition(".")
            assert getattr(made[folder].sections[section], name) == value, (method, field)
    assert len(by_method) == 6


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory; allowed is report/selection.json"),
        ("{", "cannot be read as JSON; allowed is"),
        ("[1]", "holds no fields by method; allowed is"),
        ({"moon": {}}, "method 'moon' is unknown, allowed are discovered"),
        ({"forced": 3}, "forced: 3 given, allowed are fields"),
        ({"forced": {"raw_rl.steps": 3}}, "'raw_rl.steps' given, allowed are fields of metacon"),
        ({"forced": {"metacontroller.moon": 3}}, "forced: config.metacontroller.moon: unknown"),
        ({"forced": {"metacontroller": 3}}, "forced: config.metacontroller"),
        ({"forced": {"metacontroller.alpha": "much"}}, "forced: config.metacontroller.alpha: 'mu"),
        ({"raw_actions": {"raw_rl.learning_rate": -1.0}}, "config.raw_rl.learning_rate: -1"),
    ],
)
def test_a_selection_that_cannot_be_taken_is_refused(grid, tmp_path, content, problem):
    file = tmp_path / "selection.json"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match="--selected") as caught:
        grid.with_selected(reproducing.read_selected(str(file)))
    assert problem in str(caught.value)
