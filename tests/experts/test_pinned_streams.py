"""Streams are what they were: digests of all that is drawn, noted when tables held distances."""

import hashlib
import operator

import jax
import numpy as np
import pytest

from internal_rl.envs.gridworld import PRESETS, GridWorld, GridWorldConfig
from internal_rl.envs.tasks import task_array
from internal_rl.experts.grid_data import ExpertStream

NOISE = {"epsilon": 0.2, "sequence_length": 110}
CLEAN = {"ties": "fork", "include_terminal": True, "sequence_length": 64}
CURRICULUM = {"ties": "axis", "sequence_length": 64, "include_terminal": True, "epsilon": 0.1}
HASTY = {"ties": "departures", "epsilon": 0.6, "sequence_length": 40}
SMALL = GridWorldConfig(**(vars(PRESETS["small"]) | {"num_layouts": 8}))
RANDOM = GridWorldConfig(grid_size=5, num_colours=4, num_walls=3, time_limit=12, tasks="ant-pinpad")
STREAMS = {
    "paper": (PRESETS["paper"], {}, None, "8863f0e760242dcf"),
    "paper with noise": (PRESETS["paper"], NOISE, None, "71332460348130b7"),
    "clean": (PRESETS["smoke"], CLEAN, None, "8ba93cf856f2db40"),
    "curriculum": (SMALL, CURRICULUM, ((0, 4, 3, 2), (1, 0, 4, 3)), "231112d33c894d92"),
    "little time": (RANDOM, HASTY, None, "dfb831c2b020e0e4"),
}


def digest(config, settings, tasks):
    world = GridWorld(config)
    tasks = tasks or world.task_set.pretraining
    stream = ExpertStream(world, task_array(tasks, max(map(len, tasks))), **settings)

    def call(state, _):
        state, tokens = stream.next_tokens(state)
        return state, (state, tokens, stream.trajectory(tokens))

    rows = jax.jit(lambda state: jax.lax.scan(call, state, length=2)[1])
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(rows(stream.init(jax.random.key(7), 3))):
        found.update(f"{leaf.shape} {leaf.dtype}".encode() + np.asarray(leaf).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("name", STREAMS)
def test_rows_have_not_changed_by_a_bit(name):
    config, settings, tasks, expected = STREAMS[name]
    assert digest(config, settings, tasks) == expected


@pytest.mark.slow
def test_streams_of_several_seeds_at_once_are_those_of_each():
    world = GridWorld(RANDOM)
    stream = ExpertStream(world, world.pretraining_tasks, sequence_length=24, epsilon=0.1)
    states = [stream.init(jax.random.key(seed), 3) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    together = jax.jit(jax.vmap(stream.next))(stacked)
    for seed, state in enumerate(states):
        alone = jax.jit(stream.next)(state)
        mine = jax.tree.map(operator.itemgetter(seed), together)
        jax.tree.map(np.testing.assert_array_equal, mine, alone)
