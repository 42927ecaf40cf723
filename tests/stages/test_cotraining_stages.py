"""Co-training as stages: the base model that learns with the metacontroller is kept with it."""

import json

import jax
import numpy as np
import pytest

from benchmarks.random_inputs import random_method
from configs import ant, gridworld
from internal_rl import load, run_stages
from internal_rl.stages.build import make_base
from internal_rl.stages.places import Places
from internal_rl.stages.running import make_stage
from internal_rl.stages.settings import Settings
from internal_rl.training.metrics import read_metrics
from internal_rl.training.program import Program
from internal_rl.training.stage_directory import StageDirectory
from tests.marks import quick
from tests.parameters import drawn
from tests.stages.test_seeds import finish

FOLDERS = ("metacontroller_cotrained", "internal_rl_cotrained")


def settings_of(**fields):
    config = gridworld.get_config("smoke")
    config.metacontroller.update({"variant": "cotrained"} | fields)
    return Settings.read(config)


def test_worlds_start_it_as_the_paper_does():
    for module, expected in ((gridworld, "random"), (ant, "pretrained")):
        for preset in ("smoke", "small", "paper"):
            assert module.get_config(preset).metacontroller.base_from == expected


def test_pretraining_decides_it_only_where_it_starts_there():
    random, pretrained = settings_of(), settings_of(base_from="pretrained")
    for stage in ("metacontroller", "internal_rl"):
        assert random.folder_of(stage) == f"{stage}_cotrained"
        assert "pretrain" not in random.stage_config(stage).values
        assert "pretrain" in pretrained.stage_config(stage).values
        assert random.stage_config(stage).values["metacontroller"]["base_from"] == "random"
    assert "pretrain" in random.stage_config("raw_rl").values


def test_what_a_frozen_base_model_starts_from_is_no_question():
    values = settings_of(variant="forced").stage_config("internal_rl").values
    assert "base_from" not in values["metacontroller"]
    both = [settings_of(variant="forced", base_from=name) for name in ("random", "pretrained")]
    assert both[0].stage_config("metacontroller") == both[1].stage_config("metacontroller")


def finished(settings, workdir):
    """Finishes a metacontroller that keeps its base model; its parameters."""
    stage = make_stage(settings, "metacontroller", Places(workdir))
    params = drawn(lambda key: stage.params(stage.init(key, stage.frozen)))
    directory = StageDirectory(workdir, FOLDERS[0], 0)
    directory.begin(settings.stage_config("metacontroller"), [0])
    directory.save_params(params)
    directory.finish(settings.metacontroller.steps)
    directory.release()
    return params


def test_internal_rl_and_agents_act_with_the_base_model_that_is_kept(tmp_path):
    params = finished(settings_of(), tmp_path)
    # Nothing else is there: no pretraining.
    stage = make_stage(settings_of(), "internal_rl", Places(tmp_path))
    agent = load(tmp_path, variant="cotrained")
    assert agent.model.layer == stage.frozen.layer == settings_of().metacontroller.layer
    for model in (stage.frozen, agent.model):
        found = (model.base_params, model.metacontroller_params)
        expected = (params["base"], params["metacontroller"])
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    update = jax.eval_shape(stage.init, jax.random.key(0), stage.frozen)
    assert "loss" in jax.eval_shape(stage.update, update, stage.frozen)[1]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Discovery and internal RL as they are trained."""
    folder = tmp_path_factory.mktemp("cotrained")
    run_stages(settings_of(), folder, ["metacontroller", "internal_rl"], log=False)
    return folder


@pytest.mark.slow
def test_it_trains_as_a_stage_and_internal_rl_on_it(workdir):
    for folder in FOLDERS:
        assert read_metrics(workdir / folder / "seed_0")[-1]["step"] == 8
    stored = json.loads((workdir / FOLDERS[1] / "seed_0" / "config.json").read_text())["config"]
    assert stored["metacontroller"]["variant"] == "cotrained"
    run_stages(settings_of(), workdir, ["report"], log=False)
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    assert {"cotrained_switching_f1", "internal_rl_cotrained_success"} <= set(summary)
    table = (workdir / "report" / "table.md").read_text()
    assert "| co-training, success on the task |" in table


@pytest.mark.slow
def test_stopped_half_way_it_goes_on_to_the_same_bits(workdir, tmp_path):
    for steps in (4, 8):
        run_stages(settings_of(steps=steps), tmp_path, ["metacontroller"], log=False)
    names = ("params.msgpack", "artifacts.npz")
    whole, parts = (folder / FOLDERS[0] / "seed_0" for folder in (workdir, tmp_path))
    assert all((whole / name).read_bytes() == (parts / name).read_bytes() for name in names)


@pytest.mark.parametrize("seeds", [1, 2])
def test_from_pretraining_every_seed_starts_from_its_own_base_model(tmp_path, seeds):
    settings = settings_of(base_from="pretrained").updated("pretrain", num_seeds=seeds)
    settings = settings.updated("metacontroller", seeds_per_input=2 // seeds)
    base = make_base(settings)
    finish(settings, tmp_path, "pretrain", lambda key: drawn_for(base, key))
    stage = make_stage(settings, "metacontroller", Places(tmp_path))
    program = Program(stage)
    start = program.initial_state().params["base"]
    for seed in (0, 1):
        expected = Places(tmp_path).load(settings, "pretrain", seed % seeds)
        found = jax.tree.map(lambda leaf, seed=seed: leaf[seed], start)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def drawn_for(base, key):
    """Parameters of a seed, which differ from those of others."""
    params = drawn(base.initial_params)
    return jax.tree.map(lambda leaf: leaf + jax.random.uniform(key), params)


@pytest.mark.parametrize("world", quick(["gridworld", "ant"], ["gridworld"]))
def test_an_update_is_traced_in_both_worlds(world):
    config = {"gridworld": gridworld, "ant": ant}[world].get_config("smoke")
    config.metacontroller.variant = "cotrained"
    method = random_method("metacontroller", Settings.read(config))
    state = jax.eval_shape(method.init, jax.random.key(0), method.frozen)
    after, metrics = jax.eval_shape(method.update, state, method.frozen)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert set(after.params) == {"metacontroller", "base"} and "kl" in metrics
