"""The expert against networkx shortest paths, and its ways to break ties."""

import functools
import itertools

import jax
import networkx as nx
import numpy as np
import pytest

from internal_rl.experts import shortest_path
from tests.envs.numpy_gridworld import STEPS, path_graph


def random_layouts(seed, count, grid_size, num_colours, num_walls):
    """Objects `(count, O)` and walls `(count, W)`; colours may be out of reach."""
    rng = np.random.default_rng(seed)
    cells = np.stack([rng.permutation(grid_size**2) for _ in range(count)]).astype(np.int32)
    cells = cells[:, : num_colours + num_walls]
    return cells[:, :num_colours], cells[:, num_colours:]


@functools.partial(jax.jit, static_argnums=(2, 3))
def expert_tables(objects, walls, grid_size, ties, follows):
    table = jax.vmap(lambda o, w: shortest_path.expert_table(o, w, grid_size, ties, follows))
    return table(objects, walls)


def solve(objects, walls, grid_size, ties, follows=None):
    return jax.tree.map(np.asarray, expert_tables(objects, walls, grid_size, ties, follows))


def members(mask):
    return [action for action in range(4) if mask >> action & 1]


def assert_optimal(count):
    grid_size = 7
    objects, walls = random_layouts(0, count, grid_size, 8, 4)
    table = solve(objects, walls, grid_size, "random")
    for expert, colours, blocked in zip(table.expert, objects, walls, strict=True):
        for goal, cell in itertools.product(range(8), range(grid_size**2)):
            if cell == 0:
                graph = path_graph(grid_size, colours, blocked, goal)
                steps_to_goal = nx.single_source_shortest_path_length(
                    graph.reverse(copy=False), int(colours[goal])
                )
            if cell in blocked or cell == colours[goal]:
                continue
            best = steps_to_goal.get(cell, np.inf) - 1
            optimal = {
                edge["action"]
                for target, edge in graph[cell].items()
                if steps_to_goal.get(target, np.inf) == best < np.inf
            }
            assert set(members(expert[goal, cell])) == optimal


def searched_actions(blocked, goal, grid_size):
    """Masks of the actions that lead nearest to a goal, also in cells that are blocked."""
    distance = np.full((grid_size + 2, grid_size + 2), 999)
    inner = distance[1:-1, 1:-1]
    inner.flat[goal] = 0
    open_cells = ~np.isin(np.arange(grid_size**2), blocked).reshape(grid_size, grid_size)
    for _ in range(4 * grid_size):
        sides = distance[:-2, 1:-1], distance[2:, 1:-1], distance[1:-1, :-2], distance[1:-1, 2:]
        nearest = np.min(sides, axis=0)
        np.minimum(inner, nearest + 1, out=inner, where=open_cells)
    bits = [(side == nearest) << action for action, side in enumerate(sides)]
    return np.where(nearest < 999, np.sum(bits, axis=0), 0).reshape(-1)


@pytest.mark.parametrize(("grid_size", "num_walls"), [(3, 2), (7, 12), (10, 24)])
def test_tables_are_those_of_a_slow_search_in_every_cell(grid_size, num_walls):
    objects, walls = random_layouts(6, 3, grid_size, 4, num_walls)
    found = solve(objects, walls, grid_size, "random").expert
    for table, colours, blocked in zip(found, objects, walls, strict=True):
        for goal, colour in enumerate(colours):
            things = np.concatenate([blocked, colours])
            expected = searched_actions(things, colour, grid_size)
            np.testing.assert_array_equal(table[goal], expected)


def test_random_ties_are_all_shortest_paths_of_networkx():
    assert_optimal(50)


@pytest.mark.slow
def test_random_ties_are_all_shortest_paths_of_networkx_in_a_thousand_layouts():
    assert_optimal(1000)


def test_harmless_actions_enter_no_wrong_colour_and_moves_leave_the_cell():
    objects, walls = random_layouts(1, 10, 5, 4, 3)
    table = solve(objects, walls, 5, "random")
    for n, cell, action in itertools.product(range(10), range(25), range(4)):
        row, column = cell // 5 + STEPS[action][0], cell % 5 + STEPS[action][1]
        inside = 0 <= row < 5 and 0 <= column < 5
        target = row * 5 + column
        assert (action in members(table.moves[n, cell])) == (inside and target not in walls[n])
        for goal in range(4):
            wrong = inside and target in np.delete(objects[n], goal)
            assert (action in members(table.harmless[n, goal, cell])) == (not wrong)


@pytest.mark.parametrize("ties", ["fixed", "fork", "axis", "priority", "departures"])
def test_deterministic_ties_pick_one_optimal_action(ties):
    objects, walls = random_layouts(2, 40, 6, 6, 1)
    every = solve(objects, walls, 6, "random").expert
    picked = solve(objects, walls, 6, ties).expert
    assert np.all(picked & ~every == 0)
    np.testing.assert_array_equal(np.bitwise_count(picked), (every > 0).astype(np.uint8))
    np.testing.assert_array_equal(picked, solve(objects, walls, 6, ties).expert)


def test_fixed_ties_differ_between_layouts_and_use_all_actions():
    # The same colours with another wall out of the way: ties are broken anew.
    objects = np.tile([0, 2, 3, 4, 5, 35], (40, 1))
    walls = np.array([[24 + n % 6] for n in range(40)])
    picked = solve(objects, walls, 6, "fixed").expert[:, 5]
    assert np.mean(picked[0] != picked[1]) > 0.2
    assert set(np.unique(picked)) >= {2, 8}


def best_spread(masks):
    """Most distinct actions and least sum of squared uses over all ways to pick, by trying all."""
    picks = [np.bincount(pick, minlength=4) for pick in itertools.product(*map(members, masks))]
    return max(np.sum(uses > 0) for uses in picks), min(np.sum(uses**2) for uses in picks)


def test_fork_ties_leave_colours_by_as_many_actions_as_possible():
    objects, walls = random_layouts(3, 40, 6, 6, 1)
    every = solve(objects, walls, 6, "random").expert
    forked = solve(objects, walls, 6, "fork").expert
    fixed = solve(objects, walls, 6, "fixed").expert
    gained = 0
    for n, colour in itertools.product(range(40), range(6)):
        cell = objects[n, colour]
        goals = [goal for goal in range(6) if goal != colour and every[n, goal, cell]]
        uses = np.bincount(np.log2(forked[n, goals, cell]).astype(int), minlength=4)
        distinct, squares = best_spread(every[n, goals, cell])
        assert np.sum(uses > 0) == distinct and np.sum(uses**2) == squares
        gained += distinct - len(set(fixed[n, goals, cell]))
    assert gained > 40
    elsewhere = np.ones_like(forked, bool)
    elsewhere[np.arange(40)[:, None], :, objects] = False
    np.testing.assert_array_equal(forked[elsewhere], fixed[elsewhere])


def test_departure_ties_spread_over_the_followers_and_are_axis_ties_elsewhere():
    objects, walls = random_layouts(3, 40, 6, 6, 1)
    follows = (np.arange(6) - np.arange(6)[:, None]) % 6 % 4 > 0
    every = solve(objects, walls, 6, "random").expert
    spread = solve(objects, walls, 6, "departures", follows).expert
    axis = solve(objects, walls, 6, "axis").expert
    expected = axis.copy()
    for n, colour in itertools.product(range(40), range(6)):
        cell = objects[n, colour]
        goals = [goal for goal in np.flatnonzero(follows[colour]) if every[n, goal, cell]]
        uses = np.bincount(np.log2(spread[n, goals, cell]).astype(int), minlength=4)
        distinct, squares = best_spread(every[n, goals, cell])
        assert np.sum(uses > 0) == distinct and np.sum(uses**2) == squares
        expected[n, goals, cell] = spread[n, goals, cell]
    np.testing.assert_array_equal(spread, expected)


def test_axis_ties_depend_on_the_parity_of_the_colour_alone():
    objects, walls = random_layouts(4, 40, 6, 6, 1)
    every = solve(objects, walls, 6, "random").expert
    picked = solve(objects, walls, 6, "axis").expert
    for n, goal, cell in itertools.product(range(40), range(6), range(36)):
        order = (0, 1, 2, 3) if goal % 2 == 0 else (2, 3, 0, 1)
        optimal = members(every[n, goal, cell])
        expected = [action for action in order if action in optimal][:1]
        assert members(picked[n, goal, cell]) == expected


def test_priority_ties_depend_on_the_colour_alone():
    objects, walls = random_layouts(4, 40, 6, 7, 1)
    every = solve(objects, walls, 6, "random").expert
    picked = solve(objects, walls, 6, "priority").expert
    for n, goal, cell in itertools.product(range(40), range(7), range(36)):
        optimal = members(every[n, goal, cell])
        order = shortest_path.PRIORITIES[goal % 6]
        assert members(picked[n, goal, cell]) == [a for a in order if a in optimal][:1]


def test_priorities_differ_in_half_of_the_pairs_of_a_vertical_and_a_horizontal_action():
    orders = [list(order) for order in shortest_path.PRIORITIES]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    pairs = list(itertools.product((0, 1), (2, 3)))
    vertical_first = [[o.index(v) < o.index(h) for v, h in pairs] for o in orders]
    for first, second in itertools.combinations(vertical_first, 2):
        assert sum(a != b for a, b in zip(first, second, strict=True)) >= 2


def test_policy_rows_are_distributions_and_noise_mixes_in_the_harmless_actions():
    objects, walls = random_layouts(5, 1, 5, 4, 2)
    policy = jax.jit(lambda o, w: shortest_path.policy_table(o, w, 5))(objects[0], walls[0])
    policy = np.asarray(policy)
    table = solve(objects, walls, 5, "random")
    np.testing.assert_allclose(policy.sum(axis=-1), table.expert[0] > 0, rtol=1e-6)
    noisy = jax.jit(lambda table: shortest_path.noisy_probabilities(table, 0.3))(table)
    noisy = np.asarray(noisy)[0]
    for goal, cell, action in itertools.product(range(4), range(25), range(4)):
        harmless = members(table.harmless[0, goal, cell])
        expected = 0.7 * float(policy[goal, cell, action])
        expected += 0.3 * (action in harmless) / max(len(harmless), 1)
        assert noisy[goal, cell, action] == pytest.approx(expected, abs=1e-6)


def test_choose_action_is_uniform_over_the_mask():
    masks = np.repeat(np.arange(1, 16, dtype=np.uint8), 4000)
    bits = np.random.default_rng(0).integers(0, 2**32, masks.shape, dtype=np.uint32)
    actions = np.asarray(jax.jit(shortest_path.choose_action)(masks, bits)).reshape(15, 4000)
    for mask, chosen in zip(range(1, 16), actions, strict=True):
        counts = np.bincount(chosen, minlength=4)
        assert set(np.flatnonzero(counts)) == set(members(mask))
        expected = 4000 / len(members(mask))
        assert np.all(np.abs(counts[members(mask)] - expected) < 5 * np.sqrt(expected))


def test_colour_distances_are_steps_between_the_cells_of_colours():
    objects, walls = np.array([0, 3, 15]), np.array([1])
    measure = jax.jit(lambda objects, walls: shortest_path.colour_distances(objects, walls, 4))
    distance = measure(objects, walls)
    np.testing.assert_array_equal(distance, [[2, 5, 6], [5, 2, 3], [6, 3, 2]])


def test_unknown_ties_are_refused():
    with pytest.raises(ValueError, match="ties is 'best', allowed are random, fixed, fork"):
        shortest_path.expert_table(np.array([0]), np.array([1]), 3, "best")
