"""Trajectories in plain arrays on the host: what is allowed, and how they are packed into rows."""

import numbers
from typing import Any

import numpy as np
from flax import struct

from internal_rl.types import Trajectory

# Rows that are looked at for room before a new one is begun.
_OPEN_ROWS = 32
# Trajectories that are copied at a time, which bounds the memory that this takes.
_AT_A_TIME = 256


@struct.dataclass
class Trajectories:
    """`N` trajectories, each of which ends with an observation behind its last action.

    Attributes:
      observation: `(N, T + 1, d)` uint8 for numbers that are 0 or 1, else float32.
      action: `(N, T)` int32 or `(N, T, d_a)` float32.
      length: `(N,)` int64 actions of each trajectory.
      subgoal: `(N, T)` int32, or None.
    """

    observation: np.ndarray
    action: np.ndarray
    length: np.ndarray
    subgoal: np.ndarray | None

    @property
    def tokens(self) -> np.ndarray:
        """`(N,)` tokens of each trajectory."""
        return self.length + 1

    def pack(self, chosen: np.ndarray, sequence_length: int) -> Trajectory:
        """Rows that hold some of the trajectories, each in the first row of a few with room.

        Args:
          chosen: `(n,)` which ones, in the order in which they are packed.
          sequence_length: `S`, tokens of a row; at least those of the longest trajectory.

        Returns:
          A `Trajectory` on the host, `(R, S, ...)`, without `next_observation`, which repeats the
          observations. The token of a last observation has the action 0 and no target, and belongs
          to the last subgoal.
        """
        row, segment, start, num_rows = _places(self.tokens[chosen], sequence_length)
        shape = (num_rows, sequence_length)
        observation = np.zeros((*shape, self.observation.shape[-1]), self.observation.dtype)
        action = np.zeros((*shape, *self.action.shape[2:]), self.action.dtype)
        mask, segments = np.zeros(shape, bool), np.full(shape, -1, np.int32)
        subgoal = None if self.subgoal is None else np.full(shape, -1, np.int32)
        for begin in range(0, len(chosen), _AT_A_TIME):
            part = slice(begin, begin + _AT_A_TIME)
            tokens = self.tokens[chosen[part]]

            def spread(values, tokens=tokens):
                return np.repeat(values, tokens)

            first = np.cumsum(tokens) - tokens
            time = np.arange(tokens.sum()) - spread(first)
            source, last = spread(chosen[part]), spread(tokens - 1)
            place = spread(row[part]), spread(start[part]) + time
            acts = time < last
            observation[place] = self.observation[source, time]
            segments[place] = spread(segment[part])
            mask[place] = acts
            where = tuple(index[acts] for index in place)
            action[where] = self.action[source[acts], time[acts]]
            if subgoal is not None:
                subgoal[place] = self.subgoal[source, np.minimum(time, last - 1)]
        return Trajectory(
            observation=observation,
            next_observation=None,
            action=action,
            mask=mask,
            subgoal=subgoal,
            segment=segments,
        )


def _places(
    tokens: np.ndarray, sequence_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """First fit: row, number in the row and first token of each trajectory; number of rows."""
    row, segment, start = (np.zeros(len(tokens), np.int64) for _ in range(3))
    room, held, number = (np.zeros(_OPEN_ROWS, np.int64) for _ in range(3))
    num_rows = 0
    for i, count in enumerate(tokens.tolist()):
        slot = int(np.argmax(room >= count))
        if room[slot] < count:
            # The fullest row is closed.
            slot = int(np.argmin(room))
            room[slot], held[slot], number[slot] = sequence_length, 0, num_rows
            num_rows += 1
        row[i], segment[i], start[i] = number[slot], held[slot], sequence_length - room[slot]
        room[slot] -= count
        held[slot] += 1
    return row, segment, start, num_rows


def checked(observation: Any, action: Any, length: Any, subgoal: Any = None) -> Trajectories:
    """Trajectories from the arguments of `Dataset.from_arrays`.

    Raises:
      ValueError: names the argument that does not fit, and what is allowed.
    """
    observation, action = _array("observation", observation), _array("action", action)
    length = _array("length", length)
    fits = action.ndim in (2, 3) and 0 not in action.shape[1:]
    _check_shape("action", action, "(N, T) or (N, T, d_a), none of them 0", fits)
    num, steps = action.shape[:2]
    if num < 2:
        raise ValueError(f"action holds {num} trajectories, allowed are 2 or more")
    fits = observation.ndim == 3 and len(observation) == num and observation.shape[2] > 0
    fits = fits and observation.shape[1] in (steps, steps + 1)
    allowed = f"({num}, {steps}, d) or ({num}, {steps + 1}, d), as action is {action.shape}"
    _check_shape("observation", observation, allowed, fits)
    _check_shape("length", length, f"({num},)", length.shape == (num,))
    if subgoal is not None:
        subgoal = _array("subgoal", subgoal)
        _check_shape("subgoal", subgoal, f"({num}, {steps})", subgoal.shape == (num, steps))
    # Without an observation behind it the last action is no target: what it led to is not known.
    lost = steps + 1 - observation.shape[1]
    _check_whole("length", length, 1 + lost, steps, np.True_)
    length = length.astype(np.int64) - lost
    ran = np.arange(steps) < length[:, None]
    seen = np.arange(observation.shape[1]) <= length[:, None]
    if action.ndim == 2:
        _check_whole("action", action, 0, np.iinfo(np.int32).max, ran)
        action = action.astype(np.int32)
    else:
        action = _as_real("action", action, ran)
    if subgoal is not None:
        _check_whole("subgoal", subgoal, 0, np.iinfo(np.int32).max, ran)
        subgoal = subgoal.astype(np.int32)
    if _is_binary(observation, seen):
        observation = observation.astype(np.uint8)
    else:
        observation = _as_real("observation", observation, seen)
    return Trajectories(observation, action, length, subgoal)


def number_held_out(held_out: float | int, num_trajectories: int) -> int:
    """How many trajectories are held out, at least 1; `held_out` is their share or their number.

    Raises:
      ValueError: there would be none, or none left to train on.
    """
    number = 0
    if isinstance(held_out, numbers.Integral) and not isinstance(held_out, bool):
        number = int(held_out)
    elif isinstance(held_out, numbers.Real) and 0 <= held_out < 1:
        number = max(round(float(held_out) * num_trajectories), 1)
    if not 1 <= number < num_trajectories:
        raise ValueError(
            f"held_out is {held_out!r}, allowed is a share from 0 to below 1 or a number of"
            f" trajectories from 1 to {num_trajectories - 1}, with one or more left to train on"
        )
    return number


def _array(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} is no array, allowed are rows of the same length") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of {array.dtype}, allowed are numbers")
    return array


def _check_shape(name: str, array: np.ndarray, allowed: str, fits: bool) -> None:
    if not fits:
        raise ValueError(f"{name} has the shape {array.shape}, allowed is {allowed}")


def _check_whole(
    name: str, array: np.ndarray, lowest: int, highest: int, where: np.ndarray
) -> None:
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} is of {array.dtype}, allowed are whole numbers")
    wrong = array[where & ((array < lowest) | (array > highest))]
    if wrong.size:
        raise ValueError(f"{name} holds {wrong.flat[0]}, allowed is {lowest} to {highest}")


def _as_real(name: str, array: np.ndarray, where: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array[where]).all():
        raise ValueError(f"{name} holds NaN or infinity, allowed are finite numbers of float32")
    return array


def _is_binary(observation: np.ndarray, seen: np.ndarray) -> bool:
    """Whether they are booleans, or whole numbers that are all 0 or 1."""
    if observation.dtype.kind == "f":
        return False
    return observation.dtype.kind == "b" or bool(np.isin(observation[seen], (0, 1)).all())
