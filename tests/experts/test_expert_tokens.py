"""Tokens of successful episodes move to the front of their rows, on every backend alike."""

import jax
import numpy as np
import pytest

from internal_rl.backend import traced_for
from internal_rl.experts.expert_tokens import _packer


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_kept_values_come_to_the_front_and_padding_behind_them(platform):
    draw = np.random.default_rng(0)
    kept, values = draw.random((5, 40)) < 0.6, draw.integers(0, 1_000, (5, 40), dtype=np.int32)
    kept[0], kept[1] = False, True
    with traced_for(platform):
        packed = jax.jit(lambda kept, values: _packer(kept)(values, -7))(kept, values)
    for row, keep, found in zip(values, kept, packed, strict=True):
        count = keep.sum()
        np.testing.assert_array_equal(found[:count], row[keep])
        assert (found[count:] == -7).all()
