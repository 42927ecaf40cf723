"""Memory of a stage by XLA's own analysis, without running it."""

import tempfile

from benchmarks import memory, random_inputs
from configs import ant, gridworld
from experiments import launch


def test_a_later_stage_compiles_on_random_parameters_of_the_earlier_ones():
    config = gridworld.get_config("smoke")
    figures = memory.measure(config, ["probe"])
    sizes = figures["probe"]
    assert sizes["seeds"] == 1
    parts = sizes["argument"] + sizes["output"] + sizes["temp"] - sizes["alias"]
    assert sizes["total"] == parts > 0
    lines = memory.table(
        {"fits": sizes, "large": sizes | {"total": 17 * 2**30}}, 16 * 2**30
    ).splitlines()
    assert "above" not in lines[1] and "above 16 GiB" in lines[2]


def test_a_dataset_counts_with_its_full_size():
    sizes = memory.measure(ant.get_config("smoke"), ["probe"])["probe"]
    # 8 episodes, 4 in a row of 64 tokens, of 39 observed numbers, 8 torques, 2 indices and a mask.
    assert sizes["dataset"] == 2 * 64 * (4 * (39 + 8 + 2) + 1)
    parts = sizes["argument"] + sizes["output"] + sizes["temp"] - sizes["alias"]
    assert sizes["total"] == parts + sizes["dataset"]


def test_random_parameters_are_published_for_every_seed():
    config = gridworld.get_config("smoke")
    config.pretrain.num_seeds = 2
    with tempfile.TemporaryDirectory() as workdir:
        random_inputs.publish_random_parameters(config, workdir)
        for seed in (0, 1):
            assert "params" in launch.load_upstream(config, workdir, "pretrain", seed)
