"""The accounting of code cost against prediction."""

import numpy as np
import pytest

from internal_rl.analysis import rate_distortion
from internal_rl.analysis.rate_distortion import Solution
from internal_rl.types import Trajectory


def test_ideal_codes_cost_what_they_save():
    no_code, goals, actions = rate_distortion.ideal_solutions(bayes=0.2, goal_given=0.05)
    # At alpha = 1 nothing is gained by coding, below it everything is.
    assert no_code.loss(1.0) == pytest.approx(goals.loss(1.0)) == pytest.approx(actions.loss(1.0))
    assert actions.loss(0.3) < goals.loss(0.3) < no_code.loss(0.3)


def test_without_entropy_below_the_goal_action_codes_gain_nothing_over_goal_codes():
    _, goals, actions = rate_distortion.ideal_solutions(bayes=0.2, goal_given=0.0)
    assert goals.loss(0.3) == pytest.approx(actions.loss(0.3))


def test_losses_are_compared_at_one_price_by_the_median_seed():
    solutions = [
        Solution("discovered", 0.3, nll=0.10, kl=0.1, seed=0),
        Solution("discovered", 0.3, nll=0.50, kl=0.1, seed=1),
        Solution("discovered", 0.3, nll=0.12, kl=0.1, seed=2),
        Solution("forced", 0.3, nll=0.05, kl=0.5),
    ]
    rows = rate_distortion.compare_losses(solutions, alpha=0.3)
    assert [row["name"] for row in rows] == ["discovered", "forced"]
    assert rows[0]["loss"] == pytest.approx(0.15)
    assert rows[1]["loss"] == pytest.approx(0.20)
    cheap = rate_distortion.compare_losses(solutions, alpha=0.01)
    assert [row["name"] for row in cheap] == ["forced", "discovered"]


def test_solutions_without_alpha_form_one_group():
    ideal = rate_distortion.ideal_solutions(0.2, 0.1)
    assert len(rate_distortion.compare_losses([*ideal, *ideal], 0.3)) == 3


def test_kl_is_split_by_place():
    kl = np.array([[3.0, 0.1, 2.0, 0.3, 5.0, 0.5, 9.0]])
    subgoal = np.array([[0, 0, 1, 1, 2, 2, 2]])
    segment = np.array([[0, 0, 0, 0, 1, 1, 1]])
    mask = np.array([[True] * 6 + [False]])
    rows = Trajectory(None, None, None, mask, subgoal, segment)
    places = rate_distortion.kl_by_place(kl, rows)
    np.testing.assert_allclose(places.kl_first, 4.0)
    np.testing.assert_allclose(places.kl_changes, 2.0)
    np.testing.assert_allclose(places.kl_elsewhere, 0.3, rtol=1e-6)
