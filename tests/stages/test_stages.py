"""All stages in order at smoke size, through the command line, and what a user does wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from configs import gridworld
from internal_rl import run_stages
from internal_rl.analysis.encoder_injection import INJECTION_MOMENTS
from internal_rl.analysis.study import SKIPPED
from internal_rl.methods.discovery import VARIANTS
from tests.training.test_loop import ROOT


def run_script(name, workdir, *arguments, world="gridworld"):
    command = [sys.executable, "-m", f"experiments.{name}", f"--config=configs/{world}.py:smoke"]
    return subprocess.run(
        [*command, f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


TRAINED = ("pretrain", "probe", "steer", "metacontroller", "internal_rl", "raw_rl")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run_stages(gridworld.get_config("smoke"), folder, [*TRAINED, "report"])
    return folder


def check_trained(workdir, stages):
    for stage in stages:
        folder = workdir / stage / "seed_0"
        for name in ("DONE", "params.msgpack", "artifacts.npz", "config.json", "versions.json"):
            if (stage, name) != ("probe", "artifacts.npz"):
                assert (folder / name).exists(), (stage, name)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        assert lines[-1]["step"] == 8 and all("loss" in line for line in lines)


def test_every_stage_leaves_its_parameters_and_metrics(workdir):
    check_trained(workdir, TRAINED)


def artifacts_of(workdir, stage):
    with np.load(workdir / stage / "seed_0" / "artifacts.npz") as file:
        return dict(file)


def test_the_base_model_is_measured(workdir):
    results = artifacts_of(workdir, "pretrain")
    assert 0.0 <= results["unseen_transition_rate"] <= 1.0
    assert results["transition_counts"].shape == (4, 4)
    assert results["sampled_episodes"] == 16


def test_controllers_are_measured_at_every_layer(workdir):
    results = artifacts_of(workdir, "steer")
    assert results["success"].shape == results["colours_visited"].shape == (3,)
    assert len(results["reached"]) == 3


def test_the_metacontroller_is_measured(workdir):
    results = artifacts_of(workdir, "metacontroller")
    names = {"f1", "kl_changes", "active_units", "decoding_accuracy", "decoding_majority"}
    assert names <= set(results)
    for visits in INJECTION_MOMENTS:
        assert 0.0 <= results[f"injection_{visits}_reach_injected"] <= 1.0
        assert f"injection_{visits}_reach_unseen_prior" in results
    assert results["sampled_code_found"].shape == (4,)
    for test in ("step", "unseen"):
        assert results[f"sampled_code_{test}_tried"].shape == (5, 4)
    assert results["example_beta"].shape == results["example_mask"].shape
    assert len(results["example_subgoal"]) == 5
    assert results["example_place"].shape == (*results["example_beta"].shape, 2)
    np.testing.assert_array_equal(results["example_beta"][:, 0], 1.0)
    assert SKIPPED not in results


@pytest.mark.slow
def test_a_whole_run_makes_the_variants_too(tmp_path):
    result = run_script("reproduce", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    others = [name for name in VARIANTS if name != "discovered"]
    variants = [f"{stage}_{name}" for stage in TRAINED[3:5] for name in others]
    check_trained(tmp_path, [*TRAINED, *variants, "compile", "internal_rl_compile"])
    assert (tmp_path / "report" / "table.md").exists()


def test_report_holds_the_summary_and_figures(workdir):
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    for name in ("internal_rl_success", "raw_rl_success", "switching_f1", "wall_seconds"):
        assert isinstance(summary[name], float), name
    assert len(list((workdir / "report").glob("*.png"))) >= 5
    assert (workdir / "report" / "table.md").exists()


def test_finished_stages_are_skipped(workdir):
    before = (workdir / "pretrain" / "seed_0" / "params.msgpack").stat().st_mtime_ns
    assert run_script("pretrain", workdir).returncode == 0
    assert (workdir / "pretrain" / "seed_0" / "params.msgpack").stat().st_mtime_ns == before


def test_missing_stage_names_the_command_that_makes_it(tmp_path):
    result = run_script("probe", tmp_path)
    assert result.returncode == 2
    assert "python -m experiments.pretrain" in result.stderr.splitlines()[-1]


def test_other_settings_are_refused(workdir):
    result = run_script("probe", workdir, "--config.base.width=32")
    assert result.returncode == 2
    assert "base.width" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("script", "argument", "named"),
    [
        ("metacontroller", "--config.metacontroller.layer=7", "metacontroller.layer"),
        ("internal_rl", "--config.internal_rl.task=0-9", "internal_rl.task"),
    ],
)
def test_bad_values_are_named(workdir, script, argument, named):
    result = run_script(script, workdir, argument)
    assert result.returncode == 2
    assert named in result.stderr.splitlines()[-1]
