"""Which trajectories a stage learns from: those of pretraining, or the cleaner ones (method §2)."""

import pytest

from configs import ant, gridworld
from internal_rl.stages import collect
from internal_rl.stages.build import make_base
from internal_rl.stages.places import Places
from internal_rl.stages.running import make_stage
from internal_rl.stages.settings import Settings
from tests.parameters import drawn
from tests.stages.test_seeds import finish

NOISY, CLEAN = (0.5, "fork"), (0.0, "axis")
# What a stage reads, and whether its trajectories end with a token of their last observation.
STAGES = {
    "pretrain": (NOISY, False),
    "probe": (NOISY, False),
    "steer": (CLEAN, False),
    "metacontroller": (CLEAN, True),
    "compile": (CLEAN, True),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The stages on a base model that was never trained, with data that can be told apart."""
    config = gridworld.get_config("smoke")
    config.data.update({"epsilon": NOISY[0], "ties": NOISY[1]})
    config.data.update({"clean_epsilon": CLEAN[0], "clean_ties": CLEAN[1]})
    settings, workdir = Settings.read(config), tmp_path_factory.mktemp("data")
    params = drawn(make_base(settings).initial_params)
    finish(settings, workdir, "pretrain", lambda key: params)
    return lambda stage: make_stage(settings, stage, Places(workdir))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_from_its_data(made, stage):
    source = made(stage).update.__self__.source
    found = (source.epsilon, source.ties), source.include_terminal
    assert found == STAGES[stage]


def test_the_cleaner_dataset_of_the_ant_holds_the_mean_actions_on_the_same_tasks():
    config = ant.get_config("smoke")
    config.collect.curriculum_tasks = "032,103"
    found = collect.datasets(Settings.read(config))
    means = {name: deterministic for name, (_, deterministic) in found.items()}
    assert means == {"pretraining": False, "clean": True, "curriculum": False}
    tasks = {name: tasks for name, (tasks, _) in found.items()}
    assert tasks["clean"] == tasks["pretraining"] != tasks["curriculum"]
