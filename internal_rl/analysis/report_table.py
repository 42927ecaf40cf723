"""The figures of merit of a run as rows: medians over seeds, and their range."""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from internal_rl.analysis.rate_distortion import Solution, compare_losses, ideal_solutions
from internal_rl.analysis.run_results import RunResults, SeedResults

RL_STAGES = {
    "internal_rl": "internal RL",
    "internal_rl_forced": "forced switching",
    "internal_rl_unaligned": "unaligned switching",
    "raw_rl": "raw actions",
}
SUCCESS_TO_REACH = 0.3
"""Speed is told as the number of episodes until this success."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity.

    Attributes:
      key: its name in `summary.json`.
      label: the same for readers, with its unit.
      values: one per seed; NaN where a seed has none.
    """

    key: str
    label: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the seeds that have a value; NaN without any."""
        return self._over_seeds(np.nanmedian)

    @property
    def lowest(self) -> float:
        """Smallest value over seeds."""
        return self._over_seeds(np.nanmin)

    @property
    def highest(self) -> float:
        """Largest value over seeds."""
        return self._over_seeds(np.nanmax)

    def _over_seeds(self, function: Callable) -> float:
        return math.nan if np.all(np.isnan(self.values)) else float(function(self.values))


def table_rows(run: RunResults) -> list[Row]:
    """All rows that a run has data for."""
    rows = [
        *_base_rows(run),
        *_layer_rows(run.get("probe", ()), "accuracy", "probe_accuracy", "probe accuracy"),
        *_layer_rows(run.get("steer", ()), "success", "steering_success", "steering success"),
        *_metacontroller_rows(run),
        *_rl_rows(run),
    ]
    return [row for row in rows if not math.isnan(row.median)]


def _row(
    key: str, label: str, seeds: Iterable[SeedResults], value: Callable[[SeedResults], float]
) -> Row:
    return Row(key, label, tuple(value(results) for results in seeds) or (math.nan,))


def _base_rows(run: RunResults) -> list[Row]:
    seeds = run.get("pretrain", ())
    cross_entropy, bayes = "evaluation/action_nll", "reference/bayes"
    rows = [
        _row(
            "pretrain_cross_entropy",
            "base model, held-out cross-entropy (nats)",
            seeds,
            lambda s: s.last(cross_entropy),
        ),
        _row(
            "pretrain_excess",
            "the same above the Bayes reference (nats)",
            seeds,
            lambda s: s.last(cross_entropy) - s.last(bayes),
        ),
    ]
    for name in ("bayes", "goal_blind", "goal_given", "constant", "one_step"):
        label = f"reference {name.replace('_', '-')} (nats)"
        key = f"reference/{name}"
        rows.append(_row(f"reference_{name}", label, seeds, lambda s, key=key: s.last(key)))
    for name, label in (
        ("sampled_success", "base model sampled on the post-training task, success"),
        ("unseen_transition_rate", "base model, rate of the unseen transitions"),
    ):
        rows.append(_row(f"base_{name}", label, seeds, lambda s, name=name: s.scalar(name)))
    return rows


def _layer_rows(seeds: Sequence[SeedResults], artifact: str, key: str, label: str) -> list[Row]:
    """Best layer against input and output, of an artifact of shape `(L + 1,)`."""
    seeds = [results for results in seeds if artifact in results.artifacts]

    def at(choose):
        return lambda s: float(choose(s.artifacts[artifact]))

    return [
        _row(f"{key}_best", f"{label}, best layer", seeds, at(np.max)),
        _row(f"{key}_best_layer", f"{label}, which layer", seeds, at(np.argmax)),
        _row(f"{key}_input", f"{label}, input layer", seeds, at(lambda values: values[0])),
        _row(f"{key}_output", f"{label}, output layer", seeds, at(lambda values: values[-1])),
    ]


_SWITCHING = {
    "f1": "F1 of the switches",
    "precision": "precision of the switches",
    "recall": "recall of the switches",
    "f1_close": "F1 at the tolerance of the world",
    "switches_per_trajectory": "switches per trajectory",
    "changes_per_trajectory": "changes of subgoal per trajectory",
    "soft_gate_share": "share of undecided gates",
}
_CODES = {
    "active_units": "dimensions of the code in use",
    "decoding_accuracy": "subgoal decoded from code, accuracy",
    "injection_0_reach_injected": "code injected at the start, reaches its colour",
    "injection_0_reach_uncontrolled": "the same without a code",
    "injection_0_reach_prior": "the same with a random code",
    "injection_0_reach_gain": "injected over uncontrolled, at the start",
    "injection_1_reach_gain": "injected over uncontrolled, after one visit",
    "injection_1_reach_unseen_injected": "code injected, unseen transition taken",
    "injection_1_reach_unseen_uncontrolled": "the same without a code",
}
_LOSSES = {
    "action_nll": "NLL of the actions (nats per step)",
    "kl": "KL of the codes (nats per step)",
    "loss": "loss (nats per step)",
}


def variant_of(stage: str) -> str:
    """`metacontroller_forced` to `forced`; the metacontroller without suffix is `discovered`."""
    return stage.removeprefix("metacontroller").removeprefix("_") or "discovered"


def _metacontroller_rows(run: RunResults) -> list[Row]:
    rows = []
    for stage, seeds in run.items():
        if not stage.startswith("metacontroller"):
            continue
        variant = variant_of(stage)
        key_prefix = "" if variant == "discovered" else f"{variant}_"
        label_prefix = "" if variant == "discovered" else f"{variant}: "
        for names, group in ((_SWITCHING, "switching"), (_CODES, "codes"), (_LOSSES, "losses")):
            for name, label in names.items():
                key = f"{key_prefix}{group}_{name}"
                value = lambda s, name=name: s.scalar(name)  # noqa: E731
                rows.append(_row(key, label_prefix + label, seeds, value))
        rows.append(
            _row(
                f"{key_prefix}losses_nll_above_goal_given",
                f"{label_prefix}NLL above the goal-given floor (nats per step)",
                seeds,
                lambda s: s.scalar("action_nll") - s.last("reference/goal_given"),
            )
        )
    return rows


def final_success(results: SeedResults) -> float:
    """Success of an RL stage: its own evaluation at the end, or that of its last updates."""
    evaluated = results.scalar("success")
    return results.last("success") if math.isnan(evaluated) else evaluated


def episodes_to(results: SeedResults, success: float) -> float:
    """Episodes until the mean success of an update's batch reaches a value, NaN if never."""
    reached = [s for s, value in zip(*results.curve("success"), strict=True) if value >= success]
    episodes = dict(zip(*results.curve("episodes"), strict=True))
    return float(episodes.get(reached[0], math.nan)) if reached else math.nan


def _rl_rows(run: RunResults) -> list[Row]:
    rows = []
    for stage, label in RL_STAGES.items():
        seeds = run.get(stage, ())
        to_reach = f"{label}, episodes to success {SUCCESS_TO_REACH:g}"
        rows += [
            _row(f"{stage}_success", f"{label}, success on the task", seeds, final_success),
            _row(
                f"{stage}_deterministic_success",
                f"{label}, success without sampling",
                seeds,
                lambda s: s.scalar("deterministic_success"),
            ),
            _row(f"{stage}_episodes", f"{label}, episodes", seeds, lambda s: s.last("episodes")),
            _row(
                f"{stage}_episodes_to_{SUCCESS_TO_REACH:g}",
                to_reach,
                seeds,
                lambda s: episodes_to(s, SUCCESS_TO_REACH),
            ),
        ]
    return rows


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
        if stage.startswith("metacontroller")
        for results in seeds
        if not math.isnan(results.scalar("kl"))
    ]


def loss_accounting(run: RunResults) -> list[dict[str, float | str]]:
    """Losses of all trained and ideal solutions at the alpha of the discovered one; see there."""
    solutions = solutions_of(run)
    discovered = [solution for solution in solutions if solution.name == "discovered"]
    if not discovered:
        return []
    first = run["metacontroller"][0]
    bayes, goal_given = first.last("reference/bayes"), first.last("reference/goal_given")
    if not math.isnan(bayes) and not math.isnan(goal_given):
        solutions += ideal_solutions(bayes, goal_given)
    return compare_losses(solutions, discovered[0].alpha)


def format_markdown(rows: Sequence[Row], accounting: Sequence[dict]) -> str:
    """Both tables as Markdown."""
    lines = ["| quantity | median | lowest | highest | seeds |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        values = " | ".join(f"{x:.4g}" for x in (row.median, row.lowest, row.highest))
        lines.append(f"| {row.label} | {values} | {len(row.values)} |")
    if accounting:
        lines += ["", "Loss accounting, cheapest first (nats per step):", ""]
        lines += ["| solution | NLL | KL | loss | F1 |", "|---|---:|---:|---:|---:|"]
        for entry in accounting:
            values = " | ".join(f"{entry[name]:.4g}" for name in ("nll", "kl", "loss", "f1"))
            lines.append(f"| {entry['name']} | {values} |")
    return "\n".join(lines).replace("nan", "–") + "\n"


def format_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, the value of every seed at the end of its row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "quantity", "median", "lowest", "highest", "values by seed"])
    for row in rows:
        values = " ".join(f"{value:.6g}" for value in row.values)
        numbers = (f"{x:.6g}" for x in (row.median, row.lowest, row.highest))
        writer.writerow([row.key, row.label, *numbers, values])
    return text.getvalue()
