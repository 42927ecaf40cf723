"""Parameters as one small file: nested dictionaries of arrays in msgpack."""

import os

import chex
import jax
import numpy as np
from flax import serialization

from internal_rl.errors import StorageError
from internal_rl.files import write_atomically
from internal_rl.paths import as_path


def save_weights(path: str | os.PathLike, params: chex.ArrayTree) -> None:
    """Writes parameters atomically.

    Args:
      path: file to write; its folder exists.
      params: pytree of arrays.

    Raises:
      OSError: the file cannot be written.
    """
    plain = serialization.to_state_dict(jax.tree.map(np.asarray, params))
    write_atomically(path, serialization.msgpack_serialize(plain))


def load_weights(path: str | os.PathLike) -> dict:
    """Reads what `save_weights` wrote, as nested dictionaries of NumPy arrays.

    Raises:
      StorageError: the file is damaged.
      OSError: the file cannot be read.
    """
    content = as_path(path).read_bytes()
    try:
        return serialization.msgpack_restore(content)
    except Exception as error:
        raise StorageError(f"{path}: not a file of weights, or damaged") from error
