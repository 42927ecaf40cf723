"""Episodes that the TPU kernel plays, which is interpreted here, are those of the loop of XLA."""

import functools

import jax
import numpy as np
import pytest

from internal_rl import backend
from internal_rl.envs.gridworld import GridWorld
from internal_rl.envs.tasks import task_array
from internal_rl.experts import rollout_kernel
from internal_rl.experts.grid_data import ExpertStream
from tests.experts.test_pinned_streams import STREAMS


def rows(name, num_lanes):
    config, settings, tasks, _ = STREAMS[name]
    world = GridWorld(config)
    tasks = tasks or world.task_set.pretraining
    stream = ExpertStream(world, task_array(tasks, max(map(len, tasks))), **settings)
    return jax.jit(stream.next_tokens)(stream.init(jax.random.key(5), num_lanes))


# Fewer lanes than a register has, and more: the second run has columns that nothing belongs to.
@pytest.mark.parametrize(
    ("name", "num_lanes"), [("paper with noise", 3), ("clean", 131), ("little time", 5)]
)
def test_the_kernel_plays_what_the_loop_plays(name, num_lanes, monkeypatch):
    expected = rows(name, num_lanes)
    runs = []

    def interpreted(*args, **keywords):
        runs.append(args)
        return run(*args, **keywords, interpret=True)

    run = rollout_kernel.run
    monkeypatch.setattr(rollout_kernel, "suits", lambda tables: True)
    monkeypatch.setattr(rollout_kernel, "run", interpreted)
    jax.tree.map(np.testing.assert_array_equal, rows(name, num_lanes), expected)
    assert len(runs) == 1


def test_tables_that_a_core_does_not_hold_are_left_to_the_loop():
    tables = functools.partial(np.zeros, dtype=np.uint32)
    assert not rollout_kernel.suits([tables((4, 10))])
    with backend.traced_for("tpu"):
        assert rollout_kernel.suits([tables((4, 10)), tables((4, 8000))])
        assert not rollout_kernel.suits([tables((4, 10)), tables((4, 8200))])
