"""Trajectories that are taken out of packed rows."""

import numpy as np

from internal_rl.analysis.examples import example_trajectories


def test_examples_are_whole_trajectories_without_padding():
    segment = np.array([[0, 0, 0, 1, 1, 1, 1, -1], [0, 0, 0, 0, 0, 0, 0, 0]])
    mask = np.array([[1, 1, 0, 1, 1, 1, 0, 0], [1] * 8], bool)
    values = np.arange(16).reshape(2, 8)
    examples = example_trajectories({"value": values}, segment, mask, 2)
    np.testing.assert_array_equal(examples["value"], [[0, 1, 0], [3, 4, 5]])
    np.testing.assert_array_equal(examples["mask"], [[1, 1, 0], [1, 1, 1]])
    more = example_trajectories({"value": values}, segment, mask, 10)
    assert len(more["value"]) == 3


def test_what_is_not_known_is_left_out():
    segment, mask = np.zeros((1, 3), int), np.ones((1, 3), bool)
    assert set(example_trajectories({"value": None}, segment, mask, 1)) == {"mask"}
