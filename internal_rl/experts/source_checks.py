"""Whether trajectories can be those of a world or a model, asked before anything trains on them."""

import dataclasses
from collections.abc import Mapping

import chex
import jax
import numpy as np
from absl import logging

from internal_rl.envs.world import DataRequest, world_entry
from internal_rl.types import ActionSpec, DataSource, ObservationSpec, Trajectory, World

SOME_ROWS = 1_024
"""Rows that are looked at where not all are: a dataset may be as large as memory."""

SCALES = (0.01, 7.0)
"""Standard deviations that models can well predict, see `models.heads`."""


@dataclasses.dataclass(frozen=True)
class _Allowed:
    """What trajectories may be.

    Attributes:
      observations: what is observed.
      actions: what is done.
      num_steps: actions of a trajectory at most.
      limit: what sets this number, for messages.
      place: where all of this is told, for messages.
      num_subgoals: how many there are; None where that is not known.
    """

    observations: ObservationSpec
    actions: ActionSpec
    num_steps: int
    limit: str
    place: str
    num_subgoals: int | None = None


def make_checked_source(name: str, request: DataRequest) -> DataSource:
    """The trajectories of a registered world, compared with it where they are arrays.

    What is made on the device is made by this package; arrays may come from anywhere.

    Args:
      name: of the world.
      request: for what.

    Raises:
      ValueError: the world has no data of its own, or they do not fit it.
    """
    source = world_entry(name).make_data(request)
    if source.arrays is not None:
        check_source(source, request.world)
    return source


def check_source(source: DataSource, world: World, num_rows: int = 64) -> None:
    """Compares rows with the specs of a world: all of a dataset, else some of those held out.

    Args:
      source: of trajectories.
      world: that they are meant to be of.
      num_rows: how many rows are looked at of a source that makes them as it goes.

    Raises:
      ValueError: names what does not fit, and what is allowed.
    """
    allowed = _Allowed(
        world.observation_spec,
        world.action_spec,
        world.time_limit,
        limit="the time limit of the world",
        place="as in the world",
        num_subgoals=getattr(world, "num_subgoals", None),
    )
    parts = _rows_of_arrays(source)
    if parts is None:
        parts = [source.held_out(jax.random.key(0), num_rows, source.arrays)]
    for rows in parts:
        _check_length(rows, allowed)
        _check_rows(rows, source.labelled, allowed)
        for name, values, spec in (
            ("observations", rows.observation, allowed.observations),
            ("actions", rows.action, allowed.actions),
        ):
            if spec.head == "gaussian":
                _tell_scale(name, values, rows.mask)


def check_arrays(
    source: DataSource,
    observations: ObservationSpec,
    actions: ActionSpec,
    max_length: int,
    *,
    num_subgoals: int | None = None,
) -> None:
    """Compares the rows of a dataset with what a base model reads; other sources are let through.

    Cheap: lengths are those of all trajectories, numbers are looked at in about a thousand rows.

    Args:
      source: of trajectories.
      observations: that the model reads.
      actions: that it predicts.
      max_length: actions of the longest trajectory that it reads as a whole.
      num_subgoals: of what reads the labels; None where nothing does.

    Raises:
      ValueError: names what does not fit, and what is allowed.
    """
    model = "the base model"
    allowed = _Allowed(
        observations,
        actions,
        max_length,
        limit=f"the max_length of {model}",
        place=f"as {model} has it",
        num_subgoals=num_subgoals,
    )
    for rows in _rows_of_arrays(source) or []:
        _check_length(rows, allowed)
        some = _some_of(len(rows.segment))
        _check_rows(jax.tree.map(lambda x, some=some: x[some], rows), source.labelled, allowed)


def _rows_of_arrays(source: DataSource) -> list[Trajectory] | None:
    """The rows of a dataset, part by part; None for a source that holds no rows."""
    arrays = source.arrays
    if not isinstance(arrays, Mapping):
        return None
    parts = list(arrays.values())
    return parts if all(isinstance(rows, Trajectory) for rows in parts) else None


def _some_of(num_rows: int) -> slice:
    """About `SOME_ROWS` of so many rows, all over them."""
    return slice(None, None, max(num_rows // SOME_ROWS, 1))


def _check_rows(rows: Trajectory, labelled: bool, allowed: _Allowed) -> None:
    observations, actions, place = allowed.observations, allowed.actions, allowed.place
    _check_shape("observations", rows.observation, observations.shape, place)
    _check_shape("actions", rows.action, actions.shape, place)
    if (np.dtype(rows.action.dtype).kind in "iu") != actions.discrete:
        kind = "whole" if actions.discrete else "real"
        raise ValueError(f"actions are of {rows.action.dtype}, allowed are {kind} numbers")
    if observations.head == "bernoulli":
        wrong = (rows.observation != 0) & (rows.observation != 1)
        if wrong.any():
            found = _first(rows.observation, wrong)
            raise ValueError(
                f"observations hold {found}, allowed are 0 and 1 where they are 'bernoulli'"
            )
    if actions.discrete:
        _check_highest("actions", rows.action, rows.mask, actions.size, place)
    if labelled and allowed.num_subgoals is not None:
        told = "as num_subgoals tells"
        _check_highest("subgoals", rows.subgoal, rows.mask, allowed.num_subgoals, told)


def _check_length(rows: Trajectory, allowed: _Allowed) -> None:
    """Checks that no trajectory lasts longer than is allowed: models do not look further back."""
    longest = 0
    # Some rows at a time, which bounds the memory.
    for first in range(0, len(rows.segment), SOME_ROWS):
        part = slice(first, first + SOME_ROWS)
        longest = max(longest, _longest(np.asarray(rows.segment[part]), rows.mask[part]))
    if longest > allowed.num_steps:
        raise ValueError(
            f"trajectories have up to {longest} actions, allowed is {allowed.num_steps},"
            f" {allowed.limit}"
        )


def _longest(segment: np.ndarray, mask: chex.Array) -> int:
    """Actions of the longest trajectory."""
    index = np.arange(segment.shape[1])
    first = np.ones(segment.shape, bool)
    first[:, 1:] = segment[:, 1:] != segment[:, :-1]
    age = index - np.maximum.accumulate(np.where(first, index, 0), axis=1)
    return int(np.max(age + 1, where=np.asarray(mask), initial=0))


def _check_shape(name: str, values: chex.Array, allowed: tuple[int, ...], place: str) -> None:
    shape = values.shape[2:]
    if shape != allowed:
        raise ValueError(f"{name} have the shape {shape}, allowed is {allowed} {place}")


def _tell_scale(name: str, values: chex.Array, mask: chex.Array) -> None:
    """Warns of real numbers whose scale models do not learn well."""
    some = _some_of(len(mask))
    given = np.asarray(values[some])[np.asarray(mask[some])]
    if not len(given):
        return
    # A column that never changes is no matter of scale.
    spread = given.std(axis=0, dtype=np.float64)
    odd = np.flatnonzero((spread > 0) & ((spread < SCALES[0]) | (spread > SCALES[1])))
    if len(odd):
        logging.warning(
            "%s: number %d of each (and %d more) has a standard deviation of %.3g over the data;"
            " models read and predict real numbers as they are, best between %g and %g: scale"
            " them in the world and in the data",
            *(name, odd[0], len(odd) - 1, spread[odd[0]], *SCALES),
        )


def _check_highest(
    name: str, values: chex.Array, mask: chex.Array, number: int, place: str
) -> None:
    """Checks that values are numbers of some things, where there is a step."""
    wrong = mask & ((values < 0) | (values >= number))
    if wrong.any():
        found = _first(values, wrong)
        raise ValueError(f"{name} hold {found}, allowed is 0 to {number - 1} {place}")


def _first(values: chex.Array, chosen: chex.Array) -> np.generic:
    return np.asarray(values)[np.asarray(chosen)][0]
