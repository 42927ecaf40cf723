"""Shipped stages: which there are, and how they come into a work directory."""

import dataclasses
import functools
import importlib
import json
import pathlib

import chex
import jax
import pytest

import internal_rl as irl
from internal_rl import pretrained
from internal_rl.checksums import checksum_of
from internal_rl.errors import ConfigError, StageConflictError, StageMissingError
from internal_rl.stages.build import make_base
from internal_rl.stages.places import Places
from internal_rl.stages.running import run
from internal_rl.stages.settings import Settings
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_stage

GRID = "gridworld-pinpad"
SHIPPED = sorted(pathlib.Path(pretrained.__file__).parent.glob("*/small/*/seed_*"))
PAPER = pathlib.Path(pretrained.__file__).parent / GRID / "paper"


@functools.cache
def _settings(specification):
    file, preset = specification.split(":")
    return Settings.read(importlib.import_module(f"configs.{file}").get_config(preset))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: "/".join(path.parts[-4:]))
def test_shipped_stages_have_the_settings_of_their_preset(folder):
    world, preset, stage, seed = folder.parts[-4:]
    file = {GRID: "gridworld", "ant-pinpad": "ant"}[world]
    settings = _settings(f"{file}:{preset}")
    wanted = settings.stage_config(stage)
    assert pretrained.offers(world, preset, stage, int(seed.removeprefix("seed_")), wanted)


def test_the_base_model_of_paper_size_is_that_of_the_preset_trained_in_another_way():
    params, config = load_stage(PAPER, "pretrain", 0)
    wanted = _settings("gridworld:paper").stage_config("pretrain").values
    # What it learnt from is the same where unsolvable layouts are drawn: their episodes fail.
    del wanted["environment"]["solvable_only"]
    for section in ("environment", "data", "base"):
        assert config[section] == json.loads(json.dumps(wanted[section]))
    # Fields that came later have their historical values.
    assert set(config["pretrain"]) <= set(wanted["pretrain"])
    shapes = jax.eval_shape(
        make_base(_settings("gridworld:paper")).initial_params, jax.random.key(0)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)


def test_install_copies_finished_stages_and_leaves_others_alone(tmp_path):
    mine = tmp_path / "pretrain" / "seed_0"
    mine.mkdir(parents=True)
    pretrained.install(GRID, "small", tmp_path)
    assert list(mine.iterdir()) == []
    assert StageDirectory(tmp_path, "metacontroller", 0).finished


def test_a_shipped_stage_survives_a_new_field_but_no_other_value():
    wanted = _settings("gridworld:small").stage_config("pretrain")
    for value, offered in ((0, True), (1, False)):
        values = wanted.values | {"base": wanted.values["base"] | {"new": value}}
        historical = wanted.historical | {"base": wanted.historical["base"] | {"new": 0}}
        config = dataclasses.replace(wanted, values=values, historical=historical)
        assert pretrained.offers(GRID, "small", "pretrain", 0, config) is offered


def test_a_shipped_stage_cannot_be_trained_further_and_says_so(tmp_path):
    settings = _settings("gridworld:small").updated("pretrain", steps=7_000, decay_steps=6_000)
    wanted = settings.stage_config("pretrain")
    assert not pretrained.offers(GRID, "small", "pretrain", 0, wanted)
    pretrained.install(GRID, "small", tmp_path, "pretrain")
    message = "pretrain.steps: 7000 asked for, .* keeps no checkpoint .*shipped stages have none"
    with pytest.raises(StageConflictError, match=message):
        run(settings, "pretrain", Places(tmp_path))


def test_what_can_be_loaded_by_name_has_a_folder_laid_out_as_a_work_directory():
    assert pretrained.names() == ["ant-pinpad/small", "gridworld-pinpad/small"]
    for name in pretrained.names():
        assert StageDirectory(pretrained.folder_of(name), "metacontroller", 0).finished
    assert pretrained.folder_of("gridworld-pinpad/paper") is None
    assert pretrained.folder_of("runs/mine") is None


def test_one_stage_can_be_installed_alone(tmp_path):
    pretrained.install(GRID, "small", tmp_path, "pretrain")
    assert [path.name for path in tmp_path.iterdir()] == ["pretrain"]


@pytest.mark.parametrize(("world", "preset"), [(GRID, "paper"), ("mars", "small")])
def test_what_is_not_shipped_is_refused_with_what_is(tmp_path, world, preset):
    allowed = "small" if world == GRID else "none"
    with pytest.raises(StageMissingError, match=f"'{preset}' of {world}, allowed are {allowed}"):
        pretrained.install(world, preset, tmp_path)
    assert not pretrained.offers(world, preset, "pretrain", 0, StageConfig({}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"variant": "forcd"}, "variant: 'forcd' given, allowed are discovered, forced, unaligned"),
        ({"seed": -1}, "seed: -1 given, allowed is a whole number from 0"),
        ({"seed": 0.5}, "seed: 0.5 given, allowed is a whole number from 0"),
    ],
)
def test_what_cannot_be_loaded_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        irl.load(f"{GRID}/small", **given)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"variant": "forced"}, "metacontroller_forced seed_0"),
        ({"seed": 1}, "metacontroller seed_1"),
    ],
)
def test_shipped_weights_are_not_trained_in_the_package(given, what):
    with pytest.raises(StageMissingError) as caught:
        irl.load(f"{GRID}/small", **given)
    told = str(caught.value)
    assert f"{what} is not shipped, there are metacontroller seed_0, pretrain seed_0" in told
    assert "run:" not in told


def test_a_stage_that_a_work_directory_lacks_is_named_by_its_command(tmp_path):
    pretrained.install(GRID, "small", tmp_path, "pretrain")
    with pytest.raises(StageMissingError) as caught:
        irl.load(tmp_path, variant="forced")
    told = str(caught.value)
    assert "python -m experiments.metacontroller --config.metacontroller.variant=forced" in told
    assert "--config=configs/gridworld.py:small" in told and f"--workdir={tmp_path}" in told
    with pytest.raises(StageMissingError, match="run: python -m experiments.compile --config="):
        irl.load(tmp_path, variant="compile")


def test_the_base_model_of_codes_may_lie_upstream(tmp_path):
    pretrained.install(GRID, "small", tmp_path / "base", "pretrain")
    pretrained.install(GRID, "small", tmp_path / "codes", "metacontroller")
    with pytest.raises(StageMissingError, match="pretrain/seed_0: not there or not finished"):
        irl.load(tmp_path / "codes")
    agent = irl.load(tmp_path / "codes", upstream=[tmp_path / "base"])
    chex.assert_trees_all_equal(
        agent.model.base_params, irl.load(f"{GRID}/small").model.base_params
    )


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: "/".join(path.parts[-4:]))
def test_shipped_stages_tell_on_which_parameters_they_stand(folder):
    stored = json.loads((folder / "config.json").read_text())
    for stage, seed in stored.get("reads", {}).items():
        file = folder.parents[1] / stage / f"seed_{seed}" / "params.msgpack"
        assert stored["parameters_read"][stage] == checksum_of(file) != ""
    assert ("reads" in stored) == (folder.parent.name == "metacontroller")


def test_shipped_codes_are_not_put_beside_another_base_model(tmp_path):
    pretrained.install(GRID, "small", tmp_path, "pretrain")
    params = load_stage(tmp_path, "pretrain", 0)[0]
    base = StageDirectory(tmp_path, "pretrain", 0)
    base.save_params(jax.tree.map(lambda x: x + 1e-6, params))
    for stage in ("*", "metacontroller"):
        with pytest.raises(StageConflictError, match="is another one than the shipped metacont"):
            pretrained.install(GRID, "small", tmp_path, stage)
    assert not (tmp_path / "metacontroller").exists()


def test_codes_are_not_put_on_another_base_model_than_they_were_found_on(tmp_path):
    pretrained.install(GRID, "small", tmp_path)
    codes, base = tmp_path / "metacontroller/seed_0", tmp_path / "pretrain/seed_0"
    settings = _settings("gridworld:small")
    told = json.loads((codes / "config.json").read_text())["parameters_read"]
    assert told == {"pretrain": checksum_of(base / "params.msgpack")}
    irl.load(tmp_path)
    Places(tmp_path).load(settings, "metacontroller", 0)
    params = load_stage(tmp_path, "pretrain", 0)[0]
    StageDirectory(tmp_path, "pretrain", 0).save_params(jax.tree.map(lambda x: x + 1e-6, params))
    message = "metacontroller/seed_0: was made with other parameters of pretrain than are found"
    with pytest.raises(StageConflictError, match=message):
        irl.load(tmp_path)
    with pytest.raises(StageConflictError, match=message):
        run(settings, "internal_rl", Places(tmp_path))
    assert not (tmp_path / "internal_rl").exists()
