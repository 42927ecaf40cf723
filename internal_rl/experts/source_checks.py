"""Whether trajectories can be those of a world, asked before anything trains on them."""

from collections.abc import Mapping

import chex
import jax
import numpy as np
from absl import logging

from internal_rl.types import DataSource, Trajectory, World

ROWS_OF_SCALE = 1_024
"""Rows that are looked at for the scale of real numbers: a dataset may be as large as memory."""

SCALES = (0.01, 7.0)
"""Standard deviations that models can well predict, see `models.heads`."""


def check_source(source: DataSource, world: World, num_rows: int = 64) -> None:
    """Compares rows with the specs of a world: all of a dataset, else some of those held out.

    Args:
      source: of trajectories.
      world: that they are meant to be of.
      num_rows: how many rows are looked at of a source that makes them as it goes.

    Raises:
      ValueError: names what does not fit, and what is allowed.
    """
    if isinstance(source.arrays, Mapping) and all(
        isinstance(rows, Trajectory) for rows in source.arrays.values()
    ):
        parts = list(source.arrays.values())
    else:
        parts = [source.held_out(jax.random.key(0), num_rows, source.arrays)]
    for rows in parts:
        _check_rows(rows, source.labelled, world)


def _check_rows(rows: Trajectory, labelled: bool, world: World) -> None:
    observations, actions = world.observation_spec, world.action_spec
    _check_length(rows, world.time_limit)
    _check_shape("observations", rows.observation, observations.shape)
    _check_shape("actions", rows.action, actions.shape)
    if (np.dtype(rows.action.dtype).kind in "iu") != actions.discrete:
        kind = "whole" if actions.discrete else "real"
        raise ValueError(f"actions are of {rows.action.dtype}, allowed are {kind} numbers")
    if observations.head == "bernoulli":
        wrong = (rows.observation != 0) & (rows.observation != 1)
        if wrong.any():
            found = _first(rows.observation, wrong)
            raise ValueError(f"observations hold {found}, allowed are 0 and 1")
    for name, values, head in (
        ("observations", rows.observation, observations.head),
        ("actions", rows.action, actions.head),
    ):
        if head == "gaussian":
            _tell_scale(name, values, rows.mask)
    if actions.discrete:
        _check_highest("actions", rows.action, rows.mask, actions.size)
    if labelled and hasattr(world, "num_subgoals"):
        _check_highest("subgoals", rows.subgoal, rows.mask, world.num_subgoals)


def _check_length(rows: Trajectory, allowed: int) -> None:
    """Checks that no trajectory lasts longer than an episode: models do not look further back."""
    segment, index = np.asarray(rows.segment), np.arange(rows.segment.shape[1])
    first = np.ones(segment.shape, bool)
    first[:, 1:] = segment[:, 1:] != segment[:, :-1]
    age = index - np.maximum.accumulate(np.where(first, index, 0), axis=1)
    longest = int(np.max(age + 1, where=np.asarray(rows.mask), initial=0))
    if longest > allowed:
        raise ValueError(
            f"trajectories have up to {longest} actions, allowed is {allowed}, the time limit of"
            " the world"
        )


def _check_shape(name: str, values: chex.Array, allowed: tuple[int, ...]) -> None:
    shape = values.shape[2:]
    if shape != allowed:
        raise ValueError(f"{name} have the shape {shape}, allowed is {allowed} as in the world")


def _tell_scale(name: str, values: chex.Array, mask: chex.Array) -> None:
    """Warns of real numbers whose scale models do not learn well."""
    some = slice(None, None, max(len(mask) // ROWS_OF_SCALE, 1))
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


def _check_highest(name: str, values: chex.Array, mask: chex.Array, number: int) -> None:
    """Checks that values are numbers of some things, where there is a step."""
    wrong = mask & ((values < 0) | (values >= number))
    if wrong.any():
        found = _first(values, wrong)
        raise ValueError(f"{name} hold {found}, allowed is 0 to {number - 1} as in the world")


def _first(values: chex.Array, chosen: chex.Array) -> np.generic:
    return np.asarray(values)[np.asarray(chosen)][0]
