"""Expert streams: every trajectory is real, and packing neither loses nor repeats any."""

import functools
import operator

import jax
import numpy as np
import pytest

from internal_rl.backend import traced_for
from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from internal_rl.experts.grid_data import ExpertStream
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
    world = GridWorld(GridWorldConfig(**(vars(CONFIG) | config)))
    return ExpertStream(
        world,
        world.pretraining_tasks,
        ties=ties,
        epsilon=epsilon,
        sequence_length=sequence_length,
        include_terminal=terminal,
    )


@functools.cache
def compiled(stream):
    def call(state):
        state, tokens = stream.next_tokens(state)
        return state, tokens, stream.trajectory(tokens)

    return jax.jit(call)


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
        "grid_size": 7,
        "num_colours": 8,
        "num_walls": 4,
        "time_limit": 100,
        "tasks": "gridworld-pinpad",
        "num_layouts": 0,
        "min_colour_distance": 1,
        "epsilon": 0.1,
        "sequence_length": 230,
    },
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_trajectory_is_a_success_in_the_numpy_reference(name):
    stream = make_stream(**STREAMS[name])
    world = stream.world
    lanes, _, _ = collect(stream, 3)
    for tokens, packed, lane, where in sum(lanes, []):
        np.testing.assert_array_equal(where, np.arange(where[0], where[0] + len(where)))
        episode = tokens.episode[lane, where[0]]
        episodes = jax.tree.map(operator.itemgetter((lane, episode)), tokens.episodes)
        task = stream.tasks[episodes.task_index]
        subgoals = world.task_set.subgoal_ids(tuple(task[task >= 0].tolist()))
        reference = NumpyGridWorld(
            world.config.grid_size,
            episodes.objects,
            episodes.walls,
            episodes.start_cell,
            task,
            world.time_limit,
        )
        for token in where[: len(where) - stream.include_terminal]:
            assert packed.mask[lane, token]
            assert packed.subgoal[lane, token] == subgoals[len(subgoals) - len(reference.todo)]
            assert tokens.goal[lane, token] == reference.todo[0]
            assert tokens.progress[lane, token] == len(subgoals) - len(reference.todo)
            seen = reference.observation().reshape(-1)
            np.testing.assert_array_equal(packed.observation[lane, token], seen)
            assert not reference.done
            reference.step(packed.action[lane, token])
            seen = reference.observation().reshape(-1)
            np.testing.assert_array_equal(packed.next_observation[lane, token], seen)
        assert reference.success
        if stream.include_terminal:
            assert not packed.mask[lane, where[-1]]
            np.testing.assert_array_equal(packed.observation[lane, where[-1]], seen)
            assert packed.subgoal[lane, where[-1]] == subgoals[-1]


@pytest.mark.parametrize("name", ["pool", "pool, noise and terminal tokens", "random layouts"])
def test_no_episode_is_lost_or_repeated_however_long_the_rows_are(name):
    settings = STREAMS[name]
    short, _, _ = collect(make_stream(**settings), 8)
    long, _, _ = collect(make_stream(**settings | {"sequence_length": 150}), 3)
    for few, many in zip(short, long, strict=True):
        few, many = [describe(t) for t in few], [describe(t) for t in many]
        shared = min(len(few), len(many))
        assert shared >= 10
        assert few[:shared] == many[:shared]
        assert len(set(few)) > 0.9 * len(few)


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
    _, rows, _ = collect(make_stream(epsilon=0.5, sequence_length=450, time_limit=20), 3)
    for tokens, packed in rows:
        padding = packed.segment < 0
        assert padding.any()
        assert np.all(np.diff(padding.astype(int), axis=1) >= 0)
        assert not packed.mask[padding].any()
        assert not packed.observation[padding].any() and not packed.next_observation[padding].any()
        assert np.all(packed.subgoal[padding] == -1) and np.all(tokens.goal[padding] == -1)


def test_padding_is_at_most_a_tenth_when_rows_hold_six_trajectories():
    stream = make_stream(**STREAMS["pairs"])
    lanes, rows, _ = collect(stream, 30)
    mean_length = np.mean([len(where) for *_, where in sum(lanes, [])])
    assert 6 * mean_length < stream.sequence_length < 8 * mean_length
    assert np.mean([tokens.segment < 0 for tokens, _ in rows]) <= 0.10
    assert stream.padding_fraction(jax.random.key(1), num_rows=32) <= 0.10


def test_tasks_layouts_and_start_cells_are_uniform():
    lanes, _, _ = collect(make_stream(), 300)
    starts = [
        (
            tokens.task_index[lane, where[0]],
            tokens.layout_index[lane, where[0]],
            tokens.cell[lane, where[0]],
        )
        for tokens, _, lane, where in sum(lanes, [])
    ]
    tasks, layouts, cells = np.transpose(starts)
    for values, kinds in ((tasks, 16), (layouts, 4)):
        counts = np.bincount(values, minlength=kinds)
        expected = len(starts) / kinds
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    for layout, free in enumerate(make_stream().world.layouts[2]):
        counts = np.bincount(cells[layouts == layout], minlength=25)
        expected = counts.sum() / len(free)
        assert np.all(np.abs(counts[free] - expected) < 5 * np.sqrt(expected))
        assert counts.sum() == counts[free].sum()


def test_noise_replaces_the_expected_share_of_actions():
    # The time limit is so far away that it does not favour episodes with little noise.
    stream = make_stream(epsilon=0.5, sequence_length=450, time_limit=400)
    _, rows, _ = collect(stream, 10)
    optimal, expected = [], []
    for tokens, _ in rows:
        table, index = jax.tree.map(np.asarray, stream.tables(tokens.episodes))
        place = np.take_along_axis(index, tokens.episode, axis=1), tokens.goal, tokens.cell
        expert, harmless = table.expert[place], table.harmless[place]
        by_chance = np.bitwise_count(expert) / np.bitwise_count(harmless)
        optimal.extend((expert >> tokens.action & 1)[tokens.mask])
        expected.extend((0.5 + 0.5 * by_chance)[tokens.mask])
    assert len(optimal) > 10_000
    assert np.mean(optimal) == pytest.approx(np.mean(expected), abs=0.02)


def test_same_state_gives_the_same_rows_and_lanes_differ():
    stream = make_stream()
    state = stream.init(jax.random.key(0), 3)
    first, again = (jax.tree.map(np.asarray, compiled(stream)(state)[1]) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.action[0], first.action[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_length": 24, "terminal": True}, "sequence_length is 24, allowed is 25 or more"),
        ({"epsilon": 1.5}, "epsilon is 1.5, allowed is 0 to 1"),
        (
            {"time_limit": 2, "num_layouts": 0, "min_colour_distance": 1},
            "environment.time_limit is 2, allowed is 3 or more, the steps of the shortest task",
        ),
        ({"ties": "best"}, "ties is 'best', allowed are random"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        make_stream(**settings)


@pytest.mark.parametrize("name", ["pool, noise and terminal tokens", "random layouts"])
def test_accelerators_see_the_same(name):
    stream = make_stream(**STREAMS[name])
    _, tokens, expected = compiled(stream)(stream.init(jax.random.key(3), 4))
    with traced_for("gpu"):
        found = jax.jit(lambda tokens: stream.trajectory(tokens))(tokens)
    assert (np.asarray(tokens.segment) < 0).any()
    jax.tree.map(np.testing.assert_array_equal, found, expected)
