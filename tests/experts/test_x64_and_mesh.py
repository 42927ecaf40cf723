"""Sources of data under `JAX_ENABLE_X64` and inside of `jax.shard_map`: the same arrays."""

import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from internal_rl.experts.dataset import Dataset
from internal_rl.experts.grid_data import ExpertStream
from internal_rl.experts.references import log_probs
from tests.training.test_loop import ROOT

POOL = {"num_walls": 1, "num_layouts": 3, "min_colour_distance": 2}
STREAMS = {"pool": (POOL, "departures"), "random layouts": ({"num_walls": 3}, "random")}


@functools.cache
def make_stream(name):
    config, ties = STREAMS[name]
    world = GridWorld(
        GridWorldConfig(grid_size=5, num_colours=4, time_limit=40, tasks="ant-pinpad", **config)
    )
    return ExpertStream(
        world,
        world.pretraining_tasks,
        ties=ties,
        epsilon=0.1,
        sequence_length=64,
        include_terminal=True,
    )


@functools.cache
def make_dataset():
    rng = np.random.default_rng(0)
    observation, action = rng.normal(size=(30, 9, 3)), rng.normal(size=(30, 8, 2))
    length, subgoal = rng.integers(3, 9, 30), rng.integers(0, 2, (30, 8))
    return Dataset.from_arrays(observation, action, length, subgoal, sequence_length=20)


def results():
    """Arrays by name of everything that a source gives."""
    found = {}

    def keep(name, tree):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[name + jax.tree_util.keystr(path)] = np.asarray(leaf)

    for name in STREAMS:
        stream = make_stream(name)
        state = stream.init(jax.random.key(0), 4)
        keep(f"{name} state", state)

        @jax.jit
        def call(state, stream=stream):
            state, tokens = stream.next_tokens(state)
            return state, tokens, stream.trajectory(tokens), log_probs(stream, tokens)

        keep(f"{name} next", call(state))
    keep("references", make_stream("pool").references(jax.random.key(1), 64))
    data = make_dataset()
    position = data.init(jax.random.key(0), 4)
    keep("dataset position", position)
    keep("dataset next", jax.jit(data.next)(position, data.arrays))
    keep("dataset held out", data.held_out(jax.random.key(0), 5, data.arrays))
    return found


@pytest.mark.slow
def test_x64_changes_neither_integers_nor_types(tmp_path):
    file = tmp_path / "found.npz"
    code = (
        "import sys, numpy as np; from tests.experts.test_x64_and_mesh import results;"
        "np.savez(sys.argv[1], **results())"
    )
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, env=environment, check=True)
    found, expected = np.load(file), results()
    assert set(found) == set(expected) and len(expected) > 60
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        if array.dtype.kind == "f":
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("name", STREAMS)
def test_lanes_can_be_mapped_over_a_mesh(name):
    stream = make_stream(name)
    state = stream.init(jax.random.key(0), 4)
    mesh = jax.make_mesh((1,), ("lane",), axis_types=(jax.sharding.AxisType.Auto,))
    lanes = jax.sharding.PartitionSpec("lane")
    mapped = jax.shard_map(
        lambda state: stream.next(state, stream.arrays), mesh=mesh, in_specs=lanes, out_specs=lanes
    )
    found, expected = jax.jit(mapped)(state), jax.jit(stream.next)(state, stream.arrays)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", STREAMS)
def test_what_a_stream_closes_over_is_on_the_host(name):
    """So that it can be compiled for any device, and built inside of a compiled program."""
    for value in jax.tree.leaves(list(vars(make_stream(name)).values())):
        assert not isinstance(value, jax.Array)
