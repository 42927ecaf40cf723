"""The runs of every study: how many, which seeds, what they share, whether their configs hold."""

import dataclasses
import functools
import math
import re

import pytest

from configs import ant, gridworld
from internal_rl.analysis.sweeps import ablation_age, rate_distortion, selection, sweep
from internal_rl.analysis.sweeps.sweep import (
    FinishedRun,
    SweepResults,
    all_sweeps,
    sweep_named,
    values_of,
)
from internal_rl.errors import ConfigError
from internal_rl.stages import sweep_plan
from internal_rl.stages.places import Places
from internal_rl.stages.settings import PRESETS, Settings
from tests.analysis.sweeps import made_up
from tests.training.test_loop import ROOT

CONFIGS = {"gridworld": gridworld, "ant": ant}
STUDIES = (
    *("ablation_age", "ablation_noise", "ablation_observation_loss", "ablation_weight_decay"),
    *("layer_by_depth", "rate_distortion", "selection"),
)


@functools.cache
def settings_of(world, preset):
    """Settings of a preset; some worlds take seconds to draw."""
    return Settings.read(CONFIGS[world].get_config(preset))


def runs_of(study, world="gridworld", preset="paper"):
    return sweep_named(study).runs(settings_of(world, preset))


def test_all_studies_are_found_by_name():
    assert set(STUDIES) <= set(all_sweeps())
    with pytest.raises(ConfigError, match="--study: 'moon' given, allowed are ablation_age, "):
        sweep_named("moon")
    with pytest.raises(ConfigError, match="--study: not given, allowed are"):
        sweep_named(None)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("study", STUDIES)
def test_runs_have_names_of_their_own_and_read_what_comes_before_them(study, preset):
    before = set()
    for run in runs_of(study, preset=preset):
        assert run.name not in before
        assert set(run.reads) <= before
        assert run.stages and run.seeds
        before.add(run.name)


@pytest.mark.parametrize("world", sorted(CONFIGS))
@pytest.mark.parametrize("preset", PRESETS)
def test_every_run_fits_to_its_config(world, preset, tmp_path):
    for study in STUDIES:
        if (study, world) == ("ablation_noise", "ant"):
            continue
        planned = sweep_plan.plan(
            sweep_named(study), settings_of(world, preset), Places(tmp_path / "run")
        )
        for item in planned:
            section = item.settings.metacontroller
            assert section.alpha_start <= section.alpha
            assert section.layer <= item.settings.base.depth


def seeds_of(run):
    """Of the last stage: the number of seeds per input, times that of the inputs."""
    fields = sweep_plan.seed_fields(run.seeds)
    assert list(fields)[0] == "pretrain.num_seeds"
    assert set(list(fields)[1:]) == {f"{stage}.seeds_per_input" for stage in list(run.seeds)[1:]}
    return math.prod(fields.values())


@pytest.mark.parametrize(
    ("study", "count", "measured", "seeds"),
    [
        ("ablation_weight_decay", 10, 10, 10),
        ("ablation_observation_loss", 8, 8, 10),
        ("ablation_noise", 8, 8, 10),
        # Three base models of depths 4, 6 and 8; four snapshots and the end of each.
        ("ablation_age", 18, 15, 10),
        ("layer_by_depth", 3, 3, 5),
        ("rate_distortion", 7 * len(rate_distortion.ARMS), 7 * len(rate_distortion.ARMS), 10),
    ],
)
def test_studies_at_paper_size_have_their_numbers_of_runs_and_seeds(study, count, measured, seeds):
    runs = runs_of(study)
    labelled = [run for run in runs if run.labels]
    assert (len(runs), len(labelled)) == (count, measured)
    for run in labelled:
        assert seeds_of(run) == seeds


def test_rate_and_distortion_share_one_base_model_and_gates_of_the_world():
    runs = runs_of("rate_distortion")
    assert all(sweep_plan.seed_fields(run.seeds)["pretrain.num_seeds"] == 1 for run in runs)
    assert {run.fields["metacontroller.gate"] for run in runs} == {"gumbel"}
    on_ant = runs_of("rate_distortion", world="ant")
    assert {run.fields["metacontroller.gate"] for run in on_ant} == {"sigmoid"}


def test_ages_are_the_snapshots_and_the_end():
    settings = settings_of("gridworld", "paper")
    assert ablation_age.ages_of(settings) == (16_000, 32_000, 64_000, 128_000)
    smoke = settings_of("gridworld", "smoke")
    assert ablation_age.ages_of(smoke) == (4,)
    assert ablation_age.ages_of(smoke.updated("pretrain", snapshot_steps=())) == (2, 4)
    shorter = settings.updated("pretrain", steps=64_000)
    assert ablation_age.ages_of(shorter) == (16_000, 32_000)
    names = [run.name for run in ablation_age.runs(shorter)]
    assert len(set(names)) == len(names)
    four = [run for run in runs_of("ablation_age") if run.name.startswith("depth4_age")]
    assert [run.fields["steer.base_step"] for run in four] == [16_000, 32_000, 64_000, 128_000, 0]
    assert {run.reads for run in four} == {("depth4_base",)}
    assert four[-1].labels[ablation_age.LABEL] == 256_000


def test_the_noise_of_datasets_that_are_collected_cannot_be_changed(tmp_path):
    with pytest.raises(ConfigError, match="--study=ablation_noise: data.epsilon: .*'gridworld-pin"):
        sweep_plan.plan(
            sweep_named("ablation_noise"), settings_of("ant", "smoke"), Places(tmp_path)
        )


@pytest.mark.parametrize("preset", PRESETS)
def test_every_method_is_tried_equally_often(preset):
    trials = selection.VALUES[preset].trials
    found = {}
    for run in runs_of("selection", preset=preset):
        if run.labels:
            found.setdefault(run.labels["method"], []).append(run)
    assert {"discovered", "forced", "unaligned", "compile", "raw_actions"} <= set(found)
    assert {len(runs) for runs in found.values()} == {trials}
    for runs in found.values():
        assert len({tuple(run.fields.items()) for run in runs}) == trials


def test_trials_are_drawn_from_the_whole_grid_and_more_hold_those_of_fewer():
    values = selection.VALUES["paper"]
    way = next(
        way
        for way in selection.ways(values, settings_of("gridworld", "paper"))
        if way.name == "compile"
    )
    assert len(way.combinations(values.rates)) == 6 * 6 * 2 * 5
    drawn = selection.trials_of(way, values)
    fewer = selection.trials_of(way, dataclasses.replace(values, trials=5))
    assert drawn[:5] == fewer and set(drawn) <= set(way.combinations(values.rates))


def test_rates_of_raw_actions_are_refined_until_there_are_enough():
    assert selection.between((1e-4, 1e-2)) == [1e-4, 1e-3, 1e-2]
    rates = [run.labels["rate"] for run in runs_of("selection") if "raw" in run.name]
    assert len(set(rates)) == 15 and min(rates) >= 3e-6 and max(rates) <= 3e-4


def test_all_trials_of_a_setting_read_one_discovery_and_stand_on_thirty_runs():
    runs = {run.name: run for run in runs_of("selection")}
    for run in runs.values():
        if not run.labels:
            continue
        assert seeds_of(run) == 30
        for name in run.reads:
            assert runs[name].fields.items() <= run.fields.items()
    discoveries = [run for run in runs.values() if not run.labels]
    assert len({tuple(run.fields.items()) for run in discoveries}) == len(discoveries)


def test_a_rate_that_falls_does_so_by_the_factor_of_the_config():
    settings = settings_of("ant", "small")
    section = settings.internal_rl
    factor = section.final_learning_rate / section.learning_rate
    for run in sweep_named("selection").runs(settings):
        if run.stages == ("internal_rl",):
            rate, final = (run.fields[f"internal_rl.{x}learning_rate"] for x in ("", "final_"))
            assert final == pytest.approx(rate * factor)


def test_presets_of_other_names_take_the_values_of_small():
    settings = settings_of("gridworld", "smoke")
    other = dataclasses.replace(settings, preset="castle")
    assert values_of(selection.VALUES, other) == selection.VALUES["small"]


def test_a_world_may_have_values_of_its_own():
    values = {"small": 1, "paper": 2, "ant-pinpad/small": 3}
    found = {
        (world, preset): values_of(values, settings_of(world, preset))
        for world in CONFIGS
        for preset in PRESETS
    }
    assert found == {
        **{("gridworld", preset): 2 if preset == "paper" else 1 for preset in PRESETS},
        **{("ant", "smoke"): 3, ("ant", "small"): 3, ("ant", "paper"): 2},
    }
    mine = {
        world: values_of(values, dataclasses.replace(settings_of(world, "small"), preset="mine"))
        for world in CONFIGS
    }
    assert mine == {"gridworld": 1, "ant": 3}


@pytest.mark.parametrize("world", sorted(CONFIGS))
@pytest.mark.parametrize("study", STUDIES)
def test_what_a_small_config_has_is_among_what_its_studies_try(study, world):
    if (study, world) == ("ablation_noise", "ant"):
        pytest.skip("its trajectories are collected beforehand")
    settings = settings_of(world, "small")

    def as_configured(run):
        return all(
            getattr(settings.sections[section], name) == value
            for field, value in run.fields.items()
            for section, _, name in [field.partition(".")]
            # The arm and the gate belong to the study.
            if name not in ("variant", "gate", "snapshot_steps")
        )

    measured = [run for run in sweep_named(study).runs(settings) if run.labels]
    assert any(map(as_configured, measured))


def test_studies_of_the_tutorial_are_known_once_they_are_registered(monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "_SWEEPS", dict(all_sweeps()))
    text = (ROOT / "docs/tutorials/sweeps.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names = {}
    exec("\n".join(blocks), names)
    places = Places(tmp_path)
    settings = settings_of("gridworld", "smoke")
    planned = sweep_plan.plan(sweep_named("code_size"), settings, places)
    assert [item.settings.metacontroller.code_size for item in planned] == [2, 4, 8]
    assert planned[0].settings.seeds_of("metacontroller") == (0, 1, 2)
    assert len(sweep_plan.plan(sweep_named("two_alphas"), settings, places)) == 4
    seeds = [made_up.seed_results(seed, artifacts={"f1": 0.1 * seed}) for seed in range(3)]
    results = SweepResults([FinishedRun("size2", {"size": 2}, {}, seeds)])
    ((size, told),) = names["table"](results).rows
    assert size == 2
    assert (told.median, told.lower, told.upper) == pytest.approx((0.1, 0.05, 0.15))
    assert names["figures"](results)["code_size"].axes[0].get_lines()


@pytest.mark.parametrize(
    "study", [name for name in STUDIES if name not in ("rate_distortion", "selection")]
)
def test_studies_of_supervised_controllers_need_a_world_that_tells_subgoals(study):
    settings = settings_of("gridworld", "smoke")
    assert sweep_plan.runs_of(sweep_named(study), settings)
    silent = dataclasses.replace(settings, world=object())
    with pytest.raises(ValueError, match="tells no subgoals, allowed for the stage steer are worl"):
        sweep_plan.runs_of(sweep_named(study), silent)
