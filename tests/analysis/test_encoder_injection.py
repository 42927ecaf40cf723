"""Codes of the encoder, injected into a model that walks to the colour it is told."""

import math

import jax
import numpy as np
import pytest

from internal_rl.analysis import encoder_injection
from internal_rl.analysis.code_bank import CodeBank
from internal_rl.analysis.results import SeedResults


@pytest.fixture(scope="module")
def bank(world):
    """Perfect codes: the score of the subgoal's colour is one. Collected in every layout."""
    objects, walls, free, _ = world.layouts
    layouts = []
    for layout in range(world.config.num_layouts):
        _, timestep = world.reset_to(
            objects[layout], walls[layout], free[layout, 0], world.post_training_task
        )
        layouts.append(world.layout_fingerprint(timestep.observation))
    subgoal, layout = np.meshgrid(np.arange(4), np.array(layouts), indexing="ij")
    return CodeBank(np.eye(4, dtype=np.float32)[subgoal.ravel()], subgoal.ravel(), layout.ravel())


@pytest.mark.parametrize("after_visits", [0, 1])
def test_a_code_that_means_a_colour_leads_there(world, obedient, bank, after_visits):
    inject = jax.jit(
        lambda model, key: encoder_injection.inject_codes(
            world, model, bank, key, 200, after_visits=after_visits
        )
    )
    counts = inject(obedient, jax.random.key(0))
    reach = encoder_injection.injection_metrics(counts, world.subgoal_places, {(0, 1), (1, 2)})
    # A random walk may come to its first colour too late for the second.
    assert reach.reach_injected > 0.85
    assert reach.reach_uncontrolled < 0.4
    assert reach.reach_prior < 0.5
    assert reach.reach_gain > 2.0
    for arm in encoder_injection.ARMS:
        none = 4
        before = np.asarray(counts[arm]).sum(axis=(1, 2))
        unseen = getattr(reach, f"reach_unseen_{arm}")
        if after_visits == 0:
            assert before[none] == before.sum() == 200
            assert np.isnan(unseen)
        else:
            assert before[none] == 0
            assert 0 < before.sum() <= 200
            assert np.isfinite(unseen)
            aimed_at_itself = np.asarray(counts[arm]).sum(axis=2)[:4].diagonal()
            np.testing.assert_array_equal(aimed_at_itself, 0)


def test_all_arms_aim_at_the_same_targets(world, obedient, bank):
    counts = jax.jit(
        lambda model, key: encoder_injection.inject_codes(
            world, model, bank, key, 64, after_visits=1
        )
    )(obedient, jax.random.key(1))
    aims = [np.asarray(counts[arm]).sum(axis=2) for arm in encoder_injection.ARMS]
    np.testing.assert_array_equal(aims[0], aims[1])
    np.testing.assert_array_equal(aims[0], aims[2])


def test_unseen_transitions_are_left_out_where_none_are_known(world):
    counts = {arm: np.ones((5, 4, 5)) for arm in encoder_injection.ARMS}
    reach = encoder_injection.injection_metrics(counts, world.subgoal_places)
    assert reach.reach_unseen_injected is None
    assert reach.reach_unseen_injected_episodes is None
    assert reach.reach_prior_episodes == 5 * 4 * 5
    np.testing.assert_allclose(reach.reach_injected, 1 / 5)


def test_rates_of_unseen_transitions_are_those_of_their_episodes_alone():
    """Every cell of every arm holds a prime of its own: no other sums have the same quotients."""
    num_places, first_place = 3, (2, 0, 1, 0)
    shape = (num_places + 1, len(first_place), num_places + 1)
    primes = [n for n in range(2, 1300) if all(n % k for k in range(2, int(n**0.5) + 1))]
    number = int(np.prod(shape))
    assert len(primes) >= len(encoder_injection.ARMS) * number
    counts = {
        arm: np.array(primes[i * number : (i + 1) * number], np.float32).reshape(shape)
        for i, arm in enumerate(encoder_injection.ARMS)
    }
    # None is unseen the other way round; place 0 is the first one of two subgoals.
    unseen = {(2, 0), (2, 1), (0, 1)}
    found = encoder_injection.injection_metrics(counts, np.array(first_place), unseen)
    everything = [(place, goal) for place in range(num_places + 1) for goal in range(4)]
    aims = {"reach": everything, "reach_unseen": [(2, 1), (2, 3), (2, 2), (0, 2)]}
    for arm, table in counts.items():
        for name, chosen in aims.items():
            hits = sum(table[place, goal, first_place[goal]] for place, goal in chosen)
            total = sum(table[place, goal].sum() for place, goal in chosen)
            np.testing.assert_allclose(getattr(found, f"{name}_{arm}"), hits / total, rtol=1e-6)
            assert getattr(found, f"{name}_{arm}_episodes") == total
    gain = found.reach_injected / found.reach_uncontrolled
    np.testing.assert_allclose(found.reach_gain, gain, rtol=1e-6)


def test_what_never_happens_without_a_code_has_no_gain():
    counts = {arm: np.zeros((5, 4, 5)) for arm in encoder_injection.ARMS}
    for arm, place in zip(encoder_injection.ARMS, (0, 0, 4), strict=True):
        counts[arm][4, 0, place] = 10
    reach = encoder_injection.injection_metrics(counts, np.arange(4))
    assert reach.reach_injected == 1.0 and reach.reach_uncontrolled == 0.0
    assert np.isnan(reach.reach_gain)


def test_visits_are_numbered_from_one():
    visit = np.array([[-1, 2, -1, 0, 0], [-1, -1, -1, 1, -1]])
    assert encoder_injection.nth_visit(visit, 0).tolist() == [-1, -1]
    assert encoder_injection.nth_visit(visit, 1).tolist() == [2, 1]
    assert encoder_injection.nth_visit(visit, 2).tolist() == [0, -1]
    assert encoder_injection.nth_visit(visit, 3).tolist() == [0, -1]


def seed_results(seed, **arrays):
    """A metacontroller that was tested after one visit, `arrays` behind `injection_1_reach_`."""
    found = {f"injection_1_reach_{name}": np.array(value) for name, value in arrays.items()}
    return SeedResults("metacontroller", seed, {}, (), found)


def test_rates_tell_of_how_many_episodes_they_are_the_share():
    counted = {"unseen_injected": 0.25, "unseen_injected_episodes": 132, "gain": 2.0}
    # Older runs have kept no numbers.
    seeds = [seed_results(0, **counted), seed_results(1, unseen_injected=0.5)]
    rows = {row.key: row for row in encoder_injection.rows("metacontroller", seeds)}
    assert len(rows) == len(encoder_injection.ROW_LABELS)
    unseen = rows["codes_injection_1_reach_unseen_injected"]
    assert unseen.values == (0.25, 0.5) and unseen.episodes == (132, 0)
    ((rate, episodes, (low, high)),) = unseen.rates
    assert (rate, episodes) == (0.25, 132) and 0.18 < low < 0.25 < high < 0.34
    assert not rows["codes_injection_1_reach_gain"].episodes
    (older,) = [
        row for row in encoder_injection.rows("metacontroller", seeds[1:]) if row.median > 0
    ]
    assert older.episodes == () and not older.rates


def test_bars_leave_out_seeds_without_a_value():
    rates = [(0.8, 0.3), (0.6, math.nan), (0.4, 0.1)]
    seeds = [
        seed_results(seed, injected=injected, prior=prior, uncontrolled=0.2)
        for seed, (injected, prior) in enumerate(rates)
    ]
    figure = encoder_injection.figures({"metacontroller": seeds})["encoder_code_injection"]
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, [0.6, 0.2, 0.2])
