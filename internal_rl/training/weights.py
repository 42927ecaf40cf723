"""Parameters as one small file: nested dictionaries of arrays in msgpack, with a checksum."""

import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from internal_rl.checksums import read_checked, write_checked
from internal_rl.errors import StorageError
from internal_rl.files import PUT_BACK


def save_weights(path: str | os.PathLike, params: chex.ArrayTree) -> None:
    """Writes parameters atomically.

    Args:
      path: file to write; its folder exists.
      params: pytree of arrays.

    Raises:
      OSError: the file cannot be written.
    """
    plain = serialization.to_state_dict(jax.tree.map(np.asarray, params))
    write_checked(path, serialization.msgpack_serialize(plain))


def load_weights(path: str | os.PathLike) -> dict:
    """Reads what `save_weights` wrote, as nested dictionaries of NumPy arrays.

    Raises:
      StorageError: the file is damaged, altered, or holds numbers that are not finite.
      OSError: the file cannot be read.
    """
    content = read_checked(path)
    try:
        params = serialization.msgpack_restore(content)
    except Exception as error:
        raise StorageError(f"{path}: not a file of weights, or damaged") from error
    if not isinstance(params, dict):
        raise StorageError(f"{path}: not a file of weights, or damaged")
    for place, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(place, simple=True, separator=".")
        if not isinstance(leaf, np.ndarray):
            raise StorageError(f"{path}: not a file of weights, {name} is no array")
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
            raise StorageError(f"{path}: no weights to go on with, {name} is not finite")
    return params


def check_weights(
    params: chex.ArrayTree, expected: chex.ArrayTree, what: str, remedy: str = PUT_BACK
) -> None:
    """Compares parameters with what a model has.

    Args:
      params: nested dictionaries of arrays.
      expected: the same with shapes in place of arrays, as `jax.eval_shape` gives them.
      what: where the parameters come from, for the message.
      remedy: what mends that, for the message.

    Raises:
      StorageError: names the first parameter that is missing, of another shape, or too many.
    """
    found, wanted = _shapes(params), _shapes(serialization.to_state_dict(expected))
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            shapes = (list(x[name]) if name in x else "none" for x in (found, wanted))
            raise StorageError(
                "{}: not the weights of this model, {} has the shape {}, expected {}; {}".format(
                    what, name, *shapes, remedy
                )
            )


def _shapes(tree: chex.ArrayTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(place, simple=True, separator="."): np.shape(leaf)
        for place, leaf in leaves
    }
