"""A method from outside is one file and one line: its stage trains, reports and is checked."""

import pytest

from configs import gridworld
from internal_rl.errors import ConfigError
from internal_rl.stages import catalogue, run_stages
from internal_rl.stages.settings import Settings
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_results import load_stage
from tests.stages.own_method import STAGE


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(catalogue.STAGES, STAGE.name, STAGE)
    config = gridworld.get_config("smoke")
    shared = [name for name in config.scratch_rl if name in config.raw_rl]
    config.scratch_rl.update({name: config.raw_rl[name] for name in shared})
    return config


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
