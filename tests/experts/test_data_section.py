"""`make_data`, trajectories of a registered world for a notebook."""

import numpy as np
import pytest

import internal_rl as irl

NAME = "gridworld-pinpad"


@pytest.fixture(scope="module")
def world():
    return irl.make_world(NAME, "smoke")


def test_roles_are_those_that_stages_ask_for(world):
    noise = {"epsilon": 0.2, "clean_epsilon": 0.1, "sequence_length": 64}
    assert irl.make_data(NAME, world, **noise).epsilon == 0.2
    assert irl.make_data(NAME, world, "clean", **noise).epsilon == 0.1
    some = irl.make_data(NAME, world, "curriculum", tasks="032,103", **noise)
    assert np.asarray(some.tasks).tolist() == [[0, 3, 2], [1, 0, 3]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"role": "Clean"}, "role is 'Clean', allowed are pretraining, clean, curriculum"),
        ({"role": "clean", "tasks": "032"}, "tasks are '032', allowed is '' for the role 'clean'"),
        ({"role": "curriculum"}, "tasks of the curriculum are ''"),
        ({"epsilon": 2.0}, "epsilon: 2.0 given, allowed is 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(world, arguments, message):
    with pytest.raises(ValueError, match=message):
        irl.make_data(NAME, world, **arguments)
