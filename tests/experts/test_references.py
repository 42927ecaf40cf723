"""Reference cross-entropies against enumeration in NumPy."""

import functools
import types

import jax
import networkx as nx
import numpy as np
import pytest

from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from internal_rl.envs.tasks import task_array
from internal_rl.experts import references as references_lib
from internal_rl.experts import shortest_path
from internal_rl.experts.grid_data import ExpertStream
from internal_rl.experts.references import log_probs, references
from tests.envs.numpy_gridworld import STEPS, path_graph

POOL = {"num_walls": 1, "num_layouts": 3, "min_colour_distance": 2}
SETTINGS = {
    "random ties with noise": (POOL, "random", 0.2),
    "fork ties": (POOL, "fork", 0.0),
    "random layouts": ({"num_walls": 5}, "random", 0.0),
}


@functools.cache
def make_stream(name):
    config, ties, epsilon = SETTINGS[name]
    world = GridWorld(
        GridWorldConfig(grid_size=5, num_colours=4, time_limit=40, tasks="ant-pinpad", **config)
    )
    return ExpertStream(
        world, world.pretraining_tasks, ties=ties, epsilon=epsilon, sequence_length=64
    )


def brute_force_policy(objects, walls, ties, epsilon):
    """`(O, G*G, 4)`, from networkx where ties are random."""
    size, num_colours = 5, len(objects)
    policy = np.zeros((num_colours, size**2, 4))
    if ties != "random":
        solve = jax.jit(shortest_path.policy_table, static_argnums=(2, 3))
        policy = np.array(solve(objects, walls, size, ties))
    for goal in range(num_colours):
        graph = path_graph(size, objects, walls, goal)
        steps = dict(nx.single_target_shortest_path_length(graph, int(objects[goal])))
        for cell in range(size**2):
            if ties == "random" and steps.get(cell, 0) > 0:
                for target, edge in graph[cell].items():
                    policy[goal, cell, edge["action"]] = steps.get(target) == steps[cell] - 1
                policy[goal, cell] /= policy[goal, cell].sum()
            harmless = np.zeros(4)
            for action, (down, right) in STEPS.items():
                row, column = cell // size + down, cell % size + right
                inside = 0 <= row < size and 0 <= column < size
                target = row * size + column
                wrong = inside and target in objects and target != objects[goal]
                harmless[action] = not wrong
            policy[goal, cell] *= 1 - epsilon
            policy[goal, cell] += epsilon * harmless / harmless.sum()
    return policy


def reaches_all(objects, walls, start_cell, task):
    cells = [int(start_cell), *(int(objects[colour]) for colour in task)]
    return all(
        nx.has_path(path_graph(5, objects, walls, colour), here, there)
        for colour, here, there in zip(task, cells, cells[1:], strict=False)
    )


def brute_force(stream, tokens, lane, where):
    """Probabilities `(3, len(where))` of one trajectory by enumeration of all tasks."""
    episode = tokens.episode[lane, where[0]]
    objects = tokens.episodes.objects[lane, episode]
    walls = tokens.episodes.walls[lane, episode]
    policy = brute_force_policy(objects, walls, stream.ties, stream.epsilon)
    cells, actions = tokens.cell[lane, where], tokens.action[lane, where]
    visited = [objects.tolist().index(cell) if cell in objects else None for cell in cells]
    # Probability of the actions up to each token under every task, by replaying its own goals.
    joint = np.ones((len(stream.tasks), len(where) + 1))
    for row, task in zip(joint, stream.tasks, strict=True):
        todo = [int(colour) for colour in task if colour >= 0]
        row *= reaches_all(objects, walls, cells[0], todo)
        for t, (cell, action) in enumerate(zip(cells, actions, strict=True)):
            entered = t > 0 and cell != cells[t - 1] and visited[t] is not None
            if entered and (not todo or visited[t] != todo.pop(0)):
                row[t:] = 0.0
                break
            probability = policy[todo[0], cell, action] if todo else 0.0
            row[t + 1 :] = row[t] * probability
    bayes = joint[:, 1:].sum(axis=0) / joint[:, :-1].sum(axis=0)
    blind, given = [], []
    for t, (cell, action) in enumerate(zip(cells, actions, strict=True)):
        others = [goal for goal in range(len(objects)) if goal != visited[t]]
        blind.append(np.mean([policy[goal, cell, action] for goal in others]))
        given.append(policy[tokens.goal[lane, where[t]], cell, action])
    return np.array([bayes, blind, given])


@pytest.mark.parametrize("name", SETTINGS)
def test_log_probabilities_agree_with_enumeration(name):
    stream = make_stream(name)
    state = stream.init(jax.random.key(0), 4)

    @jax.jit
    def call(state):
        tokens = stream.next_tokens(state)[1]
        return tokens, log_probs(stream, tokens)

    tokens, found = jax.tree.map(np.asarray, call(state))
    found = np.stack([found["bayes"], found["goal_blind"], found["goal_given"]])
    assert np.all(found[:, ~tokens.mask] == 0.0)
    for lane in range(4):
        for segment in range(tokens.segment[lane].max() + 1):
            where = np.flatnonzero(tokens.segment[lane] == segment)
            expected = np.log(brute_force(stream, tokens, lane, where))
            np.testing.assert_allclose(found[:, lane, where], expected, atol=2e-5)


def test_bayes_gives_up_on_trajectories_that_no_task_explains():
    world = make_stream("random layouts").world
    post_training = task_array((world.task_set.post_training,), world.max_task_length)
    stream = ExpertStream(world, post_training, sequence_length=64)

    @jax.jit
    def call(state):
        tokens = stream.next_tokens(state)[1]
        foreign = log_probs(stream, tokens, world.pretraining_tasks)["bayes"]
        return tokens, foreign, log_probs(stream, tokens)["bayes"]

    tokens, foreign, own = jax.tree.map(np.asarray, call(stream.init(jax.random.key(1), 4)))
    assert np.all(np.isneginf(foreign[tokens.mask & (tokens.progress >= 2)]))
    assert np.all(np.isfinite(own)) and np.all(own <= 1e-6)


def test_more_knowledge_predicts_better():
    stream = make_stream("random ties with noise")
    means = references(stream, jax.random.key(2), num_trajectories=300)
    assert set(means) == {"bayes", "goal_blind", "goal_given"}
    assert 0 < means["goal_given"] < means["bayes"] < means["goal_blind"] < np.log(4)


def test_experts_that_never_have_the_time_are_told(monkeypatch):
    def next_tokens(state):
        none = np.zeros((2, 4), bool)
        return state, types.SimpleNamespace(mask=none, segment=none.astype(int) - 1)

    names = ("bayes", "goal_blind", "goal_given")
    stream = types.SimpleNamespace(
        world=types.SimpleNamespace(time_limit=3),
        init=lambda key, num_rows: np.zeros(num_rows),
        next_tokens=next_tokens,
    )
    monkeypatch.setattr(
        references_lib, "log_probs", lambda *given: dict.fromkeys(names, np.zeros(()))
    )
    with pytest.raises(ValueError, match="no task is completed within environment.time_limit = 3"):
        references(stream, jax.random.key(0), 8)
