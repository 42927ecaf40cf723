"""Episodes and what a metacontroller has found about them, as rows and as a bank of codes."""

from typing import Any

import jax.numpy as jnp

from internal_rl.analysis.code_bank import CodeBank, select_codes
from internal_rl.types import Trajectory, World


def rows_of_found(found: Any) -> Trajectory:
    """Episodes as rows with a single trajectory each.

    Args:
      found: see `internal_rl.studies`.

    Raises:
      ValueError: the true subgoals are not known.
    """
    if found.subgoal is None:
        raise ValueError("subgoal of what was found is None, allowed are episodes with subgoals")
    return Trajectory(
        observation=found.observation,
        next_observation=None,
        action=None,
        mask=found.active,
        subgoal=found.subgoal,
        segment=jnp.where(found.active, 0, -1),
    )


def bank_of_found(world: World, found: Any) -> CodeBank:
    """Codes of the subgoals that episodes reached.

    Args:
      world: the world.
      found: see `internal_rl.studies`.

    Raises:
      ValueError: the true subgoals are not known, or none was reached.
    """
    rows = rows_of_found(found)
    # Whether the last subgoal of an episode was reached is not known.
    changes = jnp.pad(rows.subgoal[:, 1:] != rows.subgoal[:, :-1], ((0, 0), (0, 1)))
    goes_on = jnp.pad(rows.mask[:, 1:], ((0, 0), (0, 1)))
    reached = changes & goes_on & rows.mask
    if not reached.any():
        raise ValueError(
            "found holds no subgoal that was reached, allowed are episodes of tasks that the model"
            " gets on with (free-running ones have a single subgoal, which stays)"
        )
    return select_codes(world, rows, found.code, reached)
