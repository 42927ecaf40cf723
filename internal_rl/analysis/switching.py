"""How well the switches of the gate follow the changes of subgoal (method §5).

What counts as a switch, a change and a match stands in `methods.switching`.
"""

import functools
from collections.abc import Sequence

import chex
import jax

from internal_rl.analysis.code_stages import code_stages
from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.study import LABELS, Study, StudyContext
from internal_rl.analysis.table import Row, variant_rows
from internal_rl.envs.world import switch_tolerance
from internal_rl.methods.switching import count_switches, switching_metrics
from internal_rl.types import Trajectory

ROW_LABELS = {
    "f1": "F1 of the switches",
    "precision": "precision of the switches",
    "recall": "recall of the switches",
    "f1_close": "F1 at the tolerance of the world",
    "switches_per_trajectory": "switches per trajectory",
    "changes_per_trajectory": "changes of subgoal per trajectory",
    "soft_gate_share": "share of undecided gates",
}


@functools.partial(jax.jit, static_argnames="tolerance")
def examine_switches(beta: chex.Array, rows: Trajectory, tolerance: int) -> dict[str, chex.Array]:
    """`switching_metrics` of a gate.

    Args:
      beta: `(B, S)` gate.
      rows: `(B, S)` packed rows with labels.
      tolerance: steps by which a close match may be off.
    """
    counts = count_switches(beta, rows.subgoal, rows.segment, rows.mask, tolerance=tolerance)
    return switching_metrics(counts)


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`switching_metrics` on held-out rows."""
    tolerance = switch_tolerance(context.world)
    return examine_switches(context.discovery.beta, context.rows, tolerance)


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """Ratios and numbers of switches."""
    return variant_rows(stage, seeds, "switching", ROW_LABELS)


STUDY = Study(
    name="switching",
    stages=code_stages,
    needs=frozenset({LABELS}),
    measure=measure,
    rows=rows,
    order=10,
    title="Switches",
)
