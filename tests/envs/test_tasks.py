"""Task sets: what the method lists, and the errors for what makes no sense."""

import itertools

import numpy as np
import pytest

from internal_rl.envs import tasks


def test_gridworld_set_is_the_one_of_the_method():
    task_set = tasks.task_set("gridworld-pinpad")
    assert len(task_set.pretraining) == len(set(task_set.pretraining)) == 16
    assert {len(task) for task in task_set.pretraining} == {6}
    assert task_set.subgoals == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert task_set.subgoal_ids((0, 1, 4, 5, 0, 1)) == (0, 0, 2, 2, 0, 0)
    assert task_set.post_training == (0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3)
    assert task_set.max_length == 12


def test_ant_set_is_the_one_of_the_method():
    task_set = tasks.task_set("ant-pinpad")
    assert len(task_set.pretraining) == 16
    assert task_set.num_subgoals == 4
    assert task_set.subgoal_ids((0, 3, 2)) == (0, 3, 2)


@pytest.mark.parametrize(
    ("name", "unseen"),
    [
        # 3 to 4 is missing here: the method's pretraining task 672345 contains it.
        ("gridworld-pinpad", {(1, 2), (5, 6), (7, 0)}),
        ("ant-pinpad", {(0, 1), (1, 2), (2, 3)}),
        ("walks:5:3:0-1-2", {(0, 1), (1, 2)}),
    ],
)
def test_post_training_task_has_transitions_that_are_absent_from_pretraining(name, unseen):
    assert tasks.unseen_transitions(tasks.task_set(name)) == unseen


def test_walks_are_all_walks_without_the_held_out_transitions():
    task_set = tasks.task_set("walks:4:3:0-1-2-3")
    held_out = {(0, 1), (1, 2), (2, 3)}
    expected = [
        walk
        for walk in itertools.product(range(4), repeat=3)
        if all(a != b and (a, b) not in held_out for a, b in itertools.pairwise(walk))
    ]
    assert sorted(task_set.pretraining) == expected
    assert tasks.task_set(task_set.name) == task_set


def test_task_array_pads_with_minus_one():
    array = tasks.task_array(((0, 1), (2, 0, 1)), 4)
    np.testing.assert_array_equal(array, [[0, 1, -1, -1], [2, 0, 1, -1]])
    assert array.dtype == np.int32


def test_tasks_are_read_as_they_are_written():
    assert tasks.parse_task("012") == (0, 1, 2)
    assert tasks.parse_task("0-1-12") == (0, 1, 12)
    assert tasks.format_task((0, 1, 12)) == "0-1-12"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.TaskSet("x", 3, ((0, 3),), (0,)), "pretraining 0-3 contains colour 3.*0 to"),
        (lambda: tasks.TaskSet("x", 3, ((0, 1),), (0, 5)), "post_training 0-5 contains colour 5"),
        (lambda: tasks.TaskSet("x", 3, ((),), (0,)), "pretraining contains an empty task"),
        (lambda: tasks.TaskSet("x", 3, (), (0,)), "pretraining of task set 'x' holds no task"),
        (lambda: tasks.TaskSet("x", 3, ((0, 1, 1),), (0,)), "0-1-1 repeats a colour"),
        (lambda: tasks.TaskSet("x", 3, ((0, 1),), (0,), 2), "allowed is a multiple of"),
        (lambda: tasks.TaskSet("x", 3, ((0, 1),), (0, 1), 3), "subgoal_length is 3, allowed are"),
        (lambda: tasks.task_array(((0, 1, 2),), 2), "allowed are up to 2"),
        (lambda: tasks.parse_task("0-a"), "task '0-a' cannot be read"),
        (lambda: tasks.parse_task(""), "task '' cannot be read"),
        (lambda: tasks.task_set("maze"), "tasks is 'maze', allowed are gridworld-pinpad, ant-"),
        (lambda: tasks.task_set("walks:4:0:0-1"), "length of the walks is 0"),
        (
            lambda: tasks.task_set("walks:4:3:0-1-4"),
            "tasks 'walks:4:3:0-1-4': .* colour 4, allowed",
        ),
        (lambda: tasks.task_set("walks:4:3:0--1"), "tasks 'walks:4:3:0--1': task '0--1' cannot be"),
        (
            lambda: tasks.task_set("walks:2:3:0-1"),
            "tasks 'walks:2:3:0-1': pretraining of task set .* holds no task",
        ),
        (lambda: tasks.task_set("gridworld-pinpad").subgoal_ids((0, 2)), "contains 0-2, allowed"),
    ],
)
def test_impossible_tasks_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pair_walks_are_walks_over_pairs():
    task_set = tasks.task_set("pair-walks:6:2:0-1-2-3")
    pairs = {(0, 1), (2, 3), (4, 5)}
    expected = [(*a, *b) for a in pairs for b in pairs if a != b and (a, b) != ((0, 1), (2, 3))]
    assert sorted(task_set.pretraining) == sorted(expected)
    assert task_set.subgoals == tuple(sorted(pairs))
    assert tasks.unseen_transitions(task_set) == {(1, 2)}
    assert tasks.task_set(task_set.name) == task_set


def test_lists_of_tasks_are_read():
    assert tasks.parse_tasks("012,1-0") == ((0, 1, 2), (1, 0))
    assert tasks.parse_tasks("") == ()
