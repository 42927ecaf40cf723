"""The baseline CompILE as stages: it trains at smoke size, and internal RL acts with its codes."""

import json

import jax
import numpy as np
import pytest

from configs import gridworld
from internal_rl import load, run_stages
from internal_rl.errors import ConfigError
from internal_rl.stages.build import make_base
from internal_rl.stages.catalogue import whole_run
from internal_rl.stages.checks import check_settings
from internal_rl.stages.settings import Settings
from internal_rl.training.metrics import read_metrics
from tests.parameters import drawn
from tests.stages.test_seeds import finish


def settings_of(**codes):
    config = gridworld.get_config("smoke")
    config.internal_rl.update(codes)
    return Settings.read(config)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Both stages on a base model with drawn parameters."""
    folder, settings = tmp_path_factory.mktemp("compile"), settings_of(codes="compile")
    params = drawn(make_base(settings).initial_params)
    finish(settings, folder, "pretrain", lambda key: params)
    run_stages(settings, folder, ["compile", "internal_rl"], log=False)
    return folder


@pytest.mark.slow
def test_it_trains_as_a_stage_and_its_boundaries_are_measured(workdir):
    lines = read_metrics(workdir / "compile" / "seed_0")
    assert lines[-1]["step"] == 8
    for name in ("f1", "gate_f1", "action_nll", "code_kl", "boundary_kl", "gate_nll"):
        assert np.isfinite(lines[-1][f"evaluation/{name}"]), name
    with np.load(workdir / "compile" / "seed_0" / "artifacts.npz") as found:
        assert {"f1", "switches_per_trajectory", "decoding_accuracy"} <= set(found)
        # Three segments have two boundaries, of which the last ones may lie on the last token.
        assert 0 < found["switches_per_trajectory"] <= 2


@pytest.mark.slow
def test_internal_rl_acts_with_its_codes_in_a_folder_of_its_own(workdir):
    folder = workdir / "internal_rl_compile" / "seed_0"
    stored = json.loads((folder / "config.json").read_text())["config"]
    assert "compile" in stored and "metacontroller" not in stored
    line = read_metrics(folder)[-1]
    assert line["step"] == 8 and 1 <= line["switches"] <= line["episode_length"]


@pytest.mark.slow
def test_the_report_names_it(workdir):
    run_stages(settings_of(), workdir, ["report"], log=False)
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    assert {"compile_switching_f1", "internal_rl_compile_success"} <= set(summary)
    assert "| CompILE, success on the task |" in (workdir / "report" / "table.md").read_text()


@pytest.mark.slow
def test_an_agent_acts_under_it_with_the_base_model_that_was_trained_with_it(workdir):
    agent = load(workdir, variant="compile")
    settings = settings_of()
    pretrained = drawn(make_base(settings).initial_params)["params"]["action_output"]["kernel"]
    trained = agent.model.base_params["params"]["action_output"]["kernel"]
    assert np.any(np.asarray(trained) != pretrained)
    episodes = agent.rollout(4, jax.random.key(0))
    found = agent.discover(episodes)
    np.testing.assert_array_equal(found.beta[:, 0], 1.0)


def test_what_it_depends_on_follows_from_the_codes():
    settings = settings_of(codes="compile")
    assert settings.folder_of("internal_rl") == "internal_rl_compile"
    assert "metacontroller" not in settings.stage_config("internal_rl").values
    assert "compile" not in settings_of().stage_config("internal_rl").values
    assert "codes" not in settings.stage_config("compile").values


def test_a_config_without_the_section_has_neither():
    config = gridworld.get_config("smoke").to_dict()
    del config["compile"]
    settings = Settings.read(config)
    check_settings(settings)
    folders = [chosen.folder_of(stage) for stage, chosen in whole_run(settings)]
    assert "compile" not in folders and folders.count("internal_rl") == 1
    config["internal_rl"]["codes"] = "compile"
    with pytest.raises(ConfigError, match="internal_rl.codes: 'compile' given, allowed is metacon"):
        check_settings(Settings.read(config))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layer", 3, "compile.layer: 3 given, allowed is 1 to 2"),
        ("rank", 17, "compile.rank: 17 given, allowed is 0 .full. to 16"),
        ("prior_rate", 0.0, "compile.prior_rate: 0.0 given, allowed is above 0"),
    ],
)
def test_bad_settings_are_named(field, value, message):
    config = gridworld.get_config("smoke")
    config.compile[field] = value
    with pytest.raises(ConfigError, match=message):
        check_settings(Settings.read(config))
