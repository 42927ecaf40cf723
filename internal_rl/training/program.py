"""The compiled functions of a stage."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from internal_rl import hosts
from internal_rl.backend import exact_products, on_cpu
from internal_rl.host_compiler import warn_of_host_compiler
from internal_rl.training import mesh as mesh_lib
from internal_rl.training.randomness import is_key, with_keys, without_keys
from internal_rl.training.stage import Frozen, Metrics, Stage, State, map_frozen
from internal_rl.training.traced_size import check_size


def _strong(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Takes weak types away: a leaf that changes its weak type would compile everything anew."""

    def strengthen(leaf):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return leaf
        return jax.lax.convert_element_type(leaf, dtype)

    return jax.tree.map(strengthen, tree)


def _all_finite(tree: chex.ArrayTree) -> jax.Array:
    """Whether every inexact leaf is finite, `()` bool."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in leaves] or [jnp.array(True)]))


def _shapes(tree: chex.ArrayTree, sharding: jax.sharding.Sharding) -> chex.ArrayTree:
    """Shapes and dtypes in place of arrays, where devices are only described."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


class Program:
    """The functions of a stage, compiled for all its seeds and placed on the devices.

    One seed runs without a seed axis, several are vmapped and have one in front of every leaf.

    For devices that are only described (`jax.experimental.topologies`) it can be compiled, not run.

    Attributes:
      batched: the state has a leading seed axis.
      frozen: the constants, on the devices.
      compiled: the update as compiled, for its text and analyses; None before `compile`.
    """

    def __init__(self, stage: Stage, devices: Sequence[jax.Device] | None = None):
        """Makes the functions; none is compiled yet.

        Args:
          stage: what is trained.
          devices: where; all that there are by default.
        """
        if on_cpu():
            warn_of_host_compiler()
        if hosts.several():
            each = ", ".join(map(str, hosts.devices_of_each()))
            logging.info("%s: devices of each process: %s", stage.name, each)
        self._stage = stage
        self.batched = len(stage.seeds) > 1
        self._mesh = mesh_lib.make_mesh(len(stage.seeds), devices)
        self._described = not set(self._mesh.devices.flat) <= set(jax.devices())
        self._sharding = self._sharding_of(self.batched)
        self.frozen = self._place_frozen()
        keys = jnp.stack([jax.random.key(seed) for seed in stage.seeds])
        keys = keys if self.batched else keys[0]
        self._keys = keys if self._described else self._place(keys, self._sharding)
        self._init = self._jit(lambda key, frozen: _strong(stage.init(key, frozen)), self._sharding)
        self._evaluate = stage.evaluate and self._jit(mesh_lib.spread(stage.evaluate))
        self._evaluated = None
        self._all_finite = self._jit(lambda state, frozen: _all_finite(stage.params(state)))
        self.compiled = None
        self._traced_update = self._traced_evaluation = None

    @property
    def whole(self) -> jax.sharding.NamedSharding:
        """A copy on every device."""
        return mesh_lib.replicated(self._mesh)

    @property
    def _metrics_sharding(self) -> jax.sharding.NamedSharding:
        """Metrics of a seed stay where it is trained, unless other processes want them too."""
        return self.whole if hosts.several() else self._sharding

    def _per_seed(self, function: Callable) -> Callable:
        """`(state or key, frozen)` of one seed -> of all seeds."""
        if not self.batched:
            return function
        axes = (0, self._stage.frozen_axes)
        return jax.vmap(function, in_axes=axes, spmd_axis_name=mesh_lib.SEED)

    def _jit(self, function: Callable, sharding: jax.sharding.Sharding | None = None) -> Callable:
        """Compiled for all seeds; by default every process has the whole result."""
        sharding = self.whole if sharding is None else sharding
        return jax.jit(self._per_seed(function), out_shardings=sharding)

    def _call(self, compiled: Callable, *arguments) -> chex.ArrayTree:
        with self._traced():
            return compiled(*arguments)

    @contextlib.contextmanager
    def _traced(self) -> Iterator[None]:
        """What every function is traced with: the mesh, and the precision of the stage."""
        exact = self._stage.computed.get("precision") == "float32"
        with jax.set_mesh(self._mesh), exact_products(exact):
            yield

    def _sharding_of(self, has_seed_axis: bool) -> jax.sharding.NamedSharding:
        shard = mesh_lib.seed_sharding if has_seed_axis else mesh_lib.replicated
        return shard(self._mesh)

    def _place_frozen(self) -> Frozen:
        def place(axis, subtree):
            if axis is not None and not self.batched:
                subtree = jax.tree.map(lambda leaf: leaf[0], subtree)
            sharding = self._sharding_of(axis is not None and self.batched)
            if self._described:
                return _shapes(subtree, sharding)
            return _strong(self._place(subtree, sharding))

        return map_frozen(place, self._stage.frozen_axes, self._stage.frozen)

    def _place(self, tree: chex.ArrayTree, sharding: jax.sharding.Sharding) -> chex.ArrayTree:
        """Puts arrays that every process has on the devices of all of them."""
        if not hosts.several():
            return jax.device_put(tree, sharding)

        def put(leaf):
            leaf = jnp.asarray(leaf) if np.isscalar(leaf) else leaf
            data = jax.device_put(np.asarray(without_keys(leaf)), sharding)
            if not is_key(leaf):
                return data
            return jax.jit(lambda data: with_keys(data, leaf), out_shardings=sharding)(data)

        return jax.tree.map(put, tree)

    def initial_state(self) -> State:
        """The state of all seeds at step 0."""
        return self._call(self._init, self._keys, self.frozen)

    def place_state(self, state: State) -> State:
        """Puts a state on the devices."""
        return self._place(state, self._sharding)

    def state_template(self) -> State:
        """Shapes and dtypes of the state of all seeds."""
        keys = _shapes(self._keys, self._sharding) if self._described else self._keys
        return self._call(self._init.eval_shape, keys, self.frozen)

    def _updates(self, state: State, frozen: Frozen, count: jax.Array) -> tuple[State, Metrics]:
        """`count` updates; metrics are means over them."""
        # Traced once, for its shapes and in the loop.
        update = jax.jit(self._per_seed(mesh_lib.spread(self._stage.update)))
        shapes = jax.eval_shape(update, state, frozen)[1]
        expected = (len(self._stage.seeds),) if self.batched else ()
        for name, shape in shapes.items():
            if shape.shape != expected:
                raise ValueError(f"{self._stage.name}: metric {name} is not a scalar")
        if "loss" not in shapes:
            raise ValueError(f"{self._stage.name}: the metrics lack a loss")

        def body(_, carry):
            state, sums = carry
            state, metrics = update(state, frozen)
            return _strong(state), jax.tree.map(lambda s, m: s + m.astype(s.dtype), sums, metrics)

        sums = jax.tree.map(lambda shape: jnp.zeros(shape.shape, jnp.float32), shapes)
        state, sums = jax.lax.fori_loop(0, count, body, (state, sums))
        return state, jax.tree.map(lambda s: s / count, sums)

    def trace(self) -> None:
        """Traces everything, which is where sizes that do not fit together are found out.

        Raises:
          ConfigError: there is not enough memory for an update.
        """
        self._trace_update()
        self._trace_evaluation()
        held = (self.state_template(), self.frozen)
        check_size(self._stage, self._traced_update.jaxpr, held)

    def compile(self) -> None:
        """Compiles update and evaluation; arguments of another shape raise TypeError later."""
        self.compile_update()
        self._trace_evaluation()
        if self._traced_evaluation is not None:
            with self._traced():
                self._evaluated = self._traced_evaluation.lower().compile()
            self._traced_evaluation = None

    def compile_update(self) -> None:
        """Compiles the update alone."""
        self._trace_update()
        with self._in_force():
            lowered = self._traced_update.lower()
            self.compiled = lowered.compile()
        self._traced_update = None

    @contextlib.contextmanager
    def _in_force(self) -> Iterator[None]:
        """The same, and how many seeds a device trains side by side."""
        side_by_side = len(self._stage.seeds) // self._mesh.shape[mesh_lib.SEED]
        with self._traced(), mesh_lib.side_by_side(side_by_side):
            yield

    def _trace_evaluation(self) -> None:
        if self._evaluate is None or self._evaluated or self._traced_evaluation:
            return
        with self._traced():
            state = _shapes(self.state_template(), self._sharding)
            self._traced_evaluation = self._evaluate.trace(state, self.frozen)

    def _trace_update(self) -> None:
        if self._traced_update is not None:
            return
        frozen_shardings = jax.tree.map(lambda leaf: leaf.sharding, self.frozen)
        updates = jax.jit(
            self._updates,
            in_shardings=(self._sharding, frozen_shardings, None),
            out_shardings=(self._sharding, self._metrics_sharding),
            donate_argnums=0,
        )
        count = jax.ShapeDtypeStruct((), jnp.int32)
        with self._in_force():
            self._traced_update = updates.trace(self.state_template(), self.frozen, count)

    def advance(self, state: State, count: int) -> tuple[State, dict[str, np.ndarray]]:
        """Runs `count` updates and reuses the memory of `state`, which is gone afterwards.

        Returns:
          The new state, and the mean of each metric as an array `(seeds,)`.
        """
        if self.compiled is None:
            self.compile_update()
        state, metrics = self.compiled(state, self.frozen, np.int32(count))
        return state, self._to_host(metrics)

    def evaluate(self, state: State) -> dict[str, np.ndarray]:
        """The stage's evaluation, each metric as an array `(seeds,)`; empty where it has none."""
        if self._evaluate is None:
            return {}
        evaluate = self._evaluated or self._evaluate
        metrics = self._to_host(self._call(evaluate, state, self.frozen))
        return {f"evaluation/{name}": value for name, value in metrics.items()}

    def finite(self, state: State) -> np.ndarray:
        """Which seeds have finite parameters, `(seeds,)` bool."""
        return np.atleast_1d(self._call(self._all_finite, state, self.frozen))

    def of_seed(self, state: State, index: int) -> tuple[State, Frozen]:
        """State and constants of one seed, on one device of this process.

        What is done with them outside of the mesh runs there alone: kernels cannot be divided among
        devices by a compiler.
        """

        def take(axis, subtree):
            return self._of_seed(axis, subtree, index)

        return take(0, state), map_frozen(take, self._stage.frozen_axes, self.frozen)

    def state_of_seed(self, state: State, index: int) -> State:
        """The first part of `of_seed`, without the constants, which may be a whole dataset."""
        return self._of_seed(0, state, index)

    def _of_seed(self, axis: int | None, subtree: chex.ArrayTree, index: int) -> chex.ArrayTree:
        """What is of one seed, or of all of them where `axis` is None, on one device."""
        one_of_many = self.batched and axis is not None
        if hosts.several():
            return self._of_seed_here(subtree, index if one_of_many else None)
        if one_of_many:
            subtree = jax.tree.map(lambda leaf: leaf[index], subtree)
        device = self._mesh.devices.flat[0]
        return subtree if self._mesh.size == 1 else jax.device_put(subtree, device)

    def _of_seed_here(self, subtree: chex.ArrayTree, index: int | None) -> chex.ArrayTree:
        """The same on several hosts, on a device of this one; all of them have to ask.

        What all seeds share lies on every device already, and is not copied.
        """
        if index is None:
            return jax.tree.map(lambda leaf: leaf.addressable_data(0), subtree)

        def bare(tree):
            return jax.tree.map(lambda leaf: without_keys(leaf)[index], tree)

        with jax.set_mesh(self._mesh):
            found = jax.jit(bare, out_shardings=self.whole)(subtree)
        return jax.tree.map(lambda x, like: with_keys(x.addressable_data(0), like), found, subtree)

    def _to_host(self, metrics: Metrics) -> dict[str, np.ndarray]:
        return {name: np.atleast_1d(value) for name, value in jax.device_get(dict(metrics)).items()}
