"""Configs as typed settings: presets, what fits together, and what a stage depends on."""

import dataclasses
import functools
import json
import pathlib
from unittest import mock

import pytest
from ml_collections import ConfigDict

from configs import ant, gridworld
from internal_rl.envs import world as worlds
from internal_rl.errors import ConfigError
from internal_rl.experts import grid_data
from internal_rl.methods.code_finding import CODE_STAGES, CodeFindingSettings
from internal_rl.methods.reinforcement import trainer
from internal_rl.section import Section, at_least, setting
from internal_rl.stages import catalogue, checks
from internal_rl.stages.catalogue import StageSpec
from internal_rl.stages.checks import check_settings
from internal_rl.stages.limits import check_memory
from internal_rl.stages.settings import PRESETS, Settings, make_config
from internal_rl.training.stage_config import StageConfig
from tests.stages import toy_run

CONFIGS = {"gridworld": gridworld, "ant": ant}
# Stages that read the sections without a stage of their own.
READER = {"environment": "pretrain", "data": "pretrain", "base": "pretrain"}
# Presets that do not do what they did before: what runs were made with is asked for by name.
CHANGED = (
    {(world, "paper", "environment", "solvable_only"): True for world in CONFIGS}
    | {
        (world, preset, "compile", f"weight_{phase}_steps"): 0
        for world in CONFIGS
        for preset in PRESETS
        for phase in ("free", "ramp")
    }
    | {
        ("ant", preset, stage, "source_steps"): 0
        for preset in PRESETS
        for stage in ("metacontroller", "compile")
    }
    # Rates of reinforcement learning fell four times as fast as they were told to.
    | {("ant", "small", "internal_rl", "decay_steps"): 0}
)
GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden_configs.json").read_text())


def check(config):
    settings = Settings.read(config)
    check_settings(settings)
    return settings


@functools.cache
def preset_settings(world, preset):
    """The settings of a preset; some worlds take seconds to draw."""
    return check(CONFIGS[world].get_config(preset))


def without_tuples(value):
    return json.loads(json.dumps(value))


def without_seeds(fields):
    """The fields of a section but for the number of its seeds."""
    if not isinstance(fields, dict):
        return fields
    return {name: value for name, value in fields.items() if name != "num_seeds"}


def historical(settings):
    """What fields mean that older configs lack, by section."""
    stages = [name for name in settings.sections if name not in ("data", "base")]
    values = {}
    for stage in stages:
        values |= settings.stage_config(stage).historical
    return without_tuples(values)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("world", sorted(CONFIGS))
def test_presets_hold_the_values_that_shipped_runs_were_made_with(world, preset):
    config = CONFIGS[world].get_config(preset)
    settings = preset_settings(world, preset)
    found, golden = without_tuples(config.to_dict()), GOLDEN[world][preset]
    # How results are computed, not what.
    assert found.pop("precision") == "auto"
    assert set(found) == set(golden)
    for section, fields in golden.items():
        # Which seeds there are decides nothing of what one of them finds.
        fields = without_seeds(fields)
        if not isinstance(fields, dict) or section == "quickstart":
            assert found[section] == fields
            continue
        assert {name: found[section].get(name) for name in fields} == fields, section
        # Whatever has been added since means what it meant before, where anything reads it.
        read = settings.stage_config(READER.get(section, section)).values[section]
        for name in read.keys() - fields.keys():
            if (world, preset, section, name) in CHANGED:
                continue
            assert found[section][name] == historical(settings)[section][name], (section, name)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("world", sorted(CONFIGS))
def test_a_directory_made_before_a_field_was_added_is_still_valid(world, preset):
    config = CONFIGS[world].get_config(preset)
    for (*which, section, name), before in CHANGED.items():
        if which == [world, preset]:
            config[section][name] = before
    settings = check(config)
    golden = GOLDEN[world][preset]
    for stage in settings.sections:
        if stage in ("data", "base"):
            continue
        config = settings.stage_config(stage)
        stored = {name: without_seeds(golden[name]) for name in config.values}
        assert config.check(stored, "x") is False


def test_settings_of_one_environment_share_their_world():
    """And so what is compiled for it: the runs of a study differ in other fields."""
    settings = preset_settings("gridworld", "smoke")
    assert settings.with_fields({"metacontroller.alpha": 0.3}).world is settings.world
    config = CONFIGS["gridworld"].get_config("smoke")
    config.environment.time_limit += 1
    longer = check(config)
    assert longer.world is not settings.world
    assert longer.world.time_limit == settings.world.time_limit + 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("world", sorted(CONFIGS))
def test_every_preset_passes_its_own_checks(world, preset):
    settings = preset_settings(world, preset)
    assert settings.preset == preset
    assert settings.world_config == settings.world.config


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_same_fields_of_the_same_types(preset):
    def types(section):
        return {
            name: types(value) if isinstance(value, ConfigDict) else type(value)
            for name, value in section.items()
        }

    assert types(gridworld.get_config(preset)) == types(gridworld.get_config("paper"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("metacontroller.layer", 7, r"metacontroller.layer: 7 .* 0 to 6 \(base.depth\)"),
        ("metacontroller.rank", 257, r"metacontroller.rank: 257 .* 0 \(full\) to 256"),
        ("metacontroller.variant", "lucky", "discovered, forced, unaligned, cotrained"),
        ("internal_rl.min_std", 1.0, r"internal_rl.min_std: 1.0 .* below .*1.0"),
        ("internal_rl.task", "0-1-9", "internal_rl.task: .*colour 9, allowed are 0 to"),
        ("raw_rl.task", "0-0", "raw_rl.task: .*repeats a colour"),
        ("environment.tasks", "moon", "environment: tasks is 'moon', allowed are"),
        ("environment.num_colours", 60, "environment: num_colours"),
        ("data.sequence_length", 5, "data.sequence_length: 5 .* 101 or more"),
        ("data.sequence_length", 2**31 - 1, "data.sequence_length: .* allowed is 1 to 32768"),
        ("data.epsilon", 1.5, "data.epsilon: 1.5 given, allowed is 0 to 1"),
        ("pretrain.checkpoint_every", 7, "pretrain.checkpoint_every: 7 .* multiple of log_every"),
        ("pretrain.snapshot_steps", (7,), "pretrain.snapshot_steps"),
        ("probe.base_step", 50, r"probe.base_step: 50 .* 0 or one of pretrain.snapshot_steps"),
        ("steer.base_step", 50, r"steer.base_step: 50 .* 0 or one of pretrain.snapshot_steps"),
        ("pretrain.b2", 1.0, "pretrain.b2: 1.0 given, allowed is 0 or more and below 1"),
        ("pretrain.num_seeds", 10**9, "pretrain.num_seeds: 1000000000 given, allowed is 1 to 1000"),
        ("seed", 10**20, "config.seed: 100000000000000000000 given, allowed is 0 to"),
        ("seed", True, "config.seed: True given"),
        ("environment.layout_seed", -1, "environment: layout_seed is -1, allowed is 0 or more"),
        ("environment.num_layouts", 10**12, "num_layouts is 1000000000000, allowed is up to"),
        ("environment.tasks", "walks:4:20:0-1", "too many walks of length 20 over 4 subgoals"),
        ("environment.tasks", "walks:4:99999999999999999999:0-1", "length of the walks is 9+,"),
        ("internal_rl.task", "\u00b2", "internal_rl.task: task '\u00b2' cannot be read, allowed"),
        ("base.depth", 10**6, "base.depth: 1000000 given, allowed is 1 to 64"),
        ("pretrain.learning_rate", float("nan"), "pretrain.learning_rate: nan .* above 0"),
        ("seed", -1, "config.seed: -1 given, allowed is 0 to 2147482648"),
        ("precision", "half", "config.precision: 'half' .* auto, float32, bfloat16"),
    ],
)
def test_values_outside_their_range_name_the_field_and_the_range(field, value, message):
    config = gridworld.get_config("paper")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        check(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pretrain.batch_size", 10**9),
        ("pretrain.num_parts", 10**9),
        ("probe.evaluation_rows", 10**9),
        ("metacontroller.evaluation_episodes", 2 * 10**9),
        ("internal_rl.episodes_per_update", 2 * 10**9),
        ("base.mlp_size", 2**20),
    ],
)
def test_sizes_that_no_memory_holds_are_refused_by_name(field, value):
    config = gridworld.get_config("paper")
    config.update_from_flattened_dict({field: value})
    message = rf"config.{field}: {value} given, which needs [\d,.]+ GiB at least, allowed is what"
    with (
        mock.patch("internal_rl.memory._host_memory", lambda: 8 * 2**30),
        pytest.raises(ConfigError, match=message),
    ):
        check(config)


def test_more_steps_than_32_bits_can_number_are_refused():
    config = gridworld.get_config("smoke")
    config.update_from_flattened_dict({"steer.evaluation_episodes": 2**26})
    with (
        mock.patch("internal_rl.memory._host_memory", lambda: 2**60),
        pytest.raises(ConfigError, match="steer.evaluation_episodes: 67108864 .* allowed is up to"),
    ):
        check(config)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("world", [gridworld, ant])
def test_presets_fit_into_a_small_machine(world, preset):
    with mock.patch("internal_rl.memory._host_memory", lambda: 4 * 2**30):
        check(world.get_config(preset))


@pytest.mark.parametrize("part", ["pretrain", "environment", "quickstart"])
def test_a_section_that_is_no_section_is_named(part):
    config = gridworld.get_config("smoke").to_dict()
    with pytest.raises(ConfigError, match=f"config.{part}: 3 given, allowed are single fields"):
        check(config | {part: 3})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("environment.cell_size", float("inf"), "cell_size is inf, allowed is a finite number"),
        ("expert.hidden_sizes", (1.5,), "config.expert.hidden_sizes: .* each 1 to"),
        ("expert.hidden_sizes", (True,), "config.expert.hidden_sizes: .* each 1 to"),
        ("environment.cell_size", -1.0, "config.environment: cell_size is -1.0"),
        ("expert.ties", "random", "config.expert.ties: 'random' given"),
        ("expert.num_worlds", 7, "config.expert.num_worlds: 7 given"),
        ("expert.discounting", 1.5, "config.expert.discounting: 1.5 given, allowed is 0 to 1"),
        ("collect.num_shards", 0, "config.collect.num_shards: 0 given"),
        ("collect.num_seeds", 2, "config.collect.num_seeds: 2 given, allowed is 1: all base"),
        ("pretrain.curriculum_tasks", "01", "tasks: '01' given, allowed is '': collected data"),
        ("data.ties", "axis", "config.data.ties: 'axis' given, allowed is 'random': no data of 'a"),
        ("data.epsilon", 0.3, "config.data.epsilon: 0.3 given, allowed is 0.0: no data of 'ant"),
        ("data.clean_epsilon", 0.3, "config.data.clean_epsilon: 0.3 given, allowed is 0.0"),
        ("compile.layer", 5, "config.compile.layer: 5 given, allowed is 1 to 4"),
        ("metacontroller.layer", 5, "config.metacontroller.layer: 5 given, allowed is 0 to 4"),
        ("base.num_heads", 3, "config.base.num_heads: 3 given"),
    ],
)
def test_bad_settings_of_the_ant_are_named(field, value, message):
    config = ant.get_config("small")
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(ConfigError, match=message):
        check(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pretrain.curriculum_tasks: '' given, allowed is tasks separated by commas"),
        ("0-9", "pretrain.curriculum_tasks: task 0-9 contains colour 9, allowed are 0 to 4"),
        ("04,x", "pretrain.curriculum_tasks: task 'x' cannot be read"),
    ],
)
def test_a_curriculum_needs_tasks_of_the_world(text, message):
    config = gridworld.get_config("small")
    config.pretrain.curriculum_tasks = text
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_a_curriculum_from_a_dataset_needs_one():
    config = ant.get_config("small")
    config.collect.curriculum_tasks = ""
    config.pretrain.curriculum_steps = 0
    check(config)
    config.pretrain.curriculum_steps = 1
    with pytest.raises(ConfigError, match="collect.curriculum_tasks: '' given"):
        check(config)


def test_every_field_of_a_config_is_one_of_its_section_and_sections_are_known():
    config = gridworld.get_config("smoke")
    with config.unlocked():
        config.pretrain.stepz = 3
    with pytest.raises(ConfigError, match="config.pretrain.stepz: unknown field, allowed are"):
        Settings.read(config)
    with pytest.raises(ConfigError, match="config.moon: unknown section, allowed are preset"):
        Settings.read(gridworld.get_config("smoke").to_dict() | {"moon": {}})


def test_sections_are_typed_attributes_and_those_that_are_absent_are_none():
    settings = Settings.read(gridworld.get_config("smoke"))
    assert settings.pretrain.steps == 8
    assert settings.expert is None and settings.collect is None
    with pytest.raises(AttributeError, match="moon"):
        settings.moon  # noqa: B018


def test_an_overlay_with_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="config.base.color: unknown field, allowed are block"):
        make_config("gridworld-pinpad", "smoke", {"smoke": {"base": {"color": 1}}})
    with pytest.raises(ValueError, match="config.moon: unknown section"):
        make_config("gridworld-pinpad", "smoke", {"smoke": {"moon": {}}})
    with pytest.raises(ValueError, match="environment name is 'moon', allowed are"):
        make_config("moon", "smoke", {})


def test_seeds_have_folders_of_their_own_and_do_not_change_the_config_of_a_stage():
    config = gridworld.get_config("smoke")
    before = Settings.read(config).stage_config("internal_rl")
    config.seed, config.pretrain.num_seeds = 2, 3
    settings = Settings.read(config)
    assert settings.seeds_of("pretrain") == (2, 3, 4)
    assert settings.stage_config("internal_rl") == before
    assert settings.updated("metacontroller", rank=2).stage_config("internal_rl") != before
    assert "metacontroller" not in settings.stage_config("raw_rl").values
    assert isinstance(before, StageConfig) and before.length == "internal_rl.steps"


def test_later_seeds_read_the_earlier_ones_in_turn():
    config = gridworld.get_config("smoke")
    config.seed, config.pretrain.num_seeds = 3, 2
    assert Settings.read(config).seeds_read("pretrain", (3, 4, 5)) == (3, 4, 3)


@pytest.mark.parametrize(
    ("world", "preset", "expected"),
    [
        *((world, "paper", (10, 10, 30, 30, 30, 30)) for world in ("gridworld", "ant")),
        ("gridworld", "small", (3, 3, 9, 9, 9, 9)),
        ("ant", "small", (2, 2, 4, 4, 4, 4)),
        *((world, "smoke", (1, 1, 1, 1, 1, 1)) for world in ("gridworld", "ant")),
    ],
)
def test_each_seed_of_a_stage_has_seeds_of_the_next_one(world, preset, expected):
    settings = preset_settings(world, preset)
    stages = ("pretrain", "probe", "metacontroller", "compile", "internal_rl", "raw_rl")
    assert tuple(map(settings.num_seeds, stages)) == expected
    compiled = settings.updated("internal_rl", codes="compile").updated(
        "compile", seeds_per_input=7
    )
    assert compiled.num_seeds("internal_rl") == 7 * expected[0]
    assert {
        settings.with_one_seed().num_seeds(stage)
        for stage in settings.sections
        if stage not in ("data", "base")
    } == {1}


def test_a_policy_stands_on_a_metacontroller_and_on_the_base_model_of_that_one():
    settings = preset_settings("gridworld", "paper")
    assert settings.reads("internal_rl", 13) == {"metacontroller": 13, "pretrain": 3}
    assert settings.reads("raw_rl", 27) == {"pretrain": 7}
    assert settings.reads("pretrain", 3) == {}
    assert [
        settings.reads("internal_rl", seed)["pretrain"] for seed in settings.seeds_of("internal_rl")
    ] == 3 * list(range(10))
    # Co-training from random parameters has as many seeds, and no base model that it reads.
    random = settings.updated("metacontroller", variant="cotrained", base_from="random")
    assert random.num_seeds("metacontroller") == 30
    assert random.reads("internal_rl", 13) == {"metacontroller": 13}


def test_the_number_of_seeds_of_a_stage_that_reads_another_one_names_the_field_in_its_place():
    config = gridworld.get_config("smoke").to_dict()
    config["internal_rl"]["num_seeds"] = 3
    message = (
        "config.internal_rl.num_seeds: unknown field, allowed is seeds_per_input, the seeds for"
    )
    with pytest.raises(ConfigError, match=message):
        Settings.read(config)
    with pytest.raises(ValueError, match=message):
        make_config("gridworld-pinpad", "smoke", {"smoke": {"internal_rl": {"num_seeds": 3}}})


def test_a_stage_that_a_config_lacks_is_named():
    settings = Settings.read(gridworld.get_config("smoke"))
    with pytest.raises(ConfigError, match="config.expert: .* allowed are pretrain, probe"):
        settings.stage_config("expert")
    with pytest.raises(ConfigError, match="config.moon: no such stage"):
        settings.folder_of("moon")
    assert Settings.read(ant.get_config("smoke")).folder_of("expert") == "expert"


def test_variants_and_probed_ages_do_not_share_a_folder():
    settings = preset_settings("gridworld", "small")
    assert settings.folder_of("internal_rl") == "internal_rl"
    forced = settings.updated("metacontroller", variant="forced")
    assert forced.folder_of("internal_rl") == "internal_rl_forced"
    assert forced.folder_of("raw_rl") == "raw_rl"
    assert settings.folder_of("probe") == "probe"
    assert settings.updated("probe", base_step=500).folder_of("probe") == "probe_500"
    assert settings.updated("steer", base_step=500).folder_of("steer") == "steer_500"
    assert settings.probe.base_step == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnCodes(CodeFindingSettings):
    """A section that has no field but those which all codes share."""

    def make_module(self, base):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnLoop(Section):
    """A section of a stage that is no loop of updates.

    Attributes:
      batch_size: samples.
      episodes_per_update: episodes.
    """

    batch_size: int = setting(2**30, at_least(1))
    episodes_per_update: int = setting(8, at_least(1))


def with_section(monkeypatch, section, **more):
    """A config of the grid world with a stage `own` of this section."""
    spec = StageSpec("own", section, run=print, depends_on=("own",), **more)
    monkeypatch.setitem(catalogue.STAGES, "own", spec)
    return gridworld.get_config("smoke")


def test_a_section_of_codes_needs_no_field_beyond_those_that_all_share(monkeypatch):
    monkeypatch.setattr(checks, "CODE_STAGES", [*CODE_STAGES, "own"])
    config = with_section(monkeypatch, OwnCodes, input="pretrain")
    config.own.layer = 1
    check(config)
    config.own.layer = 3
    with pytest.raises(ConfigError, match="config.own.layer: 3 given, allowed is 0 to 2"):
        check(config)


def test_a_section_with_a_batch_need_not_be_one_of_updates(monkeypatch):
    monkeypatch.setattr("internal_rl.memory._host_memory", lambda: 8 * 2**30)
    config = with_section(monkeypatch, OwnLoop)
    check_memory(Settings.read(config))
    config.own.episodes_per_update = 2**30
    with pytest.raises(ConfigError, match="config.own.episodes_per_update: .* needs"):
        check_memory(Settings.read(config))


def test_the_task_of_a_policy_from_outside_is_checked(monkeypatch):
    monkeypatch.setattr(checks, "POLICY_STAGES", [*trainer.POLICY_STAGES, "own"])
    config = with_section(monkeypatch, trainer.ReinforcementSettings)
    check(config)
    config.own.task = "0-1-9"
    with pytest.raises(ConfigError, match="config.own.task: .*colour 9, allowed are 0 to"):
        check(config)


@pytest.mark.parametrize(
    ("data", "reads"),
    [
        (lambda request: None, False),
        (None, False),
        ("tests.stages.toy_run:make_data", False),
        (grid_data.make_source, True),
        ("internal_rl.experts.grid_data:make_source", True),
        ("internal_rl.experts.shard_data:make_source", True),
    ],
)
def test_rows_have_to_be_long_enough_where_the_section_of_data_makes_them(monkeypatch, data, reads):
    monkeypatch.setattr(worlds, "_ENTRIES", dict(worlds._ENTRIES))
    presets = {"only": toy_run.WorldConfig(time_limit=1_000)}
    worlds.register_world(
        "own-rows", toy_run.ToyWorld, config=toy_run.WorldConfig, presets=presets, data=data
    )
    config = make_config("own-rows", "only", {})
    assert config.data.sequence_length == 256
    if not reads:
        check(config)
        return
    with pytest.raises(ConfigError, match="data.sequence_length: 256 given, allowed is 1001 or m"):
        check(config)


@pytest.mark.parametrize(
    ("preset", "size", "width"),
    [
        ("small", None, 64),
        ("smoke", None, 16),
        ("paper", None, 256),
        ("medium", None, 256),
        ("small", "paper", 256),
        ("medium", "small", 64),
    ],
)
def test_models_are_as_large_as_the_preset_is_called_or_as_is_asked_for(
    monkeypatch, preset, size, width
):
    monkeypatch.setattr(worlds, "_ENTRIES", dict(worlds._ENTRIES))
    presets = dict.fromkeys([*PRESETS, "medium"], toy_run.WorldConfig())
    worlds.register_world("own", toy_run.ToyWorld, config=toy_run.WorldConfig, presets=presets)
    given = {} if size is None else {"size": size}
    assert make_config("own", preset, {}, **given).base.width == width
    with pytest.raises(ValueError, match="size 'huge' is unknown, allowed are paper, small, smoke"):
        make_config("own", preset, {}, size="huge")
