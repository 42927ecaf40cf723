"""A method from outside is one file and one line: its stage trains, reports and is checked."""

import dataclasses
import functools
import json
import logging
from typing import ClassVar

import chex
import jax
import numpy as np
import pytest

import internal_rl as irl
from configs import gridworld
from internal_rl.acting.episodes import NoControl
from internal_rl.analysis import study as study_module
from internal_rl.analysis.study import all_studies
from internal_rl.checksums import write_checked_json
from internal_rl.errors import ConfigError, StageConflictError, StageMissingError
from internal_rl.methods import discovery, internal_rl
from internal_rl.methods.code_finding import CODE_STAGES
from internal_rl.methods.reinforcement.trainer import POLICY_STAGES
from internal_rl.section import Section, at_least, setting
from internal_rl.stages import catalogue, run_stages, settings, trained
from internal_rl.stages.running import needed_stages
from internal_rl.stages.settings import Settings, make_config
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_stage
from tests.stages.own_method import STAGE


@pytest.fixture
def register():
    """`register_stage`, for one test."""
    lists = (POLICY_STAGES, CODE_STAGES)
    stages, before = dict(catalogue.STAGES), [list(names) for names in lists]
    yield catalogue.register_stage
    catalogue.STAGES.clear()
    catalogue.STAGES.update(stages)
    for names, old in zip(lists, before, strict=True):
        names[:] = old


def named(spec, name):
    """A stage by another name."""
    own = (name if section == spec.name else section for section in spec.depends_on)
    return dataclasses.replace(spec, name=name, depends_on=tuple(own))


@pytest.fixture
def config(register):
    register(STAGE)
    return gridworld.get_config("smoke")


def test_a_method_from_outside_trains_as_a_stage(config, tmp_path):
    run_stages(config, tmp_path, ["scratch_rl"])
    lines = read_metrics(tmp_path / "scratch_rl" / "seed_0")
    assert lines[-1]["step"] == 8 and "evaluation/success" in lines[-1]
    params, stored = load_stage(tmp_path, "scratch_rl", 0)
    assert "embedding" in params["params"]
    assert sorted(stored) == ["base", "environment", "scratch_rl"]


def test_its_section_is_checked_and_a_whole_run_ends_with_it(config):
    stages = [name for name, _ in catalogue.whole_run(Settings.read(config))]
    assert stages[-1] == "scratch_rl"
    config.scratch_rl.clip = -1.0
    with pytest.raises(ConfigError, match="config.scratch_rl.clip: -1.0 given, allowed is above 0"):
        Settings.read(config)


def test_a_policy_from_outside_is_measured_and_drawn_as_the_others_are(config, tmp_path, register):
    register(STAGE)
    assert POLICY_STAGES == ["internal_rl", "raw_rl", "scratch_rl"]
    run_stages(config, tmp_path, ["scratch_rl", "report"])
    rows = irl.studies.table(tmp_path).rows
    told = {row.key: row for row in rows if row.key.startswith("scratch_rl")}
    assert told["scratch_rl_success"].label == "scratch_rl, success on the task"
    assert told["scratch_rl_episodes"].values == (8 * 16,)
    assert (tmp_path / "report/reinforcement_learning.png").stat().st_size > 1_000
    lines = irl.curves(tmp_path, "scratch_rl")
    assert lines["episodes"].tolist() == (16 * lines["step"]).tolist()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnCodes(discovery.Config):
    """Section `own_codes`: the metacontroller by another name."""

    stage: ClassVar[str] = "own_codes"


CODES = catalogue.StageSpec(
    "own_codes",
    OwnCodes,
    make=functools.partial(trained.make_code_finder, "own_codes", discovery.CodeDiscovery),
    depends_on=(*catalogue.STAGES["pretrain"].depends_on, "own_codes"),
    input="pretrain",
    like="metacontroller",
)


def test_codes_from_outside_are_what_a_policy_chooses_among(tmp_path, register, monkeypatch):
    # Those whose results are looked for below: the others take a minute to compile.
    few = [study for study in all_studies() if study.name in ("switching", "gates")]
    monkeypatch.setattr(study_module, "all_studies", lambda: few)
    register(CODES)
    config = gridworld.get_config("smoke")
    assert config.own_codes == config.metacontroller
    for stage in ("pretrain", "own_codes", "internal_rl"):
        config[stage].update({"steps": 2, "log_every": 2, "checkpoint_every": 2})
        config[stage].evaluate_every = 0
    config.internal_rl.codes = "own_code"
    with pytest.raises(ConfigError, match="codes: 'own_code' .* metacontroller, compile, own_c"):
        run_stages(config, tmp_path, ["pretrain"])
    config.internal_rl.codes = "own_codes"
    run_stages(config, tmp_path, ["pretrain", "own_codes", "internal_rl", "report"])
    assert "own_codes_switching_f1" in irl.studies.table(tmp_path).as_dict()
    assert (tmp_path / "report/gates_own_codes.png").stat().st_size > 1_000
    folder = StageDirectory(tmp_path, "internal_rl_own_codes", 0)
    assert folder.read_config()["reads"] == {"own_codes": 0, "pretrain": 0}

    agent = irl.load(tmp_path, variant="own_codes", policy=True)
    plain = irl.load(tmp_path, variant="own_codes")
    assert plain.policy is None
    chex.assert_trees_all_equal(agent.model, plain.model)
    params = load_stage(tmp_path, "internal_rl_own_codes", 0)[0]
    section = internal_rl.Config.read(folder.read_config()["config"]["internal_rl"])
    method = internal_rl.InternalRL(section, agent.world, agent.model)
    key = jax.random.key(3)
    trained_with = jax.jit(
        lambda params: method.rollout(params, agent.model, key, 8, keep=("action",))
    )(params)
    found = agent.rollout(8, key, keep=("action",))
    np.testing.assert_array_equal(found.action, trained_with.action)
    np.testing.assert_allclose(found.record["code"], trained_with.record["code"], atol=1e-6)
    assert set(agent.rollout(8, key, control=NoControl()).record) == set()
    told = folder.path / "config.json"
    stored = json.loads(told.read_text())
    stored["parameters_read"]["own_codes"] = "0" * 64
    write_checked_json(told, stored)
    with pytest.raises(StageConflictError, match="made with other parameters of own_codes than"):
        irl.load(tmp_path, variant="own_codes", policy=True)
    with pytest.raises(StageMissingError, match="internal_rl .*internal_rl.codes=c"):
        irl.load(tmp_path, variant="compile", policy=True)


def folders(config):
    return [chosen.folder_of(stage) for stage, chosen in catalogue.whole_run(config)]


def test_a_whole_run_trains_a_policy_on_codes_from_outside(register):
    register(CODES)
    register(STAGE)
    config = gridworld.get_config("smoke")
    grid = Settings.read(config)
    assert folders(grid)[-3:] == ["own_codes", "internal_rl_own_codes", "scratch_rl"]
    assert len(set(folders(grid))) == len(folders(grid))
    assert needed_stages(grid, ["codes"]) >= {"pretrain", "compile", "own_codes"}
    selected = {"own_codes.alpha": 0.3, "internal_rl.learning_rate": 2e-3}
    made = {
        chosen.folder_of(stage): chosen.stage_config(stage).values
        for stage, chosen in catalogue.whole_run(grid.with_selected({"own_codes": selected}))
    }
    assert made["own_codes"]["own_codes"]["alpha"] == 0.3
    assert made["internal_rl_own_codes"]["own_codes"]["alpha"] == 0.3
    assert made["internal_rl_own_codes"]["internal_rl"]["learning_rate"] == 2e-3
    assert made["internal_rl"]["internal_rl"]["learning_rate"] == grid.internal_rl.learning_rate
    without = {name: section for name, section in config.to_dict().items() if name != "internal_rl"}
    assert folders(Settings.read(without))[-2:] == ["own_codes", "scratch_rl"]


def test_variants_of_codes_from_outside_have_policies_of_their_own(register):
    def of_ranks(chosen):
        return [chosen.updated("own_codes", rank=rank) for rank in (1, 2)]

    def folder(chosen, name):
        return f"{name}_rank{chosen.own_codes.rank}"

    register(dataclasses.replace(CODES, variants=of_ranks, folder=folder))
    assert folders(Settings.read(gridworld.get_config("smoke")))[-4:] == [
        *("own_codes_rank1", "internal_rl_own_codes_rank1"),
        *("own_codes_rank2", "internal_rl_own_codes_rank2"),
    ]


def test_studies_of_codes_look_at_those_from_outside(register):
    def looking(stage):
        return {study.name for study in all_studies() if study.looks_at(stage)}

    assert not looking("own_codes")
    register(CODES)
    assert looking("own_codes") == looking("metacontroller") - {"rate_distortion"}
    assert {"switching", "codes", "injection", "encoder_injection"} < looking("own_codes")
    # Another stage by that name takes its place.
    register(named(STAGE, "own_codes"))
    assert looking("own_codes") == {"learning"}


@pytest.mark.parametrize("preset", ["small", "smoke"])
def test_presets_reach_a_stage_that_is_like_another_one(register, preset):
    register(STAGE)
    config = gridworld.get_config(preset)
    shared = [name for name in config.scratch_rl if name in config.raw_rl]
    assert {name: config.scratch_rl[name] for name in shared} == {
        name: config.raw_rl[name] for name in shared
    }
    assert config.scratch_rl.steps < STAGE.section().steps


def test_what_presets_say_of_a_stage_itself_comes_before_what_they_say_of_another(register):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Longer(STAGE.section):
        num_epochs: int = setting(9, at_least(1))

    register(dataclasses.replace(STAGE, section=Longer))
    overlays = {
        "paper": {"raw_rl": {"clip": 0.3, "steps": 200}},
        "smoke": {"scratch_rl": {"log_every": 1}, "raw_rl": {"seeds_per_input": 2}},
    }
    config = make_config("gridworld-pinpad", "smoke", overlays)
    # Of the paper's overlay, of the size, of the preset, and of the section where none says it.
    found = config.scratch_rl
    assert (found.clip, found.steps, found.log_every, found.num_epochs) == (0.3, 8, 1, 9)
    assert config.raw_rl.log_every == 2 and "seeds_per_input" not in found


def test_a_stage_that_no_preset_reaches_is_told_once(register, caplog):
    settings._tell_default.cache_clear()
    plain = dataclasses.replace(STAGE, like="")
    register(plain)
    with caplog.at_level(logging.WARNING):
        config = gridworld.get_config("small")
        gridworld.get_config("small")
    (line,) = [x.getMessage() for x in caplog.records if "scratch_rl" in x.getMessage()]
    assert line.startswith("config.scratch_rl: no preset sets any of its fields, all have the def")
    assert config.scratch_rl.to_dict() == plain.section().as_dict()
    caplog.clear()
    settings._tell_default.cache_clear()
    overlays = {"small": {"scratch_rl": {"steps": 400}}}
    make_config("gridworld-pinpad", "small", overlays)
    register(STAGE)
    gridworld.get_config("small")
    assert "scratch_rl" not in caplog.text


@pytest.mark.parametrize(
    ("spec", "name", "message"),
    [
        (STAGE, "probe_x", "stage: 'probe_x' given, allowed beside the stage probe is a name such"),
        (CODES, "metacontroller_x", "'metacontroller_x' given, .* beside the stage metacontroller"),
        (STAGE, "internal", "stage: 'internal' given, allowed beside the stage internal_rl is"),
        (CODES, "forced", "'forced' given, allowed for codes .* discovered, forced, .*_rl_forced"),
        (STAGE, "report", "stage: 'report' given, allowed is any other name than data, base, env"),
        (STAGE, "data", "stage: 'data' given, allowed is any other name than data, base, env"),
    ],
)
def test_names_whose_folders_would_be_those_of_something_else_are_refused(
    register, spec, name, message
):
    before = dict(catalogue.STAGES)
    with pytest.raises(ValueError, match=message):
        register(named(spec, name))
    assert before == catalogue.STAGES


def test_names_that_only_resemble_others_are_allowed(register):
    for spec, name in ((STAGE, "forced"), (STAGE, "prober"), (CODES, "codes"), (CODES, "codes")):
        register(named(spec, name))
    assert {"forced", "prober", "codes"} < set(catalogue.STAGES)


def test_a_stage_can_be_like_a_stage_of_the_package_alone(register):
    with pytest.raises(ValueError, match="stage scratch_rl: like is 'raw', allowed are expert, "):
        register(dataclasses.replace(STAGE, like="raw"))


def test_a_stage_depends_on_its_own_section(register, config):
    for others in ((), ("environment", "base")):
        with pytest.raises(ValueError, match="scratch_rl: depends_on is .* with 'scratch_rl', its"):
            register(dataclasses.replace(STAGE, depends_on=others))
    register(dataclasses.replace(STAGE, depends_on=lambda settings: ("environment", "base")))
    with pytest.raises(ConfigError, match="scratch_rl: depends_on gives .* with 'scratch_rl', its"):
        Settings.read(config).stage_config("scratch_rl")


def test_a_stage_with_an_input_counts_seeds_for_each_of_its_seeds(register):
    with pytest.raises(ValueError, match="stage scratch_rl: section is Section, allowed for a"):
        register(dataclasses.replace(STAGE, input="pretrain", section=Section))
