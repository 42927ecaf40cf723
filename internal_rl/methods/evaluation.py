"""What the methods that learn from trajectories share: fixed held-out rows, and the need of labels.

Held-out rows are the same for every seed and for every run, so that evaluations can be compared.
"""

import chex
import jax

from internal_rl.training.randomness import named_key
from internal_rl.types import DataSource, Trajectory

EVALUATION_KEY = 1_000_003
"""Seed of everything that is held out or sampled for an evaluation: a stream of its own."""


def evaluation_key(name: str) -> chex.PRNGKey:
    """The fixed key of one use, such as `"held out"`."""
    return named_key(jax.random.key(EVALUATION_KEY), name)


def held_out(source: DataSource, num_rows: int, arrays: chex.ArrayTree) -> Trajectory:
    """Rows that no stream of training contains, `(num_rows, S, ...)`.

    Args:
      source: where the rows come from.
      num_rows: how many.
      arrays: those of the source, see `DataSource`.
    """
    return source.held_out(evaluation_key("held out"), num_rows, arrays)


def require_labels(source: DataSource, method: str) -> None:
    """Raises ValueError unless the trajectories of a source carry ground-truth subgoals."""
    if not source.labelled:
        raise ValueError(
            f"source of {method}: labelled is False, allowed are trajectories with subgoals"
        )
