"""Packing of decisions: every element of every sequence stands in exactly one place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.methods.reinforcement.packing import pack, row_contents


@pytest.mark.parametrize("seed", range(4))
def test_every_element_is_there_once_and_sequences_stay_whole(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, size=23)

    @jax.jit
    def packed(lengths):
        packing = pack(lengths, 8)
        return packing, row_contents(packing, jnp.arange(40), 8)

    packing, contents = jax.device_get(packed(jnp.asarray(lengths, jnp.int32)))
    sequence, element, segment = contents
    seen = [(s, e) for s, e, g in zip(*(x.ravel() for x in contents), strict=True) if g >= 0]
    expected = [(s, e) for s, n in enumerate(lengths) for e in range(n)]
    assert sorted(map(tuple, np.array(seen).tolist())) == expected
    assert (segment[int(packing.num_rows) :] == -1).all()
    for s, n in enumerate(lengths):
        rows, columns = np.nonzero(segment == s)
        if n:
            assert len(set(rows)) == 1
            np.testing.assert_array_equal(columns, np.arange(columns[0], columns[0] + n))
            np.testing.assert_array_equal(element[rows[0], columns], np.arange(n))
    np.testing.assert_array_equal(sequence[segment >= 0], segment[segment >= 0])
