"""Switching metrics against a slow NumPy count."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from internal_rl.methods import switching


def reference_counts(beta, subgoal, segment, mask, tolerance):
    """Loops over trajectories and solves the matching as a bipartite graph."""
    totals = dict.fromkeys(
        ("switches", "changes", "matched", "matched_closely", "soft", "steps", "trajectories"), 0
    )
    for row in range(beta.shape[0]):
        for trajectory in sorted(set(segment[row]) - {-1}):
            steps = np.flatnonzero((segment[row] == trajectory) & mask[row])
            if len(steps) == 0:
                continue
            totals["trajectories"] += 1
            rest = steps[1:]
            switches = [t for t in rest if beta[row, t] >= 0.5]
            changes = [t for t in rest if subgoal[row, t] != subgoal[row, t - 1]]
            graph = nx.Graph()
            graph.add_edges_from(
                (("switch", s), ("change", c))
                for s in switches
                for c in changes
                if abs(s - c) <= tolerance
            )
            matching = nx.max_weight_matching(graph, maxcardinality=True)
            totals["steps"] += len(rest)
            totals["switches"] += len(switches)
            totals["changes"] += len(changes)
            totals["matched"] += len(set(switches) & set(changes))
            totals["matched_closely"] += len(matching)
            totals["soft"] += sum(0.1 < beta[row, t] < 0.9 for t in rest)
    return totals


def random_rows(seed, rows=6, length=40, terminal=True):
    """Packed rows of trajectories with random subgoal changes and random gates."""
    rng = np.random.default_rng(seed)
    subgoal = np.full((rows, length), -1, np.int32)
    segment = np.full((rows, length), -1, np.int32)
    mask = np.zeros((rows, length), bool)
    for row in range(rows):
        at, index = 0, 0
        while True:
            size = int(rng.integers(1, 12))
            if at + size + terminal > length:
                break
            goals = np.cumsum(rng.random(size) < 0.4) % 4
            subgoal[row, at : at + size] = goals
            segment[row, at : at + size + terminal] = index
            mask[row, at : at + size] = True
            if terminal:
                subgoal[row, at + size] = goals[-1]
            at, index = at + size + terminal, index + 1
    beta = rng.random((rows, length)).astype(np.float32) ** rng.choice([0.3, 1.0, 3.0])
    return beta, subgoal, segment, mask


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("terminal", "tolerance"), [(False, 0), (False, 1), (True, 1), (True, 2), (True, 5)]
)
def test_counts_equal_those_of_a_loop_over_trajectories(seed, terminal, tolerance):
    rows = random_rows(seed, terminal=terminal)
    counts = jax.jit(switching.count_switches, static_argnames="tolerance")(
        *rows, tolerance=tolerance
    )
    for name, value in reference_counts(*rows, tolerance).items():
        assert getattr(counts, name) == value, name


def test_counts_of_two_batches_add():
    rows = [random_rows(seed) for seed in (10, 11)]
    both = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    added = switching.count_switches(*rows[0]) + switching.count_switches(*rows[1])
    assert added == switching.count_switches(*both)


def one_row(switches, changes, length=12):
    """A single trajectory with a switch or a change at the given steps."""
    beta = np.zeros((1, length), np.float32)
    beta[0, list(switches)] = 1.0
    subgoal = np.isin(np.arange(length), list(changes)).cumsum()[None].astype(np.int32)
    return beta, subgoal, np.zeros((1, length), np.int32), np.ones((1, length), bool)


def test_the_gate_that_follows_the_subgoal_scores_one():
    metrics = switching.switching_metrics(switching.count_switches(*one_row({0, 3, 7}, {3, 7})))
    assert metrics["f1"] == metrics["precision"] == metrics["recall"] == 1.0
    assert metrics["switches_per_trajectory"] == metrics["changes_per_trajectory"] == 2.0
    assert metrics["soft_gate_share"] == 0.0


def test_ratios_are_those_of_sums_over_rows_and_trajectories():
    """Three switches and two changes in four trajectories, of which one pair matches exactly."""
    trajectories = [[({0, 4, 6}, {5}), ({0, 9}, {9})], [({0}, set()), (set(), set())]]
    rows = [
        np.concatenate(parts, axis=1)
        for row in trajectories
        for parts in zip(*(one_row(*events) for events in row), strict=True)
    ]
    beta, subgoal, segment, mask = (np.concatenate(rows[i::4]) for i in range(4))
    segment[:, 12:] = 1
    mask[:, 11::12] = False
    # Six undecided steps, and two more that do not count: a first step and one without an action.
    beta[[0, 0, 1, 1, 1, 1], [2, 13, 3, 4, 15, 16]] = 0.3
    beta[1, [12, 23]] = 0.3
    found = switching.switching_metrics(switching.count_switches(beta, subgoal, segment, mask))
    expected = {
        "precision": 1 / 3,
        "recall": 1 / 2,
        "f1": 2 / 5,
        "precision_close": 2 / 3,
        "recall_close": 1.0,
        "f1_close": 4 / 5,
        "switches_per_trajectory": 3 / 4,
        "changes_per_trajectory": 2 / 4,
        "soft_gate_share": 6 / 40,
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_a_gate_at_the_threshold_switches_and_one_at_the_edge_is_decided():
    beta, *labels = one_row({0}, set())
    beta[0, 2:6] = 0.5, np.nextafter(np.float32(0.5), np.float32(0)), 0.1, 0.9
    counts = switching.count_switches(beta, *labels)
    # The switches are those of 0.5 and 0.9.
    assert (counts.switches, counts.soft) == (2.0, 2.0)
    assert switching.count_switches(beta, *labels, threshold=0.9).switches == 1.0


def test_two_switches_around_one_change_match_it_once():
    counts = switching.count_switches(*one_row({4, 6}, {5}))
    assert (counts.matched, counts.matched_closely) == (0.0, 1.0)


def test_neighbouring_switches_serve_neighbouring_changes():
    counts = switching.count_switches(*one_row({4, 5}, {5, 6}))
    assert (counts.matched, counts.matched_closely) == (1.0, 2.0)


def test_an_always_open_gate_has_full_recall_and_poor_precision():
    metrics = switching.switching_metrics(switching.count_switches(*one_row(range(12), {6})))
    np.testing.assert_allclose(metrics["recall"], 1.0)
    np.testing.assert_allclose(metrics["precision"], 1 / 11, rtol=1e-6)


def test_no_switch_and_no_change_gives_zeros_not_nan():
    metrics = switching.switching_metrics(switching.count_switches(*one_row({0}, set())))
    assert all(np.isfinite(value) for value in metrics.values())


def test_a_match_does_not_cross_trajectories():
    beta, subgoal, segment, mask = one_row({5}, {7})
    segment[0, 6:] = 1
    counts = switching.count_switches(*map(jnp.asarray, (beta, subgoal, segment, mask)))
    assert counts.matched_closely == 0.0
    assert counts.trajectories == 2.0
