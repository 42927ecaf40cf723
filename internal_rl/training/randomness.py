"""Random keys: split by name, and as the plain numbers that files and hosts exchange."""

import hashlib

import chex
import jax
import jax.numpy as jnp


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Derives the key of one consumer from the key of a run.

    Splitting by name rather than by position means that a new consumer does not reshuffle the
    random numbers of the others.

    Args:
      key: typed PRNG key of the run.
      name: name of the consumer, the same in every run.

    Returns:
      A typed PRNG key.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return jax.random.fold_in(key, int.from_bytes(digest[:4], "little"))


def named_keys(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """Derives the keys of several consumers, see `named_key`."""
    return {name: named_key(key, name) for name in names}


def is_key(leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether it holds typed keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def without_keys(leaf: jax.Array) -> jax.Array:
    """The numbers of typed keys; any other array as it is."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def with_keys(data: chex.Array, leaf: jax.Array | jax.ShapeDtypeStruct) -> chex.Array:
    """Undoes `without_keys`, for what had the dtype of `leaf`."""
    if not is_key(leaf):
        return data
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(jnp.empty((), leaf.dtype)))
