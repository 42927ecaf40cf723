"""Shipped stages: which there are, and how they come into a work directory."""

import pathlib

import pytest

from experiments import launch
from internal_rl import pretrained
from internal_rl.errors import StageMissingError
from internal_rl.training.stage_directory import StageDirectory

GRID = "gridworld-pinpad"
SHIPPED = sorted(pathlib.Path(pretrained.__file__).parent.glob("*/*/*/seed_*"))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: "/".join(path.parts[-4:]))
def test_shipped_stages_have_the_settings_of_their_preset(folder):
    world, preset, stage, seed = folder.parts[-4:]
    file = {GRID: "gridworld", "ant-pinpad": "ant"}[world]
    config = launch.load_config(f"configs/{file}.py:{preset}")
    wanted = launch.stage_config(config, stage)
    assert pretrained.offers(world, preset, stage, int(seed.removeprefix("seed_")), wanted)


def test_install_copies_finished_stages_and_leaves_others_alone(tmp_path):
    mine = tmp_path / "pretrain" / "seed_0"
    mine.mkdir(parents=True)
    pretrained.install(GRID, "small", tmp_path)
    assert list(mine.iterdir()) == []
    assert StageDirectory(tmp_path, "metacontroller", 0).finished


def test_one_stage_can_be_installed_alone(tmp_path):
    pretrained.install(GRID, "small", tmp_path, "pretrain")
    assert [path.name for path in tmp_path.iterdir()] == ["pretrain"]


@pytest.mark.parametrize(("world", "preset"), [(GRID, "paper"), ("mars", "small")])
def test_what_is_not_shipped_is_refused_with_what_is(tmp_path, world, preset):
    allowed = "small" if world == GRID else "none"
    with pytest.raises(StageMissingError, match=f"'{preset}' of {world}, allowed are {allowed}"):
        pretrained.install(world, preset, tmp_path)
    assert not pretrained.offers(world, preset, "pretrain", 0, {})
