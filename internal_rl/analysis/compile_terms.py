"""What CompILE's loss consists of, and how good the causal gate is that acts (method §6).

The switches of `analysis.switching` are those that CompILE infers from whole trajectories. In use a
gate asks that has learnt these boundaries from the past alone: a policy that fails may have bad
codes, or good ones and a bad gate.
"""

from collections.abc import Sequence

from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.study import Study
from internal_rl.analysis.table import Row, variant_rows

ROW_LABELS = {
    "action_nll": "NLL of the actions (nats per step)",
    "code_kl": "KL of the codes (nats per step)",
    "boundary_kl": "KL of the boundaries (nats per step)",
    "gate_nll": "cross-entropy of the gate on the boundaries (nats per step)",
    "loss": "loss (nats per step)",
}

GATE_LABELS = {
    "gate_f1": "F1 of the gate that acts",
    "gate_precision": "precision of the gate that acts",
    "gate_recall": "recall of the gate that acts",
    "gate_f1_close": "F1 of the gate that acts at the tolerance of the world",
    "gate_switches_per_trajectory": "switches of the gate that acts per trajectory",
    "gate_soft_gate_share": "share of undecided gates that act",
}


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """The terms of the loss, and how the gate's switches agree with changes of the subgoal."""
    terms = variant_rows(stage, seeds, "losses", ROW_LABELS)
    return [*terms, *variant_rows(stage, seeds, "switching", GATE_LABELS)]


STUDY = Study(
    name="compile_terms",
    stages=("compile",),
    rows=rows,
    order=41,
    title="CompILE's loss and its gate",
)
