"""What methods that learn from trajectories share: held-out rows, and what they ask of a source.

Held-out rows are the same for every seed and for every run, so that evaluations can be compared.
"""

import chex
import jax

from internal_rl.experts.source_checks import check_arrays
from internal_rl.models.base_model import BaseModel
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
      num_rows: how many; a `Dataset` that holds out fewer gives these.
      arrays: those of the source, see `DataSource`.
    """
    return source.held_out(evaluation_key("held out"), num_rows, arrays)


def require_fitting(
    source: DataSource, base: BaseModel, *, num_subgoals: int | None = None
) -> None:
    """Raises ValueError unless the trajectories of a dataset are such as a base model reads.

    Attention of a base model does not reach further back than its `max_length`, and its heads take
    any numbers: without this a model would learn something else in silence.

    Args:
      source: of the trajectories; one that makes them as it goes is let through.
      base: that reads them.
      num_subgoals: of what reads the labels; None where nothing does.
    """
    specs = base.observation_spec, base.action_spec
    check_arrays(source, *specs, base.max_length, num_subgoals=num_subgoals)


def require_labels(source: DataSource, method: str) -> None:
    """Raises ValueError unless the trajectories of a source carry ground-truth subgoals."""
    if not source.labelled:
        raise ValueError(
            f"source of {method}: labelled is False, allowed are trajectories with subgoals"
        )
