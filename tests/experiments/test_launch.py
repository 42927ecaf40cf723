"""The command line refuses bad input in one line that names the field, with exit code 2."""

import re
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from configs import ant, gridworld
from configs.presets import PRESETS
from experiments import launch, reproduce
from experiments.validation import check_config
from internal_rl.errors import ConfigError, StageMissingError
from internal_rl.training.loop import run_stage
from tests.training.test_loop import ROOT
from tests.training.toy import make_stage


def run_script(*arguments):
    command = [sys.executable, "-m", "tests.experiments.toy_script", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def error_line(process):
    """The one line of a refused command; whatever the log said is no part of it."""
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    lines = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert lines == process.stderr.splitlines()[-1:]
    return lines[0]


def test_a_good_command_runs_and_logs_the_thread_guard(tmp_path):
    process = run_script(
        "--config=configs/gridworld.py:smoke", f"--workdir={tmp_path}", "--config.seed=3"
    )
    assert process.returncode == 0, process.stderr
    assert "host threads" in process.stderr
    assert (tmp_path / "toy" / "seed_3" / "DONE").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/gridworld.py:huge"], "preset 'huge' .* smoke, small, paper"),
        (["--config.pretrain.steps=1.5"], r"config.pretrain.steps: '1.5' .* a whole number"),
        (["--config.base.block=lstm"], r"config.base.block: 'lstm' .* transformer, hawk"),
        (["--wrkdir=x"], "wrkdir.*workdir"),
        (["--config=configs/gridworld.py:paper"], "run: python -m experiments.pretrain --config"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    workdir = tmp_path / "run"
    line = error_line(run_script(*arguments, f"--workdir={workdir}"))
    assert re.search(message, line), line
    assert not workdir.exists()


def test_a_workdir_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("")
    line = error_line(run_script(f"--workdir={tmp_path}/file/run"))
    assert "--workdir must be a writable folder" in line


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes_its_own_checks(preset):
    config = gridworld.get_config(preset)
    check_config(config)
    assert config.preset == preset


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
        ("metacontroller.variant", "lucky", "discovered, forced, unaligned"),
        ("internal_rl.min_std", 1.0, r"internal_rl.min_std: 1.0 .* below 1.0"),
        ("internal_rl.task", "0-1-9", "internal_rl.task: .*colour 9, allowed are 0 to"),
        ("raw_rl.task", "0-0", "raw_rl.task: .*repeats a colour"),
        ("environment.tasks", "moon", "environment: tasks is 'moon', allowed are"),
        ("environment.num_colours", 60, "environment: num_colours"),
        ("data.sequence_length", 5, "data.sequence_length: 5 .* 101 or more"),
        ("data.epsilon", 1.5, "data.epsilon: 1.5 given, allowed is 0 to 1"),
        ("pretrain.checkpoint_every", 7, "pretrain.checkpoint_every: 7 .* multiple of log_every"),
        ("pretrain.snapshot_steps", (7,), "pretrain.snapshot_steps"),
        ("probe.base_step", 50, r"probe.base_step: 50 .* 0 or one of pretrain.snapshot_steps"),
        ("pretrain.learning_rate", float("nan"), "pretrain.learning_rate: nan .* above 0"),
    ],
)
def test_values_outside_their_range_name_the_field_and_the_range(field, value, message):
    config = gridworld.get_config("paper")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_every_number_and_name_of_the_config_has_a_rule():
    from experiments.validation import _RULES, _fields

    checked_elsewhere = {"preset", "task", "layer", "snapshot_steps", "curriculum_tasks"}
    checked_elsewhere |= {"hidden_sizes"}
    free = {"initial_log_std", "switch_bias"}
    fields = {
        name.rsplit(".", 1)[-1]
        for config in (gridworld.get_config("small"), ant.get_config("small"))
        for name, _ in _fields(config)
        if not name.startswith("environment.")
    }
    assert fields - set(_RULES) == checked_elsewhere | free
    assert not set(_RULES) - fields


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.pretrain.stepz=3", "config.pretrain.stepz: unknown field.*steps_per_call"),
        ("--config.nope.x=3", "config.nope: unknown field, allowed in config: base, data"),
        ("--config.preset.x=3", "config.preset: has no fields"),
    ],
)
def test_unknown_fields_are_named_with_their_neighbours(override, message):
    with pytest.raises(ConfigError, match=message):
        launch._check_overrides("configs/gridworld.py:small", ["script", override])


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="config: 'configs/moon.py' is not there"):
        launch.load_config("configs/moon.py:small")


def test_seeds_have_folders_of_their_own_and_do_not_change_the_config_of_a_stage():
    config = gridworld.get_config("small")
    before = launch.stage_config(config, "internal_rl")
    config.seed, config.pretrain.num_seeds = 2, 3
    assert launch.seeds_of(config, "pretrain") == (2, 3, 4)
    assert launch.stage_config(config, "internal_rl") == before
    config.metacontroller.rank = 2
    assert launch.stage_config(config, "internal_rl") != before
    assert "metacontroller" not in launch.stage_config(config, "raw_rl")


def test_a_stage_that_a_config_lacks_is_named():
    config = gridworld.get_config("smoke")
    with pytest.raises(ConfigError, match="config.expert: .* allowed are pretrain, probe"):
        launch._check_stage(config, "expert")
    launch._check_stage(config, "report")
    launch._check_stage(ant.get_config("smoke"), "expert")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_the_ant_are_allowed(preset):
    check_config(ant.get_config(preset))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("environment.cell_size", -1.0, "config.environment: cell_size is -1.0"),
        ("expert.ties", "random", "config.expert: ties"),
        ("expert.num_worlds", 7, "config.expert: num_worlds is 7"),
        ("expert.discounting", 1.5, "config.expert.discounting: 1.5 given, allowed is 0 to 1"),
        ("collect.num_shards", 0, "config.collect.num_shards: 0 given"),
    ],
)
def test_bad_settings_of_the_ant_are_named(field, value, message):
    config = ant.get_config("small")
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_variants_and_probed_ages_do_not_share_a_folder():
    config = gridworld.get_config("small")
    assert launch.stage_name(config, "internal_rl") == "internal_rl"
    config.metacontroller.variant = "forced"
    assert launch.stage_name(config, "internal_rl") == "internal_rl_forced"
    assert launch.stage_name(config, "raw_rl") == "raw_rl"
    assert launch.stage_name(config, "probe") == "probe"
    assert launch.stage_name(reproduce.at_age(config, 500), "probe") == "probe_500"
    assert config.probe.base_step == 0


def test_a_missing_earlier_stage_names_the_command_with_its_preset(tmp_path):
    run_stage(make_stage(num_steps=4), tmp_path)
    with pytest.raises(StageMissingError, match=r"experiments.metacontroller --config=\S+:smoke"):
        launch.load_upstream(gridworld.get_config("smoke"), tmp_path, "metacontroller", 0)


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
        check_config(config)


def test_a_curriculum_from_a_dataset_needs_one():
    config = ant.get_config("small")
    config.collect.curriculum_tasks = ""
    config.pretrain.curriculum_steps = 0
    check_config(config)
    config.pretrain.curriculum_steps = 1
    with pytest.raises(ConfigError, match="collect.curriculum_tasks: '' given"):
        check_config(config)
