"""Pools of fixed layouts: distances, connections and departures as asked for."""

import itertools

import networkx as nx
import numpy as np
import pytest

from internal_rl.envs import layout_pool, layout_rules
from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from tests.envs.numpy_gridworld import path_graph


def draw_pool(num_layouts, seed, grid_size, num_colours, num_walls, *, follows=None, **settings):
    """A pool whose colours may all follow each other, but for the task that needs one."""
    config = GridWorldConfig(
        num_layouts=num_layouts,
        layout_seed=seed,
        grid_size=grid_size,
        num_colours=num_colours,
        num_walls=num_walls,
        tasks=f"walks:{num_colours}:2:0-1",
        **settings,
    )
    return layout_pool.draw_pool(config, follows)


def test_pool_layouts_keep_their_distance_and_connect_everything():
    objects, walls, free, _ = draw_pool(20, 3, 6, 4, 3, min_colour_distance=3)
    assert objects.shape == (20, 4) and walls.shape == (20, 3) and free.shape == (20, 29)
    for colours, blocked, rest in zip(objects, walls, free, strict=True):
        assert sorted([*colours, *blocked, *rest]) == list(range(36))
        places = [divmod(int(cell), 6) for cell in colours]
        for i, (row, column) in enumerate(places):
            assert all(abs(row - r) + abs(column - c) >= 3 for r, c in places[:i])
        for goal in range(4):
            graph = path_graph(6, colours, blocked, goal)
            reaching = nx.ancestors(graph, int(colours[goal]))
            assert reaching >= (set(rest.tolist()) | set(colours.tolist())) - {int(colours[goal])}


def test_pool_is_a_function_of_its_seed():
    first, again = (draw_pool(4, 5, 5, 3, 2) for _ in range(2))
    other = draw_pool(4, 6, 5, 3, 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_impossible_pool_is_refused(monkeypatch):
    monkeypatch.setattr(layout_pool, "_MAX_FRUITLESS_DRAWS", 200)
    with pytest.raises(ValueError, match="num_layouts=2 with min_colour_distance=6,.* only 0"):
        draw_pool(2, 0, 4, 4, 1, min_colour_distance=6)


def test_departures_are_the_most_different_first_actions_to_the_followers():
    objects, walls, free, _ = draw_pool(20, 1, 6, 5, 2)
    follows = np.random.default_rng(0).random((5, 5)) < 0.6
    follows &= ~np.eye(5, dtype=bool)
    for colours, blocked, rest in zip(objects, walls, free, strict=True):
        graphs = [path_graph(6, colours, blocked, goal) for goal in range(5)]
        expected = []
        for colour, cell in enumerate(colours.tolist()):
            choices = []
            for goal in np.flatnonzero(follows[colour]):
                paths = nx.all_shortest_paths(graphs[goal], cell, int(colours[goal]))
                choices.append({graphs[goal][cell][path[1]]["action"] for path in paths})
            expected.append(max(len(set(picks)) for picks in itertools.product(*choices)))
        found = layout_rules.departures(colours[None], rest[None], 6, follows)
        np.testing.assert_array_equal(found[0], expected)


def test_pool_keeps_the_fewest_departures_it_was_asked_for():
    follows = ~np.eye(4, dtype=bool)
    follows[3] = [True, False, False, False]
    objects, _, free, _ = draw_pool(5, 2, 6, 4, 1, min_departures=3, follows=follows)
    assert np.all(layout_rules.departures(objects, free, 6, follows) == [3, 3, 3, 1])


def test_colours_keep_off_each_others_rows_and_columns():
    objects = draw_pool(20, 4, 6, 5, 1, min_line_distance=1).objects
    for coordinate in np.divmod(objects, 6):
        assert all(len(set(row)) == 5 for row in coordinate.tolist())


def lies_between(first, second, third):
    """Whether the rectangle that two cells of a 5x5 grid span holds a third one."""
    return all(
        min(axis(first), axis(second)) <= axis(third) <= max(axis(first), axis(second))
        for axis in (lambda cell: cell // 5, lambda cell: cell % 5)
    )


def test_no_colour_lies_in_the_rectangle_of_two_others():
    def crowded(**settings):
        objects = draw_pool(200, 3, 5, 4, 1, **settings).objects
        return [
            third
            for cells in objects.tolist()
            for first, second in itertools.combinations(cells, 2)
            for third in set(cells) - {first, second}
            if lies_between(first, second, third)
        ]

    assert not crowded(clear_rectangles=True)
    assert crowded(clear_rectangles=False)


def test_episodes_start_where_nothing_lies_on_the_way_to_any_colour():
    def clear(cell, colour, things):
        return not any(lies_between(cell, colour, thing) for thing in set(things) - {colour})

    pool = draw_pool(50, 3, 5, 3, 2, clear_starts=True)
    assert pool.starts.shape == (50, 20) and pool.num_starts.min() >= 1
    assert pool.num_starts.max() > pool.num_starts.min()
    for colours, walls, starts, number in zip(*(x.tolist() for x in pool), strict=True):
        things = [*colours, *walls]
        free = sorted(set(range(25)) - set(things))
        expected = [c for c in free if all(clear(c, colour, things) for colour in colours)]
        assert starts[:number] == expected and set(starts[number:]) <= {expected[-1]}
    assert np.all(draw_pool(4, 3, 5, 3, 2).num_starts == 20)


def test_floor_plan_puts_the_same_walls_into_every_layout():
    config = GridWorldConfig(
        grid_size=5,
        num_colours=4,
        num_walls=3,
        tasks="ant-pinpad",
        num_layouts=20,
        floor_plan="...../.##../...../...#./.....",
    )
    objects, walls, free, _ = GridWorld(config).layouts
    np.testing.assert_array_equal(walls, np.tile([6, 7, 18], (20, 1)))
    for colours, rest in zip(objects, free, strict=True):
        assert sorted([*colours, 6, 7, 18, *rest]) == list(range(25))
    assert len({tuple(colours) for colours in objects.tolist()}) > 10


def test_colours_stay_around_their_homes():
    config = GridWorldConfig(
        grid_size=5,
        num_colours=5,
        num_walls=1,
        tasks="walks:5:3:0-1-2-3-4",
        num_layouts=300,
        min_colour_distance=2,
        floor_plan="...../...../...#./...../.....",
        homes="0..1./...../..4../...../2..3.",
        home_radius=1,
    )
    objects, walls, free, _ = GridWorld(config).layouts
    np.testing.assert_array_equal(walls, np.full((300, 1), 13))
    seen = [set() for _ in range(5)]
    for colours, rest in zip(objects.tolist(), free.tolist(), strict=True):
        assert sorted([*colours, 13, *rest]) == list(range(25))
        for colour, cell in enumerate(colours):
            seen[colour].add(cell)
    for colour, home in enumerate(((0, 0), (0, 3), (4, 0), (4, 3), (2, 2))):
        block = {
            5 * row + column
            for row in range(5)
            for column in range(5)
            if max(abs(row - home[0]), abs(column - home[1])) <= 1
        }
        assert seen[colour] == block - {13}


def test_home_radius_zero_puts_colours_at_their_homes():
    objects = draw_pool(3, 0, 5, 2, 4, homes="...../..0../...../...../1....").objects
    np.testing.assert_array_equal(objects, np.tile([7, 20], (3, 1)))


def test_homes_behind_the_floor_plan_are_refused():
    with pytest.raises(ValueError, match="homes: the floor plan leaves no cell within 0 of 7"):
        draw_pool(
            *(1, 0, 5, 2, 1),
            homes="...../..0../...../...../1....",
            floor_plan="...../..#../...../...../.....",
        )
