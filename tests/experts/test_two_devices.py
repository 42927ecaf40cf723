"""Expert streams whose lanes are spread over two devices, and positions that recompile nothing."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.devices import several_devices
from tests.experts.test_x64_and_mesh import STREAMS, make_dataset, make_stream
from tests.training.test_loop import ROOT

LANES = PartitionSpec("lane")


def assert_same_on_two_devices(name):
    """Run in a process of its own, as the number of devices is fixed when JAX starts."""
    stream = make_stream(name)
    state = stream.init(jax.random.key(0), 4)
    expected = jax.jit(stream.next)(state)
    mesh = jax.make_mesh((2,), ("lane",), axis_types=(AxisType.Explicit,))
    spread = jax.device_put(state, NamedSharding(mesh, LANES))
    mapped = jax.shard_map(stream.next, mesh=mesh, in_specs=LANES, out_specs=LANES)
    found = [jax.jit(mapped)(spread)]
    with jax.set_mesh(mesh):
        found.append(jax.jit(stream.next)(spread))
    for rows in found:
        jax.tree.map(np.testing.assert_array_equal, rows, expected)
        assert all(leaf.sharding.spec[0] == "lane" for leaf in jax.tree.leaves(rows))


def test_spread_lanes_give_the_same_rows():
    code = "from tests.experts import test_two_devices as t; t.assert_same_on_two_devices('pool')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=several_devices(2), check=True)


@pytest.mark.parametrize("name", [*STREAMS, "dataset"])
def test_positions_keep_their_types(name):
    source = make_dataset() if name == "dataset" else make_stream(name)
    position = jax.eval_shape(lambda: source.init(jax.random.key(0), 4))
    after, rows = jax.eval_shape(source.next, position, source.arrays)

    def types(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)

    assert types(after) == types(position)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(rows))
