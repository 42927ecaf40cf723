"""Memory of a stage by XLA's own analysis, without running it."""

import jax
import pytest

from benchmarks import memory
from configs import ant, gridworld
from internal_rl.stages.settings import Settings


@pytest.mark.slow
def test_a_later_stage_compiles_on_random_parameters_of_the_earlier_ones():
    settings = Settings.read(gridworld.get_config("smoke"))
    figures = memory.measure(settings, ["probe"])
    sizes = figures["probe"]
    assert sizes["seeds"] == 1
    parts = sizes["argument"] + sizes["output"] + sizes["temp"] - sizes["alias"]
    assert sizes["total"] == parts > 0
    lines = memory.table(
        {"fits": sizes, "large": sizes | {"total": 17 * 2**30}}, 16 * 2**30
    ).splitlines()
    assert "above" not in lines[1] and "above 16 GiB" in lines[2]


@pytest.mark.slow
def test_a_dataset_counts_with_its_full_size():
    sizes = memory.measure(Settings.read(ant.get_config("smoke")), ["probe"])["probe"]
    # 8 episodes, 4 in a row of 64 tokens, of 39 observed numbers, 8 torques, 2 indices and a mask.
    assert sizes["dataset"] == 2 * 64 * (4 * (39 + 8 + 2) + 1)
    parts = sizes["argument"] + sizes["output"] + sizes["temp"] - sizes["alias"]
    assert sizes["total"] == parts + sizes["dataset"]


def test_every_seed_has_a_model_of_its_own():
    stage = memory.make_stage("internal_rl", Settings.read(gridworld.get_config("smoke")), 2)
    assert stage.seeds == (0, 1)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(stage.frozen)} == {2}
    assert stage.frozen_axes.base_params == stage.frozen_axes.metacontroller_params == 0
