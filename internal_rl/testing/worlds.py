"""What a world owes its protocol: attributes, types, and functions that are pure."""

from collections.abc import Callable, Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.testing.episodes import episode_faults, task_faults
from internal_rl.testing.telling import attribute_faults, capability_faults
from internal_rl.testing.trees import (
    buffers,
    first_line,
    named_leaves,
    type_differences,
    type_of,
)
from internal_rl.training.randomness import without_keys
from internal_rl.types import ActionSpec, ObservationSpec, Timestep, World

NUM_MAPPED = 3
# By how much compiled numbers may differ from those of single operations.
ROUNDING = 1e-3
_SCALARS = {"reward": "float32[]", "done": "bool[]"}
_TOLD = {"visit": "int32[]", "progress": "int32[]", "subgoal": "int32[]"}


def world_faults(world: World, seed: int = 0) -> list[str]:
    """One line for each way in which a world breaks its contract.

    What depends on something that is broken itself is not tried.

    Args:
      world: the world.
      seed: of the episodes that are played.
    """
    faults = [*_protocol_faults(world)]
    if faults:
        return faults
    faults = [*attribute_faults(world), *_type_faults(world)]
    if faults:
        return faults
    key = jax.random.key(seed)
    for part in (_purity_faults, episode_faults, task_faults, capability_faults):
        faults += part(world, key)
    return faults


def _protocol_faults(world) -> Iterator[str]:
    """What is missing of the protocol itself."""
    for name, kind in (("observation_spec", ObservationSpec), ("action_spec", ActionSpec)):
        value = getattr(world, name, None)
        if not isinstance(value, kind):
            yield f"{name}: {value!r} given, allowed is an internal_rl.{kind.__name__}"
    limit = getattr(world, "time_limit", None)
    whole = isinstance(limit, (int, np.integer)) and not isinstance(limit, bool)
    if not whole or limit < 1:
        yield f"time_limit: {limit!r} given, allowed is a whole number, 1 or more"
    if getattr(world, "post_training_task", None) is None:
        yield "post_training_task: missing, allowed is an array or a pytree of arrays"
    for name in ("reset", "step"):
        if not callable(getattr(world, name, None)):
            yield f"{name}: missing, allowed is a method"


def _type_faults(world: World) -> list[str]:
    """What `reset` and `step` give, without running them."""
    key, task = jax.random.key(0), world.post_training_task
    action = jax.ShapeDtypeStruct(world.action_spec.shape, world.action_spec.dtype)
    faults, start = _traced(world, "reset", world.reset, key, task)
    if start is None:
        return faults
    more, after = _traced(world, "step", world.step, start[0], action)
    faults += more
    if after is None:
        return faults
    for name, before, now in type_differences(start[0], after[0], "state"):
        faults.append(
            f"step: {name} is {now}, allowed is what reset gives: {before}; loops over steps carry"
            " it"
        )
    for name, before, now in type_differences(start[1], after[1], "timestep"):
        faults.append(f"step: {name} is {now}, allowed is what reset gives: {before}")
    if faults:
        return faults
    faults += _mapped_faults("reset", start, world.reset, (0, None), (key, task))
    return faults + _mapped_faults("step", after, world.step, (0, 0), (start[0], action))


def _traced(world: World, name: str, function: Callable, *arguments) -> tuple[list[str], tuple]:
    """Faults of what a function gives under `jax.jit`, and the types of it (None without)."""
    try:
        result = jax.eval_shape(function, *arguments)
    except Exception as error:
        return [f"{name}: jax.jit cannot compile it: {first_line(error)}"], None
    pair = isinstance(result, tuple) and len(result) == 2
    if not pair or not isinstance(result[1], Timestep):
        kinds = [type(part).__name__ for part in result] if pair else type(result).__name__
        return [f"{name}: gives {kinds}, allowed is a state and an internal_rl.Timestep"], None
    state, timestep = result
    faults = [
        f"{name}: {leaf} is {type_of(x)}, allowed is a type of its own, such as that of"
        f" jnp.{x.dtype}(0); otherwise programs are compiled again"
        for leaf, x in named_leaves(state, "state")
        if getattr(x, "weak_type", False)
    ]
    spec = world.observation_spec
    wanted = {"observation": f"{spec.dtype}[{spec.size}]"} | _SCALARS
    wanted |= {field: kind for field, kind in _TOLD.items() if getattr(timestep, field) is not None}
    for field, kind in wanted.items():
        value = getattr(timestep, field)
        given = "None" if value is None else type_of(value)
        if given != kind:
            faults.append(f"{name}: {field} is {given}, allowed is {kind}")
    return faults, result


def _mapped_faults(name: str, single, function: Callable, axes, arguments) -> list[str]:
    """Whether `jax.vmap` gives the same with one more axis in front."""

    def many(x):
        return jax.ShapeDtypeStruct((NUM_MAPPED, *x.shape), x.dtype)

    mapped = [
        tree if axis is None else jax.tree.map(many, jax.eval_shape(lambda tree=tree: tree))
        for tree, axis in zip(arguments, axes, strict=True)
    ]
    try:
        found = jax.eval_shape(jax.vmap(function, axes), *mapped)
    except Exception as error:
        return [f"{name}: jax.vmap cannot map it: {first_line(error)}"]
    differences = type_differences(jax.tree.map(many, single), found, "result")
    return [
        f"{name}: {leaf} is {now} under jax.vmap, allowed is {before}"
        for leaf, before, now in differences
    ]


def _purity_faults(world: World, key: chex.PRNGKey) -> list[str]:
    """The same arguments give the same result, in memory of its own."""
    task = jax.tree.map(jnp.array, world.post_training_task)
    action = jnp.zeros(world.action_spec.shape, world.action_spec.dtype)
    try:
        first, again = (world.reset(key, task) for _ in range(2))
    except Exception as error:
        return [f"reset: raises outside of jax.jit: {first_line(error)}"]
    faults = _differing("reset", first, again, "with the same key and task again")
    faults += _shared_faults(first[0], again[0], task)
    state = first[0]
    try:
        stepped = [world.step(state, action) for _ in range(2)]
    except Exception as error:
        return faults + [f"step: raises outside of jax.jit: {first_line(error)}"]
    faults += _differing("step", *stepped, "with the same state and action again")
    if faults:
        return faults

    @jax.jit
    def both(key, task, state, action):
        return world.reset(key, task), world.step(state, action)

    results = both(key, task, state, action)
    for name, single, compiled in zip(("reset", "step"), (first, stepped[0]), results, strict=True):
        faults += _differing(name, single, compiled, "under jax.jit", tolerance=ROUNDING)
    return faults


def _differing(name: str, first, second, when: str, tolerance: float = 0.0) -> list[str]:
    """What differs between two results; decimals by more than the tolerance."""
    names = [leaf for leaf, _ in (*named_leaves(first[0], "state"), *named_leaves(first[1], ""))]
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    faults = []
    for leaf, (x, y) in zip(names, pairs, strict=True):
        x, y = (np.asarray(without_keys(leaf)) for leaf in (x, y))
        real = jnp.issubdtype(x.dtype, jnp.floating)
        if tolerance and real:
            same = np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            same = np.array_equal(x, y, equal_nan=real)
        if not same:
            faults.append(f"{name}: {leaf} is another {when}, allowed is the same")
    return faults


def _shared_faults(state, other, task) -> list[str]:
    """Memory that a state shares, so that it could not be donated."""
    owner, faults = {}, []
    for name, address in (*buffers(task, "the task"), *buffers(other, "another episode's state")):
        owner.setdefault(address, name)
    for name, address in buffers(state, "state"):
        if address in owner:
            faults.append(
                f"reset: {name} shares its memory with {owner[address]}, allowed is memory of its"
                " own (jnp.copy), so that states can be donated"
            )
        owner.setdefault(address, name)
    return faults
