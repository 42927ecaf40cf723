"""Whether trajectories can be those of a world, asked before anything trains on them."""

import jax
import numpy as np

from internal_rl.types import DataSource, World


def check_source(source: DataSource, world: World, num_rows: int = 64) -> None:
    """Compares some of the rows held out with the specs of a world.

    Args:
      source: of trajectories.
      world: that they are meant to be of.
      num_rows: how many rows are looked at.

    Raises:
      ValueError: names what does not fit, and what is allowed.
    """
    rows = source.held_out(jax.random.key(0), num_rows, source.arrays)
    rows = jax.tree.map(np.asarray, rows)
    observations, actions = world.observation_spec, world.action_spec
    _check_shape("observations", rows.observation, observations.shape)
    _check_shape("actions", rows.action, actions.shape)
    if (rows.action.dtype.kind in "iu") != actions.discrete:
        kind = "whole" if actions.discrete else "real"
        raise ValueError(f"actions are of {rows.action.dtype}, allowed are {kind} numbers")
    if observations.head == "bernoulli":
        wrong = rows.observation[~np.isin(rows.observation, (0, 1))]
        if wrong.size:
            raise ValueError(f"observations hold {wrong.flat[0]}, allowed are 0 and 1")
    if actions.discrete:
        _check_highest("actions", rows.action[rows.mask], actions.size)
    if source.labelled and hasattr(world, "num_subgoals"):
        _check_highest("subgoals", rows.subgoal[rows.mask], world.num_subgoals)


def _check_shape(name: str, values: np.ndarray, allowed: tuple[int, ...]) -> None:
    shape = values.shape[2:]
    if shape != allowed:
        raise ValueError(f"{name} have the shape {shape}, allowed is {allowed} as in the world")


def _check_highest(name: str, values: np.ndarray, number: int) -> None:
    """Checks that values are numbers of some things."""
    wrong = values[(values < 0) | (values >= number)]
    if wrong.size:
        raise ValueError(
            f"{name} hold {wrong.flat[0]}, allowed is 0 to {number - 1} as in the world"
        )
