"""The accounting of code cost against prediction (method §5); over alpha see `analysis.sweeps`.

The metacontroller minimises `NLL + alpha KL`, both summed over all steps. Whether it codes goals or
single actions is a question of price. All figures here are nats per step.
"""

import dataclasses
import math
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.analysis.codes import goal_places
from internal_rl.analysis.results import RunResults, SeedResults
from internal_rl.analysis.study import LABELS, Study, StudyContext, as_arrays
from internal_rl.analysis.table import (
    Row,
    format_number,
    make_row,
    variant_of,
    variant_prefixes,
    variant_rows,
)
from internal_rl.types import Trajectory

ROW_LABELS = {
    "action_nll": "NLL of the actions (nats per step)",
    "kl": "KL of the codes (nats per step)",
    "loss": "loss (nats per step)",
}


@dataclasses.dataclass(frozen=True)
class Solution:
    """One trained metacontroller, or one worked out on paper.

    Attributes:
      name: what it is, such as `"discovered"` or `"forced"`.
      alpha: weight of the KL it was trained with.
      nll: negative log-likelihood of the actions, nats per step.
      kl: KL of the codes, nats per step.
      f1: F1 of its switches at tolerance 0; NaN where it has none.
      seed: seed of the run.
    """

    name: str
    alpha: float
    nll: float
    kl: float
    f1: float = float("nan")
    seed: int = 0

    def loss(self, alpha: float) -> float:
        """`NLL + alpha KL`, nats per step."""
        return self.nll + alpha * self.kl


def ideal_solutions(bayes: float, goal_given: float) -> tuple[Solution, ...]:
    """What the three ways to use a code would cost if codes were free of waste.

    A code that carries exactly the information it is used for costs as much KL as it saves NLL:
    without a code the NLL is the Bayes cross-entropy, with goals it is the goal-given one, with
    every action coded it is zero. Trained codes cost more; the excess is the waste.

    Args:
      bayes: Bayes-optimal next-action cross-entropy, nats per step.
      goal_given: the same with the goal known, nats per step.
    """
    none = float("nan")
    return (
        Solution("no code", none, bayes, 0.0),
        Solution("ideal goal codes", none, goal_given, bayes - goal_given),
        Solution("ideal action codes", none, 0.0, bayes),
    )


def compare_losses(solutions: Sequence[Solution], alpha: float) -> list[dict[str, float | str]]:
    """Losses of all solutions at one alpha, cheapest first.

    Several seeds of one name and alpha are summarised by the one with the median loss, of an even
    number by the cheaper one of the two in the middle. Solutions
    trained with another alpha are compared too: any of them could be used at this price.

    Returns:
      One row `{name, trained_alpha, nll, kl, loss, f1}` per name and training alpha.
    """
    rows = []
    for group in _group(solutions, key=lambda s: (s.name, s.alpha)):
        ordered = sorted(group, key=lambda s: s.loss(alpha))
        middle = ordered[(len(ordered) - 1) // 2]
        rows.append(
            {
                "name": middle.name,
                "trained_alpha": middle.alpha,
                "nll": middle.nll,
                "kl": middle.kl,
                "loss": middle.loss(alpha),
                "f1": middle.f1,
            }
        )
    return sorted(rows, key=lambda row: row["loss"])


def _group(solutions: Sequence[Solution], key) -> list[list[Solution]]:
    groups: dict = {}
    for solution in solutions:
        # NaN is not equal to itself; its text is.
        groups.setdefault(str(key(solution)), []).append(solution)
    return sorted(groups.values(), key=lambda group: (group[0].name, group[0].alpha))


@struct.dataclass
class KLByPlace:
    """Where the code's information is paid: a goal code pays where goals change.

    Attributes:
      kl_first: mean nats per step at the first steps of trajectories.
      kl_changes: where the subgoal changes.
      kl_elsewhere: at all other steps.
    """

    kl_first: chex.Array
    kl_changes: chex.Array
    kl_elsewhere: chex.Array


@jax.jit
def kl_by_place(kl: chex.Array, rows: Trajectory) -> KLByPlace:
    """Mean KL of the code by place.

    Args:
      kl: `(B, S)` KL of the code at every step, nats.
      rows: `(B, S)` packed rows with labels.
    """
    places = goal_places(rows.subgoal, rows.segment, rows.mask)
    return KLByPlace(
        **{
            f"kl_{name}": jnp.sum(kl * place) / jnp.maximum(jnp.sum(place), 1)
            for name, place in places.items()
        }
    )


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`KLByPlace`."""
    return as_arrays(kl_by_place(context.discovery.kl, context.rows))


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """Both terms of the loss, and the NLL above what is possible with the goal known."""
    key_prefix, label_prefix = variant_prefixes(stage)
    above = make_row(
        f"{key_prefix}losses_nll_above_goal_given",
        f"{label_prefix}NLL above the goal-given floor (nats per step)",
        seeds,
        lambda s: s.scalar("action_nll") - s.last("reference/goal_given"),
    )
    return [*variant_rows(stage, seeds, "losses", ROW_LABELS), above]


def solutions_of(run: RunResults) -> list[Solution]:
    """Every trained metacontroller of a run as a point of rate and distortion."""
    return [
        Solution(
            name=variant_of(stage),
            alpha=float(results.config["metacontroller"]["alpha"]),
            nll=results.scalar("action_nll"),
            kl=results.scalar("kl"),
            f1=results.scalar("f1"),
            seed=results.seed,
        )
        for stage, seeds in run.items()
        if STUDY.looks_at(stage)
        for results in seeds
        if not math.isnan(results.scalar("kl"))
    ]


def _references(run: RunResults) -> dict[str, float]:
    """Exact NLLs that are known, in nats per action."""
    first = run.get("metacontroller", ())[:1]
    values = {name: s.last(f"reference/{name}") for s in first for name in ("bayes", "goal_given")}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def loss_accounting(run: RunResults) -> list[dict[str, float | str]]:
    """Losses of all trained and ideal solutions at the alpha of the discovered one.

    Returns:
      Rows of `compare_losses`; none without a discovered solution.
    """
    solutions = solutions_of(run)
    discovered = [solution for solution in solutions if solution.name == "discovered"]
    if not discovered:
        return []
    references = _references(run)
    if len(references) == 2:
        solutions += ideal_solutions(**references)
    return compare_losses(solutions, discovered[0].alpha)


def text(run: RunResults) -> str:
    """The loss accounting as a table in Markdown."""
    accounting = loss_accounting(run)
    if not accounting:
        return ""
    alpha = next(row["trained_alpha"] for row in accounting if row["name"] == "discovered")
    lines = [
        f"Loss accounting at alpha {alpha:g}, cheapest first (nats per step); of several runs the"
        " one of median loss, of an even number the cheaper one of the two in the middle:",
        "",
    ]
    lines += ["| solution | trained at alpha | NLL | KL | loss | F1 |", f"|---|{'---:|' * 5}"]
    for entry in accounting:
        names = ("trained_alpha", "nll", "kl", "loss", "f1")
        values = " | ".join(format_number(entry[name]) for name in names)
        lines.append(f"| {entry['name']} | {values} |")
    return "\n".join(lines) + "\n"


STUDY = Study(
    name="rate_distortion",
    stages=("metacontroller",),
    needs=frozenset({LABELS}),
    measure=measure,
    rows=rows,
    text=text,
    order=40,
    title="What codes cost",
)
