"""Where arrays live: one mesh with the axes `seed` and `data`.

Seeds are independent runs of one program and are spread first; devices left over share the rows
of a batch. On one device both axes have length one and nothing here costs anything.
"""

import math
from collections.abc import Sequence

import chex
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SEED = "seed"
DATA = "data"


def make_mesh(num_seeds: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a stage.

    Args:
      num_seeds: seeds trained by one program.
      devices: devices to use, all by default.

    Returns:
      A mesh whose `seed` axis is the largest that divides both seeds and devices.
    """
    devices = jax.devices() if devices is None else devices
    seed_axis = math.gcd(num_seeds, len(devices))
    axis_types = (AxisType.Auto, AxisType.Auto)
    return Mesh(np.asarray(devices).reshape(seed_axis, -1), (SEED, DATA), axis_types=axis_types)


def seed_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over `seed`, the rest copied."""
    return NamedSharding(mesh, PartitionSpec(SEED))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shard_rows(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Spreads the leading (batch) axis over `data`; for use inside an update.

    The mesh is the one the loop has set. Without one nothing happens, nor in a mesh of somebody
    else: one without an axis `data`, or whose axes are explicit, where types of arrays say where
    they live. Under the loop's vmap over seeds the seed axis is added in front.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or DATA not in mesh.axis_names:
        return tree
    if mesh.axis_types[mesh.axis_names.index(DATA)] != AxisType.Auto:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec(DATA))
