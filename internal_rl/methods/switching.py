"""Does the learned gate switch where the subgoal changes?

A *switch* is a step whose gate is at or above the threshold (beta >= 0.5); a *change* is a step
whose ground-truth subgoal differs from that of the step before. The first step of a trajectory is
always a switch by construction and is left out on both sides. Switches and changes are matched one
to one within a trajectory; a gate that is open at every step therefore gains recall and loses
precision at any tolerance.

Counts are sums over a batch, so batches are added before ratios are taken.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct

SWITCH_THRESHOLD = 0.5
SOFT_GATE_RANGE = (0.1, 0.9)


@struct.dataclass
class SwitchCounts:
    """Sums over steps, to be added over batches; all `()` float32.

    Attributes:
      switches: steps at which the gate is at or above the threshold.
      changes: steps at which the subgoal differs from the step before.
      matched: switches that fall on a change.
      matched_closely: pairs of a switch and a change at most `tolerance` steps apart, one to one.
      soft: steps whose gate lies strictly inside `SOFT_GATE_RANGE`.
      steps: steps counted, those that are not the first of their trajectory.
      trajectories: trajectories counted.
    """

    switches: chex.Array
    changes: chex.Array
    matched: chex.Array
    matched_closely: chex.Array
    soft: chex.Array
    steps: chex.Array
    trajectories: chex.Array

    def __add__(self, other: "SwitchCounts") -> "SwitchCounts":
        return jax.tree.map(jnp.add, self, other)


def _follows(segment: chex.Array, mask: chex.Array) -> chex.Array:
    """`(B, S)` bool: the token has an action and a predecessor in the same trajectory."""
    same = segment[:, 1:] == segment[:, :-1]
    same = jnp.pad(same, ((0, 0), (1, 0)), constant_values=False)
    return same & mask & (segment >= 0)


def subgoal_changes(subgoal: chex.Array, segment: chex.Array, mask: chex.Array) -> chex.Array:
    """Steps at which the ground-truth subgoal changes within a trajectory.

    Args:
      subgoal: `(B, S)` int32 subgoal of every token.
      segment: `(B, S)` int32 trajectory of every token, -1 at padding.
      mask: `(B, S)` bool, the token carries an action.

    Returns:
      `(B, S)` bool, never true at the first step of a trajectory.
    """
    differs = jnp.pad(subgoal[:, 1:] != subgoal[:, :-1], ((0, 0), (1, 0)))
    return differs & _follows(segment, mask)


def count_close_matches(
    switch: chex.Array, change: chex.Array, segment: chex.Array, tolerance: int
) -> chex.Array:
    """Size of the largest one-to-one matching of switches and changes at most so far apart.

    Both lie on a line and all windows are equally long, so serving the oldest open event first is
    optimal. Whenever events of both kinds are open they are matched at once, hence all open ones
    are of one kind; what the scan carries is how many there are of each age.

    Args:
      switch: `(B, S)` bool.
      change: `(B, S)` bool.
      segment: `(B, S)` int32; events of different trajectories never match.
      tolerance: largest distance in steps.

    Returns:
      `(B,)` float32 number of matched pairs.
    """

    def take_oldest(waiting, taken):
        # Ages grow along the axis: the last one that is set is the oldest.
        later = jnp.cumsum(waiting[:, ::-1], axis=1)[:, ::-1]
        return waiting & ~((later == 1) & taken[:, None])

    def step(carry, inputs):
        switches, changes, matched = carry
        switch_now, change_now, same = inputs
        switches, changes = switches & same[:, None], changes & same[:, None]
        late = change_now & jnp.any(switches, axis=1)
        early = switch_now & jnp.any(changes, axis=1)
        exact = switch_now & change_now & ~late & ~early
        switches, changes = take_oldest(switches, late), take_oldest(changes, early)
        switch_left, change_left = switch_now & ~early & ~exact, change_now & ~late & ~exact
        older = (
            jnp.concatenate([new[:, None], old], axis=1)[:, :tolerance]
            for new, old in ((switch_left, switches), (change_left, changes))
        )
        return (*older, matched + late + early + exact), None

    same = jnp.pad(segment[:, 1:] == segment[:, :-1], ((0, 0), (1, 0)))
    none = jnp.zeros((switch.shape[0], tolerance), bool)
    start = (none, none, jnp.zeros(switch.shape[0], jnp.float32))
    (_, _, matched), _ = jax.lax.scan(step, start, (switch.T, change.T, same.T))
    return matched


def count_switches(
    beta: chex.Array,
    subgoal: chex.Array,
    segment: chex.Array,
    mask: chex.Array,
    *,
    threshold: float = SWITCH_THRESHOLD,
    tolerance: int = 1,
) -> SwitchCounts:
    """Counts switches, changes and their matches over a batch of packed rows.

    Args:
      beta: `(B, S)` gate in [0, 1].
      subgoal: `(B, S)` int32 ground-truth subgoal.
      segment: `(B, S)` int32 trajectory inside the row, -1 at padding.
      mask: `(B, S)` bool, the token carries an action.
      threshold: gate value from which on a step is a switch.
      tolerance: steps by which a close match may be off, 0 or more.

    Returns:
      The counts.
    """
    chex.assert_equal_shape((beta, subgoal, segment, mask))
    follows = _follows(segment, mask)
    switch = (beta >= threshold) & follows
    change = subgoal_changes(subgoal, segment, mask)
    low, high = SOFT_GATE_RANGE
    return SwitchCounts(
        switches=_total(switch),
        changes=_total(change),
        matched=_total(switch & change),
        matched_closely=_total(count_close_matches(switch, change, segment, tolerance)),
        soft=_total((beta > low) & (beta < high) & follows),
        steps=_total(follows),
        trajectories=_total(mask & (segment >= 0)) - _total(follows),
    )


def _total(flags: chex.Array) -> chex.Array:
    return jnp.sum(flags, dtype=jnp.float32)


def _ratio(numerator: chex.Array, denominator: chex.Array) -> chex.Array:
    return jnp.where(denominator > 0, numerator / jnp.maximum(denominator, 1e-9), 0.0)


def switching_metrics(counts: SwitchCounts) -> dict[str, chex.Array]:
    """Turns counts into ratios; a ratio with nothing in its denominator is 0.

    Args:
      counts: sums over any number of batches.

    Returns:
      Scalars `precision`, `recall`, `f1` at tolerance 0; the same with suffix `_close` at the
      tolerance of the counts; `switches_per_trajectory` and `changes_per_trajectory` (first step
      excluded); `soft_gate_share`, the share of steps whose gate is undecided.
    """
    metrics = {}
    for suffix, matched in (("", counts.matched), ("_close", counts.matched_closely)):
        metrics["precision" + suffix] = _ratio(matched, counts.switches)
        metrics["recall" + suffix] = _ratio(matched, counts.changes)
        metrics["f1" + suffix] = _ratio(2.0 * matched, counts.switches + counts.changes)
    metrics["switches_per_trajectory"] = _ratio(counts.switches, counts.trajectories)
    metrics["changes_per_trajectory"] = _ratio(counts.changes, counts.trajectories)
    metrics["soft_gate_share"] = _ratio(counts.soft, counts.steps)
    return metrics
