"""Lock-step rollouts against the world and the model they stand on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.analysis import rollout
from internal_rl.envs import tasks


@pytest.fixture(scope="module")
def recorded(env, base, base_params):
    """A free-running and a ruled rollout whose control records the residual of layer 1."""

    def record(carry, residual, context):
        return carry, residual, {"residual": residual, "cell": context.state.cell}

    def run(key, free_running):
        state = rollout.reset_batch(env, key, env.post_training_task, 16)
        control = rollout.Control(1, None, record)
        return state, rollout.rollout(
            env,
            base,
            base_params,
            state,
            key,
            control,
            free_running=free_running,
            keep_observations=True,
        )

    run = jax.jit(run, static_argnums=1)
    return {free: run(jax.random.key(3), free) for free in (False, True)}


def test_residuals_equal_the_parallel_form(base, base_params, recorded):
    _, episodes = recorded[True]
    segment = jnp.zeros(episodes.visit.shape, jnp.int32)
    parallel = base.apply(base_params, episodes.observation, segment, 1, method="lower")
    np.testing.assert_allclose(episodes.record["residual"], parallel, atol=1e-5)


@pytest.mark.parametrize("free_running", [False, True])
def test_visits_equal_those_of_the_recorded_cells(recorded, free_running):
    state, episodes = recorded[free_running]
    objects, cell = np.asarray(state.objects), np.asarray(episodes.record["cell"])
    for episode, t in np.ndindex(cell.shape[0], cell.shape[1] - 1):
        before, after = cell[episode, t], cell[episode, t + 1]
        colours = np.flatnonzero(objects[episode] == after)
        expected = colours[0] if before != after and len(colours) else -1
        assert episodes.visit[episode, t] == expected


def test_ruled_episodes_equal_stepping_the_world(env, recorded):
    state, episodes = recorded[False]
    step = jax.jit(jax.vmap(env.step))
    for t in range(env.time_limit):
        np.testing.assert_array_equal(episodes.mask[:, t], ~state.done)
        np.testing.assert_array_equal(episodes.record["cell"][:, t], state.cell)
        state, _ = step(state, episodes.action[:, t])
    np.testing.assert_array_equal(episodes.success, state.success)
    np.testing.assert_array_equal(episodes.progress, state.progress)


def test_free_running_episodes_go_on_after_a_wrong_colour(recorded):
    _, ruled = recorded[False]
    _, free = recorded[True]
    assert not np.all(ruled.mask)
    assert np.all(free.mask)
    assert np.sum(free.visit >= 0) > np.sum(ruled.visit >= 0)


def test_sampling_returns_as_many_episodes_as_asked(env, base, base_params):
    task = env.post_training_task
    episodes = jax.jit(
        lambda key: rollout.sample_base(env, base, base_params, key, task, 20, batch_size=8)
    )(jax.random.key(0))
    assert episodes.visit.shape == (20, env.time_limit)
    assert episodes.success.shape == (20,)


def test_transitions_are_counted_up_to_the_last_allowed_visit():
    visit = np.array([[-1, 0, -1, 1, 2, -1, 0], [2, 2, -1, -1, 1, 0, 1]])
    counts = rollout.transition_counts(visit, 3, max_visits=3)
    expected = np.zeros((3, 3))
    for before, after in [(0, 1), (1, 2), (2, 2), (2, 1)]:
        expected[before, after] += 1
    np.testing.assert_array_equal(counts, expected)


def test_unseen_rate_is_over_the_colours_that_have_an_unseen_transition():
    counts = np.array([[5.0, 1.0, 3.0], [4.0, 9.0, 0.0], [2.0, 6.0, 0.0]])
    metrics = rollout.unseen_transition_rate(counts, {(0, 1), (1, 2)})
    np.testing.assert_allclose(metrics["unseen_transition_rate"], 1 / 8)
    np.testing.assert_allclose(metrics["unseen_transition_rate_overall"], 1 / 16)


def test_unseen_transitions_of_a_task_set_can_be_counted(env):
    counts = np.ones((4, 4))
    unseen = tasks.unseen_transitions(env.task_set)
    metrics = rollout.unseen_transition_rate(counts, unseen)
    np.testing.assert_allclose(metrics["unseen_transition_rate"], 1 / 3, rtol=1e-6)
