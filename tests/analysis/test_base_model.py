"""What the base model does alone, on the task and free of it."""

import jax
import numpy as np

from internal_rl.analysis import base_model, transitions


def test_the_base_model_is_sampled_on_the_task(world, model):
    result = base_model.sample_success(world, model, jax.random.key(0), 24)
    assert 0.0 <= result.sampled_success <= 1.0
    assert result.sampled_episodes == 24


def test_a_metacontroller_plays_no_part_in_the_base_models_success(world, model, steered):
    alone, other = (
        base_model.sample_success(world, x, jax.random.key(0), 24) for x in (model, steered)
    )
    assert alone.sampled_success == other.sampled_success


def test_transitions_of_free_episodes_are_counted(world, model):
    result = transitions.count_transitions(world, model, jax.random.key(0), 24)
    assert 0.0 <= result.unseen_transition_rate <= 1.0
    # Pretraining tasks have three colours, so two transitions at most are counted.
    assert 0 < result.transition_counts.sum() <= 24 * 2


def test_transitions_are_counted_up_to_the_last_allowed_visit():
    visit = np.array([[-1, 0, -1, 1, 2, -1, 0], [2, 2, -1, -1, 1, 0, 1]])
    counts = transitions.transition_counts(visit, 3, max_visits=3)
    expected = np.zeros((3, 3))
    for before, after in [(0, 1), (1, 2), (2, 2), (2, 1)]:
        expected[before, after] += 1
    np.testing.assert_array_equal(counts, expected)


def test_unseen_rate_is_over_the_places_that_have_an_unseen_transition():
    counts = np.array([[5.0, 1.0, 3.0], [4.0, 9.0, 0.0], [2.0, 6.0, 0.0]])
    result = transitions.unseen_transition_rate(counts, {(0, 1), (1, 2)})
    np.testing.assert_allclose(result.unseen_transition_rate, 1 / 8)
    np.testing.assert_allclose(result.unseen_transition_rate_overall, 1 / 16)


def test_unseen_transitions_of_a_world_can_be_counted(world):
    result = transitions.unseen_transition_rate(np.ones((4, 4)), world.unseen_transitions)
    np.testing.assert_allclose(result.unseen_transition_rate, 1 / 3, rtol=1e-6)
