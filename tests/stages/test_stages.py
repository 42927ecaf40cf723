"""A whole run at smoke size with its studies and its page, and what a user does wrong."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from configs import gridworld
from internal_rl.analysis.encoder_injection import INJECTION_MOMENTS
from internal_rl.analysis.study import SKIPPED
from internal_rl.methods.discovery import VARIANTS
from internal_rl.stages import reproducing
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from tests.stages.test_page import page_of
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
OTHERS = tuple(
    f"{stage}_{name}"
    for stage in ("metacontroller", "internal_rl")
    for name in VARIANTS
    if name != "discovered"
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """What `experiments.reproduce` makes from nothing."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    reproducing.reproduce(Settings.read(gridworld.get_config("smoke")), Places(folder))
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
    check_trained(workdir, [*TRAINED, *OTHERS, "compile", "internal_rl_compile"])


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


def test_report_holds_the_summary_and_figures(workdir):
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    for name in ("internal_rl_success", "raw_rl_success", "switching_f1", "wall_seconds"):
        assert isinstance(summary[name], float), name
    assert len(list((workdir / "report").glob("*.png"))) >= 5
    assert (workdir / "report" / "table.md").exists()


def test_the_page_shows_every_figure_of_the_method(workdir):
    check_page(workdir)


def check_page(workdir, impossible=()):
    """Every figure of method §7, which names what makes it, is on the page of a whole run.

    Args:
      workdir: of the run.
      impossible: studies over several runs that the world cannot have.
    """
    text = (ROOT / "docs" / "method.md").read_text().partition("## §7")[2]
    names = re.findall(r"`analysis/(\w+(?:/\w+)?)\.py`", text)
    assert len(names) == 10
    shown = [f"study-{name.replace('sweeps/', 'sweep-')}" for name in names]
    # One file has four studies.
    shown.remove("study-sweep-controllers")
    ablations = {"age", "weight_decay", "observation_loss", "noise"}
    ablations = {f"ablation_{name}" for name in ablations} - set(impossible)
    shown += [f"study-sweep-{name}" for name in sorted(ablations)]
    # The injected paths stand beside their rates.
    shown = [name.replace("injected_paths", "injection") for name in shown]
    page, told = page_of(workdir), re.compile(r"\d+ (run|base model)s?\b")
    for part in shown:
        pictures = page.all("img", part)
        assert pictures and all(told.search(x["alt"]) for x in pictures), part
        assert "commit " in " ".join(x["text"] for x in page.all("ul", part)), part
    assert not page.all("li", "faults")
    # No figure of the method is made by the only study that is left.
    missing = [x["text"] for x in page.all("tr", "missing") if "--study=" in x["text"]]
    assert len(missing) == 1 and missing[0].startswith("study selection")
    assert len(page.all("tr", "missing")) == len(missing) + 1


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
