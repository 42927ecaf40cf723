"""The accounting of code cost against prediction, and its sweep over alpha (method §5).

The metacontroller minimises `NLL + alpha KL`, both summed over all steps. Whether it codes goals or
single actions is a question of price. All figures here are nats per step.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import chex
import jax.numpy as jnp
import numpy as np

from internal_rl.analysis.switching import subgoal_changes


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

    Several seeds of one name and alpha are summarised by the one with the median loss. Solutions
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


def summarise_sweep(solutions: Sequence[Solution]) -> list[dict[str, float | str]]:
    """Median and quartiles of NLL, KL and F1 for every name and alpha.

    Returns:
      One row per name and alpha in ascending order, with `name`, `alpha`, `seeds`, and for each of
      `nll`, `kl`, `f1` the keys `<key>`, `<key>_low`, `<key>_high`.
    """
    rows = []
    for group in _group(solutions, key=lambda s: (s.name, s.alpha)):
        row = {"name": group[0].name, "alpha": group[0].alpha, "seeds": len(group)}
        for field in ("nll", "kl", "f1"):
            values = np.array([getattr(solution, field) for solution in group])
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
            row |= {field: middle, f"{field}_low": low, f"{field}_high": high}
        rows.append(row)
    return rows


def _group(solutions: Sequence[Solution], key) -> list[list[Solution]]:
    groups: dict = {}
    for solution in solutions:
        # NaN is not equal to itself; its text is.
        groups.setdefault(str(key(solution)), []).append(solution)
    return sorted(groups.values(), key=lambda group: (group[0].name, group[0].alpha))


def _places(subgoal: chex.Array, segment: chex.Array, mask: chex.Array) -> dict[str, chex.Array]:
    """First steps of trajectories, changes of subgoal and the rest, each `(B, S)` bool."""
    continues = jnp.pad(segment[:, 1:] == segment[:, :-1], ((0, 0), (1, 0)))
    change = subgoal_changes(subgoal, segment, mask)
    return {
        "first": mask & ~continues,
        "changes": change,
        "elsewhere": mask & continues & ~change,
    }


def kl_by_place(
    kl: chex.Array, subgoal: chex.Array, segment: chex.Array, mask: chex.Array
) -> Mapping[str, chex.Array]:
    """Where the code's information is paid: a goal code pays where goals change.

    Args:
      kl: `(B, S)` KL of the code at every step, nats.
      subgoal: `(B, S)` int32.
      segment: `(B, S)` int32.
      mask: `(B, S)` bool, steps to count.

    Returns:
      Mean nats per step `kl_first` at the first steps of trajectories, `kl_changes` where the
      subgoal changes, `kl_elsewhere`.
    """
    return {
        f"kl_{name}": jnp.sum(kl * place) / jnp.maximum(jnp.sum(place), 1)
        for name, place in _places(subgoal, segment, mask).items()
    }


# A latent dimension with less variance of its posterior mean carries nothing.
ACTIVE_VARIANCE = 0.01


def active_units(
    mean: chex.Array, subgoal: chex.Array, segment: chex.Array, mask: chex.Array
) -> Mapping[str, chex.Array]:
    """Dimensions of the code that tell one goal from another (Burda et al. 2016, section 5.2).

    A collapsed posterior squeezes several goals into few dimensions, where neighbours are confused.

    Args:
      mean: `(B, S, n_z)` posterior means.
      subgoal: `(B, S)` int32.
      segment: `(B, S)` int32.
      mask: `(B, S)` bool, steps to count.

    Returns:
      `code_variance` `(n_z,)`, variance of the posterior mean over the steps at which a goal
      begins, and `active_units` `()`, how many dimensions exceed `ACTIVE_VARIANCE`.
    """
    places = _places(subgoal, segment, mask)
    begins = (places["first"] | places["changes"])[..., None]
    count = jnp.maximum(jnp.sum(begins), 1)
    centre = jnp.sum(mean * begins, axis=(0, 1)) / count
    variance = jnp.sum(jnp.square(mean - centre) * begins, axis=(0, 1)) / count
    return {"code_variance": variance, "active_units": jnp.sum(variance > ACTIVE_VARIANCE)}
