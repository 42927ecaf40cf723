"""Where arrays live: one mesh with the axes `seed` and `data`.

Seeds are independent runs of one program and are spread first; devices left over share the work of
each: the rows of a batch, the episodes of a rollout. What they do is written out (`jax.shard_map`),
so that they exchange nothing but sums of gradients and metrics and where the data stands. On one
device both axes have length one and nothing here costs anything.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import chex
import jax
import jax.numpy as jnp
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


def spread(function: Callable) -> Callable:
    """`function(*arguments)` run by every device of the axis `data`, which share the work.

    All devices get the same arguments. What they share out is told by `my_share`; what they find
    is brought together by `total` and `mean`, so that all return the same. A function that knows
    nothing of this does all the work on every device. The mesh is the one that the loop has set;
    without one, with a single device, or inside of another call nothing changes. Under the loop's
    vmap over seeds the seed axis is added in front; kernels need that even where each device has
    all the rows of its seeds, as no compiler divides them.
    """

    def run(*arguments):
        mesh = jax.sharding.get_abstract_mesh()
        if _is_shared() or mesh.size <= 1 or set(mesh.axis_names) != {SEED, DATA}:
            return function(*arguments)
        whole = PartitionSpec()
        return jax.shard_map(function, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)(
            *arguments
        )

    return run


def by_all_devices(function: Callable) -> Callable:
    """`function`, compiled and run by all devices of this process, see `spread`.

    For what is done with one seed after training, whose arrays lie on one device. What it shares
    out is told by `my_share`, as `acting.episodes.act` does on demand.
    """
    compiled = jax.jit(spread(function))

    def run(*arguments):
        devices = jax.local_devices()
        if len(devices) == 1:
            return compiled(*arguments)
        mesh = make_mesh(1, devices)
        with jax.set_mesh(mesh):
            found = compiled(*jax.device_put(arguments, replicated(mesh)))
        return jax.device_put(found, devices[0])

    return run


def _is_shared() -> bool:
    """Whether the program that is being traced is run by one of several devices in `spread`."""
    return DATA in jax.sharding.get_abstract_mesh().manual_axes


def num_shares() -> int:
    """Devices that share the work; 1 outside of `spread`."""
    return jax.sharding.get_abstract_mesh().shape[DATA] if _is_shared() else 1


def share_number() -> chex.Numeric:
    """Which of the devices this is, from 0."""
    return jax.lax.axis_index(DATA) if _is_shared() else 0


def share_size(number: int) -> int:
    """Things that one device does of `number`; all together may do a few more."""
    return -(-number // num_shares())


_side_by_side: list[int] = []


@contextlib.contextmanager
def side_by_side(num_seeds: int) -> Iterator[None]:
    """Traces a program of which one device runs copies for several seeds, by `jax.vmap`."""
    _side_by_side.append(num_seeds)
    try:
        yield
    finally:
        _side_by_side.pop()


def seeds_side_by_side() -> int:
    """Seeds that one device runs in the program that is being traced; 1 where nothing is said."""
    return _side_by_side[-1] if _side_by_side else 1


def total(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Sums over the devices that share the work."""
    return jax.lax.psum(tree, DATA) if num_shares() > 1 else tree


def mean(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Means over the devices that share the work."""
    return jax.lax.pmean(tree, DATA) if num_shares() > 1 else tree


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows that one device makes of a batch.

    Attributes:
      first: `()` int32 number of the first of them.
      rows: `(n,)` int32 their numbers in the batch; a few devices have the last one again.
      own: `(n,)` bool, those that no other device has.
      num_rows: of the whole batch.
    """

    first: chex.Numeric
    rows: chex.Array
    own: chex.Array
    num_rows: int

    def together(self, leaf: chex.Array) -> chex.Array:
        """What all devices have for their rows `(n, ...)`: `(num_rows, ...)`."""
        return jax.lax.all_gather(leaf, DATA, tiled=True)[: self.num_rows]


def my_share(num_rows: int) -> Share:
    """The share of this device in a batch of rows, inside of `spread`."""
    size = share_size(num_rows)
    first = share_number() * size
    rows = first + jnp.arange(size, dtype=jnp.int32)
    return Share(first, jnp.minimum(rows, num_rows - 1), rows < num_rows, num_rows)
