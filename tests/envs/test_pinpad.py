"""The visit rule, and what a world tells of layouts that cannot be solved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs import pinpad
from internal_rl.envs.gridworld import GridWorld, GridWorldConfig
from internal_rl.envs.world import capabilities, make_from_config
from tests.envs.numpy_gridworld import solvable_by_search

SIZE = 5


@pytest.mark.parametrize(
    ("content", "moved", "progress", "expected"),
    [
        (1, True, 0, (1, False, False)),
        (2, True, 0, (0, False, True)),
        (2, False, 0, (0, False, False)),
        (pinpad.FREE, True, 0, (0, False, False)),
        (0, True, 1, (2, True, False)),
    ],
    ids=["next colour", "wrong colour", "standing still", "free cell", "last colour"],
)
def test_visit_rule(content, moved, progress, expected):
    task = jnp.array([1, 0, -1])
    outcome = pinpad.visit(jnp.int8(content), jnp.bool_(moved), task, jnp.int32(progress))
    assert tuple(int(x) for x in outcome) == expected


def test_visit_completes_a_task_without_padding():
    outcome = pinpad.visit(jnp.int8(0), jnp.bool_(True), jnp.array([1, 0]), jnp.int32(1))
    assert tuple(int(x) for x in outcome) == (2, True, False)


def test_a_world_tells_what_cannot_be_solved_where_it_draws_that_alone():
    sizes = {"grid_size": SIZE, "num_colours": 4, "num_walls": 7, "tasks": "ant-pinpad"}
    every, solved = (GridWorld(GridWorldConfig(**sizes, solvable_only=x)) for x in (False, True))
    assert "solvable" in capabilities(every) and "solvable" not in capabilities(solved)
    assert "solvable" not in capabilities(every.with_solvable_layouts())
    keys = jax.random.split(jax.random.key(4), 100)
    state, _ = jax.jit(jax.vmap(every.reset, (0, None)))(keys, every.post_training_task)
    drawn = zip(*map(np.asarray, (state.objects, state.walls, state.start_cell)), strict=True)
    expected = [solvable_by_search(SIZE, *layout, every.post_training_task) for layout in drawn]
    np.testing.assert_array_equal(jax.jit(jax.vmap(every.solvable))(state), expected)
    assert 10 < np.sum(expected) < 90
    # An older config knows no such field, and layouts were redrawn then.
    assert make_from_config({"name": "gridworld-pinpad", **sizes}).config.solvable_only
    sizes |= {"num_walls": 1, "num_layouts": 2}
    pool = GridWorld(GridWorldConfig(**sizes, solvable_only=False))
    assert "solvable" not in capabilities(pool)
