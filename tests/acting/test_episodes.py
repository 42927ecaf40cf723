"""The loop in which models act: the base model alone, against its parallel form and the world."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.acting.episodes import LAST, NOWHERE, NoControl, Visits, act, play, start_worlds
from internal_rl.models.heads import action_log_prob, mode_action
from tests.acting.steered import make_model, make_world

EPISODES = 32
EVERYTHING = (
    "observation",
    "action",
    "action_log_prob",
    "reward",
    "visit",
    "progress",
    "subgoal",
    LAST,
)


@functools.partial(jax.jit, static_argnames=("num_slots", "free_running"))
def run(model, deterministic, **options):
    world, key = make_world(), jax.random.key(3)
    options |= {"deterministic": deterministic, "keep": EVERYTHING}
    return play(world, model, NoControl(), key, EPISODES, **options)


@functools.cache
def played(deterministic=False, num_slots=8, free_running=False):
    options = {"num_slots": num_slots, "free_running": free_running}
    return jax.device_get(run(make_model().alone(), deterministic, **options))


@jax.jit
def parallel_form(model, episodes):
    """Log-probabilities of the actions and the most probable ones."""
    segment = jnp.where(episodes.active, 0, -1)
    output = model.upper(model.lower(episodes.observation, segment), segment)
    spec = model.base.action_spec
    log_prob = action_log_prob(spec, output.action, episodes.action)
    return log_prob, mode_action(spec, output.action)


def test_the_base_model_acts_as_its_parallel_form_says():
    episodes = played()
    log_prob = np.asarray(parallel_form(make_model(), episodes)[0])
    active = episodes.active
    np.testing.assert_allclose(log_prob[active], episodes.action_log_prob[active], atol=1e-4)


def test_deterministic_episodes_take_the_most_probable_action():
    episodes = played(deterministic=True)
    best = np.asarray(parallel_form(make_model(), episodes)[1])
    np.testing.assert_array_equal(episodes.action[episodes.active], best[episodes.active])


def test_episodes_do_not_depend_on_the_number_of_slots():
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
        played(num_slots=8),
        played(num_slots=EPISODES),
    )


@pytest.mark.parametrize("free_running", [False, True])
def test_what_is_kept_is_what_the_world_shows_step_by_step(free_running):
    world, episodes = make_world(), played(free_running=free_running)

    @jax.jit
    def start(key):
        return start_worlds(world, jax.random.split(key)[0], world.post_training_task, EPISODES)

    states, timesteps = jax.device_get(start(jax.random.key(3)))
    step = jax.jit(world.step_without_task if free_running else world.step)
    for b in range(8):
        state, before = jax.tree.map(lambda x, b=b: x[b], (states, timesteps))
        for t in range(int(episodes.length[b])):
            np.testing.assert_array_equal(episodes.observation[b, t], before.observation)
            assert episodes.subgoal[b, t] == before.subgoal
            state, after = step(state, episodes.action[b, t])
            after = jax.device_get(after)
            assert episodes.reward[b, t] == after.reward
            assert episodes.visit[b, t] == after.visit
            assert episodes.progress[b, t] == after.progress
            before = after
        np.testing.assert_array_equal(episodes.last_observation[b], before.observation)
        assert before.done or episodes.length[b] == world.time_limit


def test_without_a_task_episodes_last_until_the_time_limit():
    ruled, free = played(), played(free_running=True)
    assert (free.length == make_world().time_limit).all()
    assert (ruled.length < free.length).any() and not free.success.any()


def test_the_same_key_and_start_play_the_same_episodes():
    world, model = make_world(), make_model().alone()

    @jax.jit
    def run(key):
        start = start_worlds(world, jax.random.key(0), world.post_training_task, 16)
        return act(world, model, NoControl(), start, key, keep=("action",)).action

    keys = (jax.random.key(seed) for seed in (1, 1, 2))
    first, again, other = (np.asarray(run(key)) for key in keys)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_only_what_is_asked_for_is_kept():
    world = make_world()

    @jax.jit
    def run(model):
        return play(world, model, NoControl(), jax.random.key(0), 2, keep=("reward",))

    episodes = jax.device_get(run(make_model().alone()))
    assert episodes.last_observation is None
    assert episodes.observation is None and episodes.action is None and episodes.visit is None
    assert episodes.reward.shape == (2, world.time_limit)
    np.testing.assert_array_equal(episodes.success, episodes.returns > 0)


def test_visits_are_counted_and_the_last_one_is_remembered():
    visits, after = Visits.none(2), jax.jit(Visits.after)
    for visit in ([NOWHERE, 3], [1, NOWHERE], [2, 0]):
        visits = after(visits, np.array(visit))
    assert visits.count.tolist() == [2, 2] and visits.last.tolist() == [2, 0]
