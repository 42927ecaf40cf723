"""A method from outside is one file and one line: its stage trains, reports and is checked."""

import dataclasses
import functools
import json
from typing import ClassVar

import chex
import jax
import numpy as np
import pytest

import internal_rl as irl
from configs import gridworld
from internal_rl.acting.episodes import NoControl
from internal_rl.checksums import write_checked_json
from internal_rl.errors import ConfigError, StageConflictError, StageMissingError
from internal_rl.methods import discovery, internal_rl
from internal_rl.methods.reinforcement.trainer import POLICY_STAGES
from internal_rl.stages import catalogue, run_stages, trained
from internal_rl.stages.settings import Settings
from internal_rl.training.metrics import read_metrics
from internal_rl.training.stage_directory import StageDirectory
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


def test_a_policy_from_outside_is_measured_and_drawn_as_the_others_are(config, tmp_path, request):
    before = list(POLICY_STAGES)
    request.addfinalizer(lambda: POLICY_STAGES.__setitem__(slice(None), before))
    catalogue.register_stage(STAGE)
    catalogue.register_stage(STAGE)
    assert [*before, "scratch_rl"] == POLICY_STAGES
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
)


def test_codes_from_outside_are_what_a_policy_chooses_among(tmp_path, monkeypatch):
    monkeypatch.setitem(catalogue.STAGES, "own_codes", CODES)
    config = gridworld.get_config("smoke")
    config.own_codes.update({name: config.metacontroller[name] for name in config.own_codes})
    for stage in ("pretrain", "own_codes", "internal_rl"):
        config[stage].update({"steps": 2, "log_every": 2, "checkpoint_every": 2})
        config[stage].evaluate_every = 0
    config.internal_rl.codes = "own_code"
    with pytest.raises(ConfigError, match="codes: 'own_code' .* metacontroller, compile, own_c"):
        run_stages(config, tmp_path, ["pretrain"])
    config.internal_rl.codes = "own_codes"
    run_stages(config, tmp_path, ["pretrain", "own_codes", "internal_rl"])
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
