"""Single trajectories out of packed rows, to be shown."""

from collections.abc import Mapping

import chex
import numpy as np

from internal_rl.analysis.study import StudyContext

NUM_EXAMPLES = 5


def example_trajectories(
    arrays: Mapping[str, chex.Array], segment: chex.Array, mask: chex.Array, count: int
) -> dict[str, np.ndarray]:
    """Takes the first trajectories out of packed rows.

    Args:
      arrays: `(B, S, ...)` values by name; those that are None are left out.
      segment: `(B, S)` int32 trajectory of every token.
      mask: `(B, S)` bool, tokens to keep.
      count: number of trajectories `E`; fewer if the rows hold fewer.

    Returns:
      `(E, T, ...)` by name, zero behind the end of a trajectory, and `mask` `(E, T)` bool.
    """
    segment, mask = np.asarray(segment), np.asarray(mask)
    found = []
    for row in range(segment.shape[0]):
        numbers = np.unique(segment[row][mask[row]])
        found += [(row, np.flatnonzero(mask[row] & (segment[row] == k))) for k in numbers]
        if len(found) >= count:
            break
    found = found[:count]
    length = max((len(tokens) for _, tokens in found), default=0)
    examples = {"mask": np.zeros((len(found), length), bool)}
    for i, (_, tokens) in enumerate(found):
        examples["mask"][i, : len(tokens)] = True
    for name, values in arrays.items():
        if values is None:
            continue
        values = np.asarray(values)
        examples[name] = np.zeros((len(found), length, *values.shape[2:]), values.dtype)
        for i, (row, tokens) in enumerate(found):
            examples[name][i, : len(tokens)] = values[row, tokens]
    return examples


def examples_of(context: StudyContext, **arrays: chex.Array | None) -> dict[str, np.ndarray]:
    """`example_<name>` of arrays `(B, S, ...)` on the held-out rows of a stage, and their mask."""
    rows = context.rows
    examples = example_trajectories(arrays, rows.segment, rows.mask, NUM_EXAMPLES)
    return {f"example_{name}": value for name, value in examples.items()}
