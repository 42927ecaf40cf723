"""Codes of the encoder, injected into a model that walks to the colour it is told."""

import jax
import numpy as np
import pytest

from internal_rl.analysis import encoder_injection
from internal_rl.analysis.code_bank import CodeBank


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
    np.testing.assert_allclose(reach.reach_injected, 1 / 5)


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
