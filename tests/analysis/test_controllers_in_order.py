"""Supervised controllers: switched in order they solve a new task, at the layer they are of."""

import numpy as np

from internal_rl.analysis import steering
from internal_rl.models.controllers import Controllers


def test_switching_controllers_in_order_solves_the_post_training_task(
    world, obedient, goal_writers
):
    read, write = goal_writers
    layers = [Controllers(read, write), Controllers(read, np.roll(write, 1, axis=0))]
    result = steering.examine_controllers(world, obedient, layers, 48)
    right, wrong = 0, 1
    # An episode may still be stopped by the time limit.
    assert result.success[right] > 0.9
    assert result.reached[right].shape == world.post_training_task.shape
    np.testing.assert_allclose(result.reached[right][-1], result.success[right])
    assert result.success[wrong] == 0.0
    assert result.colours_visited[wrong] == 0.0
    np.testing.assert_array_equal(result.reached[wrong], 0.0)


def test_controllers_of_a_layer_act_at_that_layer(world, obedient, goal_writers):
    layers, listens = [Controllers(*goal_writers)] * 3, 1
    result = steering.examine_controllers(world, obedient.replace(obeys_at=listens), layers, 48)
    # The time limit stops some; a random walk hardly ever finds the colours in their order.
    expected = np.where(np.arange(3) == listens, 1.0, 0.0)
    np.testing.assert_allclose(result.success, expected, atol=0.2)
