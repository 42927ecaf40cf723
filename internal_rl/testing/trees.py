"""Names, types and differences of pytrees, in words."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.training.randomness import without_keys


def named_leaves(tree: chex.ArrayTree, name: str) -> list[tuple[str, chex.Array]]:
    """Leaves with what leads to them, such as `state.physics.qpos`."""
    named = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        place = jax.tree_util.keystr(path, simple=True, separator=".")
        named.append((".".join(part for part in (name, place) if part), leaf))
    return named


def type_of(x: jax.ShapeDtypeStruct) -> str:
    """Such as `float32[3]`; weak types, which follow what they meet, are marked."""
    shape = ",".join(map(str, x.shape))
    return f"{x.dtype}[{shape}]" + (" (weak type)" if getattr(x, "weak_type", False) else "")


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def type_differences(
    expected: chex.ArrayTree, found: chex.ArrayTree, name: str
) -> list[tuple[str, str, str]]:
    """Where two trees of ShapeDtypeStruct differ: name, what was expected and what was found."""
    if jax.tree.structure(expected) != jax.tree.structure(found):
        names = ({leaf for leaf, _ in named_leaves(tree, name)} for tree in (expected, found))
        before, after = (sorted(names) for names in names)
        if before != after:
            return [(name, ", ".join(before) or "nothing", ", ".join(after) or "nothing")]
        return [(name, *(str(jax.tree.structure(tree)) for tree in (expected, found)))]
    pairs = zip(named_leaves(expected, name), jax.tree.leaves(found), strict=True)
    return [
        (leaf, type_of(before), type_of(after))
        for (leaf, before), after in pairs
        if type_of(before) != type_of(after)
    ]


def equal_leaves(first: chex.ArrayTree, second: chex.ArrayTree, lead: int) -> chex.ArrayTree:
    """Whether leaves hold the same numbers, over all but `lead` leading axes; NaN equals NaN."""

    def equal(x, y):
        x, y = without_keys(x), without_keys(y)
        same = (x == y) | ((x != x) & (y != y))
        return jnp.all(same, axis=tuple(range(lead, same.ndim)))

    return jax.tree.map(equal, first, second)


def buffers(tree: chex.ArrayTree, name: str) -> list[tuple[str, int]]:
    """Leaves that lie on one device, with the addresses of their memory."""
    found = []
    for leaf, x in named_leaves(tree, name):
        if not isinstance(x, jax.Array) or x.size == 0:
            continue
        x = without_keys(x)
        if len(x.devices()) == 1:
            found.append((leaf, x.unsafe_buffer_pointer()))
    return found


def as_numpy(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Leaves as NumPy arrays."""
    return jax.tree.map(np.asarray, tree)
