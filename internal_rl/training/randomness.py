"""Random keys split by name."""

import hashlib

import jax


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
