"""Memory of a stage by XLA's own analysis, without running it."""

import tempfile

from benchmarks import memory
from configs import gridworld
from experiments import launch


def test_a_later_stage_compiles_on_random_parameters_of_the_earlier_ones():
    config = gridworld.get_config("smoke")
    figures = memory.measure(config, ["probe"])
    sizes = figures["probe"]
    assert sizes["seeds"] == 1
    parts = sizes["argument"] + sizes["output"] + sizes["temp"] - sizes["alias"]
    assert sizes["total"] == parts > 0
    lines = memory.table({"fits": sizes, "large": sizes | {"total": 17 * 2**30}}).splitlines()
    assert "above" not in lines[1] and "above 16 GiB" in lines[2]


def test_random_parameters_are_published_for_every_seed():
    config = gridworld.get_config("smoke")
    config.pretrain.num_seeds = 2
    with tempfile.TemporaryDirectory() as workdir:
        memory.publish_random_parameters(config, workdir)
        for seed in (0, 1):
            assert "params" in launch.load_upstream(config, workdir, "pretrain", seed)
