"""Expert streams: every trajectory is real, and packing neither loses nor repeats any."""

import functools

import jax
import numpy as np
import pytest

from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from internal_rl.experts.collect import ExpertStream
from tests.envs.numpy_gridworld import NumpyGridWorld

CONFIG = GridWorldConfig(
    grid_size=5,
    num_colours=4,
    num_walls=1,
    time_limit=24,
    tasks="ant-pinpad",
    num_layouts=4,
    min_colour_distance=2,
)


@functools.cache
def make_stream(ties="random", epsilon=0.0, sequence_length=64, terminal=False, **config):
    env = GridWorld(GridWorldConfig(**(vars(CONFIG) | config)))
    return ExpertStream(env, env.pretraining_tasks, ties, epsilon, sequence_length, terminal)


@functools.cache
def compiled(stream):
    return jax.jit(lambda state: (*stream.next_tokens(state), stream.next(state)[1]))


def collect(stream, num_calls, num_rows=3, seed=0):
    """Trajectories of every lane in order, the rows they came from, and the final state."""
    state = stream.init(jax.random.key(seed), num_rows)
    lanes = [[] for _ in range(num_rows)]
    rows = []
    for _ in range(num_calls):
        state, tokens, packed = jax.tree.map(np.asarray, compiled(stream)(state))
        rows.append((tokens, packed))
        for lane, trajectories in enumerate(lanes):
            for segment in range(tokens.segment[lane].max() + 1):
                where = np.flatnonzero(tokens.segment[lane] == segment)
                trajectories.append((tokens, packed, lane, where))
    return lanes, rows, state


def describe(trajectory):
    """What identifies a trajectory, wherever it was packed."""
    tokens, packed, lane, where = trajectory
    episode = tokens.episode[lane, where[0]]
    return (
        int(tokens.task_index[lane, where[0]]),
        tuple(tokens.episodes.objects[lane, episode].tolist()),
        tuple(tokens.cell[lane, where].tolist()),
        tuple(tokens.action[lane, where].tolist()),
    )


STREAMS = {
    "pool": {},
    "pool, noise and terminal tokens": {"epsilon": 0.3, "terminal": True, "ties": "fork"},
    "random layouts": {"num_layouts": 0, "min_colour_distance": 1, "num_walls": 3},
    "pairs": {
        "num_layouts": 0,
        "min_colour_distance": 1,
        "num_colours": 8,
        "tasks": "gridworld-pinpad",
        "time_limit": 60,
        "epsilon": 0.1,
    },
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_trajectory_is_a_success_in_the_numpy_reference(name):
    stream = make_stream(**STREAMS[name])
    env = stream.env
    lanes, _, _ = collect(stream, 3)
    for tokens, packed, lane, where in sum(lanes, []):
        np.testing.assert_array_equal(where, np.arange(where[0], where[0] + len(where)))
        episode = tokens.episode[lane, where[0]]
        episodes = jax.tree.map(lambda x, lane=lane: x[lane, episode], tokens.episodes)
        task = stream.tasks[episodes.task_index]
        subgoals = env.task_set.subgoal_ids(tuple(task[task >= 0].tolist()))
        world = NumpyGridWorld(
            env.config.grid_size,
            episodes.objects,
            episodes.walls,
            episodes.start_cell,
            task,
            env.time_limit,
        )
        for token in where[: len(where) - stream.include_terminal]:
            assert packed.mask[lane, token]
            assert packed.subgoal[lane, token] == subgoals[len(subgoals) - len(world.todo)]
            assert tokens.goal[lane, token] == world.todo[0]
            assert tokens.progress[lane, token] == len(subgoals) - len(world.todo)
            seen = world.observation().reshape(-1)
            np.testing.assert_array_equal(packed.observation[lane, token], seen)
            assert not world.done
            world.step(packed.action[lane, token])
            seen = world.observation().reshape(-1)
            np.testing.assert_array_equal(packed.next_observation[lane, token], seen)
        assert world.success
        if stream.include_terminal:
            assert not packed.mask[lane, where[-1]]
            np.testing.assert_array_equal(packed.observation[lane, where[-1]], seen)
            assert packed.subgoal[lane, where[-1]] == subgoals[-1]


@pytest.mark.parametrize("name", ["pool", "pool, noise and terminal tokens", "random layouts"])
def test_no_episode_is_lost_or_repeated_however_long_the_rows_are(name):
    settings = STREAMS[name]
    short, _, short_state = collect(make_stream(**settings | {"sequence_length": 26}), 16)
    long, _, long_state = collect(make_stream(**settings | {"sequence_length": 150}), 2)
    for few, many in zip(short, long, strict=True):
        few, many = [describe(t) for t in few], [describe(t) for t in many]
        shared = min(len(few), len(many))
        assert shared >= 10
        assert few[:shared] == many[:shared]
        assert len(set(few)) > 0.9 * len(few)
    assert np.all(short_state.episode >= 16) and np.all(long_state.episode >= 10)


def test_only_episodes_out_of_time_are_skipped():
    patient = make_stream(epsilon=0.5, sequence_length=450, time_limit=400)
    lanes, _, state = collect(patient, 1)
    # Nothing but the time limit can end an episode badly: noise never enters a wrong colour.
    np.testing.assert_array_equal(state.episode, [len(trajectories) for trajectories in lanes])
    hasty = make_stream(epsilon=0.5, sequence_length=450, time_limit=20)
    timely, _, state = collect(hasty, 1)
    assert np.all(state.episode > [len(trajectories) for trajectories in timely])
    for all_of_them, in_time in zip(lanes, timely, strict=True):
        expected = [describe(t) for t in all_of_them if len(t[-1]) <= 20]
        found = [describe(t) for t in in_time]
        shared = min(len(expected), len(found))
        assert shared >= 3 and found[:shared] == expected[:shared]


def test_padding_is_at_the_end_of_rows_and_holds_nothing():
    _, rows, _ = collect(make_stream(epsilon=0.5, sequence_length=80, time_limit=20), 3)
    for tokens, packed in rows:
        padding = packed.segment < 0
        assert padding.any()
        assert np.all(np.diff(padding.astype(int), axis=1) >= 0)
        assert not packed.mask[padding].any()
        assert not packed.observation[padding].any() and not packed.next_observation[padding].any()
        assert np.all(packed.subgoal[padding] == -1) and np.all(tokens.goal[padding] == -1)


@pytest.mark.parametrize("name", ["pool", "pairs"])
def test_padding_is_at_most_a_tenth_when_rows_hold_six_trajectories(name):
    lanes, _, _ = collect(make_stream(**STREAMS[name]), 1)
    mean_length = np.mean([len(where) for *_, where in sum(lanes, [])])
    stream = make_stream(**STREAMS[name] | {"sequence_length": int(7 * mean_length)})
    assert stream.padding_fraction(jax.random.key(1), num_rows=32) <= 0.10


def test_tasks_layouts_and_start_cells_are_uniform():
    stream = make_stream()
    state = stream.init(jax.random.key(3), 400)
    _, tokens = jax.jit(stream.next_tokens)(state)
    episodes = jax.tree.map(np.ravel, (tokens.episodes.task_index, tokens.episodes.layout_index))
    for values, kinds in zip(episodes, (16, 4), strict=True):
        counts = np.bincount(values, minlength=kinds)
        expected = len(values) / kinds
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    counts = np.bincount(np.ravel(tokens.episodes.start_cell), minlength=25)
    assert np.all(counts > 0)


def test_noise_replaces_the_expected_share_of_actions():
    stream = make_stream(epsilon=0.4, ties="fixed", sequence_length=200, time_limit=200)
    _, tokens = jax.jit(stream.next_tokens)(stream.init(jax.random.key(4), 100))
    table = jax.tree.map(np.asarray, stream.tables(tokens.episodes)[0])
    tokens = jax.tree.map(
        lambda x: np.asarray(x)[np.asarray(tokens.mask)], vars(tokens) | {"episodes": tokens.mask}
    )
    place = tokens["layout_index"], tokens["goal"], tokens["cell"]
    expert = table.expert[place] >> tokens["action"] & 1
    # A random harmless action is the expert's own one in a share of the cases.
    own = 1 / np.bitwise_count(table.harmless[place])
    expected = np.mean(0.6 + 0.4 * own)
    assert np.mean(expert) == pytest.approx(expected, abs=5 / np.sqrt(len(expert)) / 2)


def test_same_state_gives_the_same_rows_and_lanes_differ():
    stream = make_stream()
    state = stream.init(jax.random.key(0), 3)
    first, again = (jax.tree.map(np.asarray, compiled(stream)(state)[1]) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.action[0], first.action[1])
    packed = jax.jit(stream.evaluation_set, static_argnums=1)(jax.random.key(0), 3)
    np.testing.assert_array_equal(packed.action, first.action)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_length": 24, "terminal": True}, "sequence_length is 24, allowed is 25 or more"),
        ({"epsilon": 1.5}, "epsilon is 1.5, allowed is 0 to 1"),
        ({"ties": "best"}, "ties is 'best', allowed are random"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        make_stream(**settings)
