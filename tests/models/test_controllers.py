"""Supervised controllers: every token gets the matrix of its subgoal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.models.controllers import Controllers, initial_controllers, steer
from internal_rl.section import SettingError


def random_controllers(rank, num_subgoals=3, width=5):
    rng = np.random.default_rng(0)
    if rank == 0:
        return Controllers(rng.normal(size=(num_subgoals, width, width)), None)
    return Controllers(
        rng.normal(size=(num_subgoals, rank, width)), rng.normal(size=(num_subgoals, width, rank))
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_each_token_gets_the_matrix_of_its_subgoal(rank):
    controllers = random_controllers(rank)
    residual = np.random.default_rng(1).normal(size=(2, 4, 5))
    subgoal = np.array([[0, 2, 1, -1], [1, 1, 0, 2]])
    steered = steer(controllers, residual, subgoal)
    for row, t in np.ndindex(2, 4):
        expected = residual[row, t]
        if subgoal[row, t] >= 0:
            matrix = controllers.read[subgoal[row, t]]
            if rank:
                matrix = controllers.write[subgoal[row, t]] @ matrix
            expected = expected + matrix @ expected
        np.testing.assert_allclose(steered[row, t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 4])
def test_untrained_controllers_change_nothing(rank):
    controllers = initial_controllers(jax.random.key(0), 4, 16, rank)
    residual = jax.random.normal(jax.random.key(1), (3, 16))
    steered = steer(controllers, residual, jnp.array([0, 1, 3]))
    np.testing.assert_array_equal(steered, residual)


def test_rank_outside_the_width_is_refused():
    with pytest.raises(SettingError, match=r"rank: 17 given, allowed is 0 \(full\) to 16"):
        initial_controllers(jax.random.key(0), 4, 16, 17)
