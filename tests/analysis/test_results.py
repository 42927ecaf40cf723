"""Which stage a folder of a work directory is of, and what a seed tells."""

import math

import pytest

from internal_rl.analysis.results import SeedResults, sorted_by_stage
from internal_rl.training.stage_directory import is_of, stage_of

STAGES = ("pretrain", "internal_rl", "internal_rl_search")


@pytest.mark.parametrize(
    ("folder", "stage"),
    [
        ("pretrain", "pretrain"),
        ("internal_rl_forced", "internal_rl"),
        ("internal_rl_search", "internal_rl_search"),
        ("internal_rl_search_forced", "internal_rl_search"),
        # A longer word is no variant.
        ("internal_rls", "internal_rls"),
        ("pretraining_long", "pretraining_long"),
    ],
)
@pytest.mark.parametrize("stages", [STAGES, STAGES[::-1]])
def test_a_folder_is_of_the_stage_with_the_longest_name(folder, stage, stages):
    assert stage_of(folder, stages) == stage
    assert is_of(folder, stage)


def test_variants_follow_their_stage_and_what_is_unknown_comes_last():
    folders = ["castle", "internal_rl_forced", "internal_rl_search", "pretrain", "internal_rl"]
    assert sorted_by_stage(folders, STAGES) == [
        "pretrain",
        "internal_rl",
        "internal_rl_forced",
        "internal_rl_search",
        "castle",
    ]


@pytest.mark.parametrize(
    ("folder", "episodes"), [("steer", 8), ("steer_by_layer_1", 16), ("probe", 0)]
)
def test_a_variant_reads_the_section_of_its_stage(folder, episodes):
    config = {"steer": {"evaluation_episodes": 8}, "steer_by_layer": {"evaluation_episodes": 16}}
    results = SeedResults(folder, 0, config, (), {})
    assert results.evaluation_episodes == episodes


def test_the_last_value_of_a_metric_is_that_of_the_last_line_that_has_it():
    lines = [
        {"step": 1, "loss": 3.0, "x": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": None},
    ]
    results = SeedResults("probe", 0, {}, lines, {})
    assert results.last("x") == 1.0 and results.last("step") == 3.0
    # What was no number in the end has no value, whatever it was before.
    assert math.isnan(results.last("loss")) and math.isnan(results.last("none of the kind"))
    judged = [{"step": 1, "evaluation/f1": 0.9}, {"step": 2, "evaluation/f1": None}, {"step": 3}]
    assert math.isnan(SeedResults("probe", 0, {}, judged, {}).scalar("f1"))


@pytest.mark.parametrize("folder", ["raw_rl", "raw_rl_wide"])
def test_the_task_of_a_policy_is_that_of_its_section(folder):
    config = {"internal_rl": {"task": "0-1"}, "raw_rl": {"task": "0-2"}}
    assert SeedResults(folder, 0, config, (), {}).task == "0-2"
    assert SeedResults(folder, 0, {"raw_rl": {}}, (), {}).task == ""
