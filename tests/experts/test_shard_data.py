"""Datasets that were collected, as sources of rows: each role has its own."""

import numpy as np
import pytest

from internal_rl.envs.world import DataRequest
from internal_rl.experts import shards
from internal_rl.experts.data_section import DataSection
from internal_rl.experts.shard_data import make_source

ROLES = ("pretraining", "clean", "curriculum")
NUM_SHARDS, HELD_OUT = 5, 2


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Datasets whose actions tell the role (hundreds) and the shard."""
    folder = tmp_path_factory.mktemp("collected")
    for number, role in enumerate(ROLES):

        def shard(index, number=number):
            yield {
                "observation": np.zeros((4, 2), np.float32),
                "action": np.full((4, 1), 100.0 * number + index, np.float32),
                "mask": np.arange(4) < 3,
                "subgoal": np.ones(4, np.int32),
            }

        shards.write_dataset(folder / role, {"dataset": role}, NUM_SHARDS, shard)
    return folder


@pytest.mark.parametrize("number", range(len(ROLES)))
def test_rows_are_those_of_the_role_and_the_last_shards_are_held_out(collected, number):
    settings = DataSection(sequence_length=4, held_out_shards=HELD_OUT, trajectories_per_row=1.0)
    request = DataRequest(
        world=None,
        settings=settings,
        role=ROLES[number],
        tasks="0" if ROLES[number] == "curriculum" else "",
        collected=lambda: (collected, NUM_SHARDS),
    )
    arrays = make_source(request).arrays
    for part, expected in (("train", range(3)), ("held_out", range(3, 5))):
        found = sorted(set(np.asarray(arrays[part].action).ravel().tolist()))
        assert found == [100.0 * number + index for index in expected]
