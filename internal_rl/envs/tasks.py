"""Task sets as data: which colours are visited in which order, and what counts as a subgoal.

A task is a tuple of colours. A task set holds the pretraining tasks, from which the expert data are
made, and one post-training task, for reinforcement learning, which needs transitions that no
pretraining task contains.
"""

import dataclasses
import functools
import itertools

import numpy as np

Task = tuple[int, ...]

# The last task holds 2-3 followed by 4-5, which the post-training task needs too. The others are
# all walks over three pairs without such a transition, but for 674523, which may have been meant.
# The list is kept as published.
_GRIDWORLD_PRETRAINING = (
    "014501 014523 016723 230145 236723 236745 450145 450167 "
    "452367 672301 672367 674501 016745 230167 452301 672345"
)
_GRIDWORLD_POST_TRAINING = "0-1-2-3-4-5-6-7-0-1-2-3"
_ANT_PRETRAINING = "032 103 210 321 020 021 031 102 131 132 202 203 213 310 313 320"
_ANT_POST_TRAINING = "0-1-2-3"

MAX_COLOURS = 1_000
MAX_LENGTH = 200
MAX_WALKS = 20_000
"""Bounds of task sets that are named by numbers: what is larger is refused before it is made."""


@dataclasses.dataclass(frozen=True)
class TaskSet:
    """Pretraining tasks, the post-training task and their subgoals.

    Attributes:
      name: name by which `task_set` finds the set again.
      num_colours: colours are numbered 0 to `num_colours - 1`.
      pretraining: tasks of the expert data.
      post_training: task of reinforcement learning.
      subgoal_length: number of consecutive colours that make one subgoal: 1 (a subgoal is a
        colour) or 2 (a subgoal is a pair of colours and every task a sequence of whole pairs).
    """

    name: str
    num_colours: int
    pretraining: tuple[Task, ...]
    post_training: Task
    subgoal_length: int = 1

    def __post_init__(self):
        if self.subgoal_length not in (1, 2):
            raise ValueError(f"subgoal_length is {self.subgoal_length}, allowed are 1 and 2")
        if not self.pretraining:
            raise ValueError(f"pretraining of task set '{self.name}' holds no task")
        for task in self.pretraining:
            check_task(task, self.num_colours, "pretraining")
        check_task(self.post_training, self.num_colours, "post_training")
        for task in (*self.pretraining, self.post_training):
            if len(task) % self.subgoal_length:
                raise ValueError(
                    f"task {format_task(task)} of task set '{self.name}' has {len(task)} colours, "
                    f"allowed is a multiple of subgoal_length={self.subgoal_length}"
                )

    @property
    def max_length(self) -> int:
        """Number of colours in the longest task."""
        return max(len(task) for task in (*self.pretraining, self.post_training))

    @functools.cached_property
    def subgoals(self) -> tuple[Task, ...]:
        """Subgoal of every id: single colours, or all pairs that occur, in ascending order."""
        if self.subgoal_length == 1:
            return tuple((colour,) for colour in range(self.num_colours))
        tasks = (*self.pretraining, self.post_training)
        return tuple(sorted({pair for task in tasks for pair in self._split(task)}))

    @property
    def num_subgoals(self) -> int:
        """Number of subgoal ids."""
        return len(self.subgoals)

    def subgoal_ids(self, task: Task) -> Task:
        """Id of the subgoal that each colour of `task` belongs to, as long as `task`.

        Raises:
          ValueError: if the task contains a pair that is no subgoal of this set.
        """
        ids, parts = self._ids, self._split(task)
        for part in parts:
            if part not in ids:
                raise ValueError(
                    f"task {format_task(task)} contains {format_task(part)}, allowed subgoals are "
                    + " ".join(format_task(subgoal) for subgoal in self.subgoals)
                )
        return tuple(ids[part] for part in parts for _ in range(self.subgoal_length))

    @functools.cached_property
    def _ids(self) -> dict[Task, int]:
        """Id of every subgoal."""
        return {subgoal: index for index, subgoal in enumerate(self.subgoals)}

    def _split(self, task: Task) -> list[Task]:
        return _split(task, self.subgoal_length)


def _split(task: Task, size: int) -> list[Task]:
    """Consecutive parts of `size` colours."""
    return [tuple(task[i : i + size]) for i in range(0, len(task), size)]


def check_task(task: Task, num_colours: int, field: str = "task") -> None:
    """Checks one task.

    Raises:
      ValueError: for an empty task, a colour outside 0..num_colours-1 or a colour that follows
        itself (a cell is only visited when it is entered from another cell).
    """
    if len(task) == 0:
        raise ValueError(f"{field} contains an empty task, allowed are one or more colours")
    for colour in task:
        if not 0 <= colour < num_colours:
            raise ValueError(
                f"{field} {format_task(task)} contains colour {colour}, "
                f"allowed are 0 to {num_colours - 1}"
            )
    if any(first == second for first, second in itertools.pairwise(task)):
        raise ValueError(
            f"{field} {format_task(task)} repeats a colour, "
            "allowed are neighbours that differ from each other"
        )


def parse_task(text: str) -> Task:
    """Reads `"0-1-12"` (dashes) or `"012"` (one digit per colour).

    Raises:
      ValueError: if something else than a number stands where a colour should.
    """
    parts = text.split("-") if "-" in text else list(text)
    if not parts or not all(_is_number(part) for part in parts):
        raise ValueError(
            f"task '{_shown(text)}' cannot be read, allowed are colours from 0 on joined by '-'"
        )
    if len(parts) > MAX_LENGTH:
        raise ValueError(f"a task has {len(parts)} colours, allowed are up to {MAX_LENGTH}")
    return tuple(int(part) for part in parts)


def _shown(text: str) -> str:
    """A text as a message shows it."""
    return text if len(text) <= 40 else f"{text[:40]}..."


def _is_number(text: str) -> bool:
    """Whether a text is a number from 0 on in the usual digits."""
    # Python reads no more than some thousand digits.
    return text.isascii() and text.isdigit() and len(text) <= 1_000


def parse_tasks(text: str) -> tuple[Task, ...]:
    """Reads tasks separated by commas, each as `parse_task` reads it; none from an empty string."""
    return tuple(parse_task(part) for part in text.split(",")) if text else ()


def format_task(task: Task) -> str:
    """Writes a task as `parse_task` reads it."""
    return "-".join(str(colour) for colour in task)


def task_array(tasks: tuple[Task, ...], max_length: int) -> np.ndarray:
    """Tasks as `(len(tasks), max_length)` int32, padded with -1.

    Raises:
      ValueError: if a task is longer than `max_length`.
    """
    array = np.full((len(tasks), max_length), -1, np.int32)
    for row, task in zip(array, tasks, strict=True):
        if len(task) > max_length:
            raise ValueError(
                f"task {format_task(task)} has {len(task)} colours, allowed are up to {max_length}"
            )
        row[: len(task)] = task
    return array


def markov_task_set(
    num_colours: int, length: int, post_training: Task, subgoal_length: int = 1
) -> TaskSet:
    """All walks of `length` subgoals that hold no transition of the post-training task.

    Args:
      num_colours: `O`.
      length: subgoals in a walk; neighbours differ.
      post_training: colours of the post-training task.
      subgoal_length: 1 for single colours; 2 for the pairs 0-1, 2-3, ...

    Raises:
      ValueError: if a number is too small or too large, or no walk is left.
    """
    for what, value, most in (
        ("length of the walks", length, MAX_LENGTH),
        ("number of colours", num_colours, MAX_COLOURS),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{what} is {value}, allowed is 1 to {most}")
    check_task(post_training, num_colours, "post_training")
    subgoals = [
        tuple(range(first, first + subgoal_length))
        for first in range(0, num_colours - subgoal_length + 1, subgoal_length)
    ]
    excluded = set(itertools.pairwise(_split(post_training, subgoal_length)))
    if _most_walks(subgoals, length, excluded) > MAX_WALKS:
        raise ValueError(
            f"there are too many walks of length {length} over {len(subgoals)} subgoals, allowed"
            f" are up to {MAX_WALKS}: choose shorter walks or fewer colours"
        )
    walks = [(subgoal,) for subgoal in subgoals]
    for _ in range(length - 1):
        walks = [
            (*walk, subgoal)
            for walk in walks
            for subgoal in subgoals
            if subgoal != walk[-1] and (walk[-1], subgoal) not in excluded
        ]
    kind = "walks" if subgoal_length == 1 else "pair-walks"
    name = f"{kind}:{num_colours}:{length}:{format_task(post_training)}"
    tasks = tuple(tuple(itertools.chain(*walk)) for walk in walks)
    return TaskSet(name, num_colours, tasks, tuple(post_training), subgoal_length)


def _most_walks(subgoals: list[Task], length: int, excluded: set[tuple[Task, Task]]) -> int:
    """How many walks of any length up to `length` there are at most, counted and not made.

    Counting ends where there are more than `MAX_WALKS`.
    """
    ending = dict.fromkeys(subgoals, 1)
    most = len(subgoals)
    for _ in range(length - 1):
        if most > MAX_WALKS:
            break
        into = dict.fromkeys(subgoals, 0)
        for last, number in ending.items():
            for subgoal in subgoals if number else ():
                if subgoal != last and (last, subgoal) not in excluded:
                    into[subgoal] += number
        ending = into
        most = max(most, sum(ending.values()))
    return most


def task_set(name: str) -> TaskSet:
    """Task set by name: `gridworld-pinpad`, `ant-pinpad` or all walks that avoid a task.

    `walks:<colours>:<length>:<task>` has single colours as subgoals, `pair-walks:...` the pairs
    0-1, 2-3, ...; `length` counts subgoals, see `markov_task_set`.

    Raises:
      ValueError: for any other name.
    """
    if name == "gridworld-pinpad":
        pretraining = tuple(parse_task(text) for text in _GRIDWORLD_PRETRAINING.split())
        return TaskSet(name, 8, pretraining, parse_task(_GRIDWORLD_POST_TRAINING), 2)
    if name == "ant-pinpad":
        pretraining = tuple(parse_task(text) for text in _ANT_PRETRAINING.split())
        return TaskSet(name, 4, pretraining, parse_task(_ANT_POST_TRAINING), 1)
    parts = name.split(":")
    kinds = {"walks": 1, "pair-walks": 2}
    if len(parts) == 4 and parts[0] in kinds and all(map(_is_number, parts[1:3])):
        try:
            post_training = parse_task(parts[3])
            return markov_task_set(int(parts[1]), int(parts[2]), post_training, kinds[parts[0]])
        except ValueError as error:
            raise ValueError(f"tasks '{_shown(name)}': {error}") from None
    raise ValueError(
        f"tasks is '{_shown(name)}', allowed are gridworld-pinpad, ant-pinpad and walks: or"
        " pair-walks:<number of colours>:<length>:<post-training task such as 0-1-2-3>"
    )


def subgoal_table(tasks: TaskSet, num_colours: int) -> np.ndarray:
    """Id of every subgoal by its colours, `(O,)` or `(O, O)` int32; -1 where there is none."""
    table = np.full((num_colours,) * tasks.subgoal_length, -1, np.int32)
    for index, subgoal in enumerate(tasks.subgoals):
        table[subgoal] = index
    return table


def unseen_transitions(tasks: TaskSet) -> set[tuple[int, int]]:
    """Colour transitions `(from, to)` between subgoals that only the post-training task holds.

    With pairs as subgoals a transition runs from the second colour of a pair to the first colour
    of the next one; transitions inside a pair are not counted.
    """

    def between_subgoals(task: Task) -> set[tuple[int, int]]:
        size = tasks.subgoal_length
        return {(task[i - 1], task[i]) for i in range(size, len(task), size)}

    seen = set().union(*(between_subgoals(task) for task in tasks.pretraining))
    return between_subgoals(tasks.post_training) - seen


def followers(tasks: TaskSet, num_colours: int) -> np.ndarray:
    """`(O, O)` bool: a pretraining task visits the second colour right after the first."""
    result = np.zeros((num_colours, num_colours), bool)
    for task in tasks.pretraining:
        result[list(task[:-1]), list(task[1:])] = True
    return result
