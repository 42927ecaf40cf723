"""Supervised controllers: they learn, and switched in order they solve a new task."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from internal_rl.analysis import steering
from internal_rl.envs.gridworld import GridWorld, GridWorldConfig


def random_controllers(rank, num_subgoals=3, width=5):
    rng = np.random.default_rng(0)
    if rank == 0:
        return steering.Controllers(rng.normal(size=(num_subgoals, width, width)), None)
    return steering.Controllers(
        rng.normal(size=(num_subgoals, rank, width)), rng.normal(size=(num_subgoals, width, rank))
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_each_token_gets_the_matrix_of_its_subgoal(rank):
    controllers = random_controllers(rank)
    residual = np.random.default_rng(1).normal(size=(2, 4, 5))
    subgoal = np.array([[0, 2, 1, -1], [1, 1, 0, 2]])
    steered = steering.steer(controllers, residual, subgoal)
    for row, t in np.ndindex(2, 4):
        expected = residual[row, t]
        if subgoal[row, t] >= 0:
            matrix = controllers.read[subgoal[row, t]]
            if rank:
                matrix = controllers.write[subgoal[row, t]] @ matrix
            expected = expected + matrix @ expected
        np.testing.assert_allclose(steered[row, t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 4])
def test_untrained_controllers_change_nothing(rank):
    state = steering.init(jax.random.key(0), 4, 16, rank, optax.adam(1e-3))
    residual = jax.random.normal(jax.random.key(1), (3, 16))
    steered = steering.steer(state.controllers, residual, jnp.array([0, 1, 3]))
    np.testing.assert_array_equal(steered, residual)


def test_rank_outside_the_width_is_refused():
    with pytest.raises(ValueError, match="rank is 17, allowed are 0"):
        steering.init(jax.random.key(0), 4, 16, 17, optax.adam(1e-3))


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("rank", [0, 4])
def test_controllers_learn_the_experts_actions_at_every_layer(
    base, base_params, batch, layer, rank
):
    optimiser = optax.adamw(1e-2, weight_decay=0.03)
    state = steering.init(jax.random.key(0), 4, base.width, rank, optimiser)
    update = jax.jit(
        functools.partial(
            steering.update, base=base, base_params=base_params, layer=layer, optimiser=optimiser
        )
    )
    state, first = update(state, batch)
    for _ in range(40):
        state, last = update(state, batch)
    assert last["action_nll"] < first["action_nll"] - 0.1


def test_switching_controllers_in_order_solves_the_post_training_task(env, obedient, goal_writers):
    evaluate = jax.jit(
        lambda controllers, key: steering.evaluate(
            env, obedient, {}, controllers, 1, key, env.post_training_task, 48, batch_size=32
        )
    )
    right = evaluate(steering.Controllers(*goal_writers), jax.random.key(0))
    # An episode may still be stopped by the time limit.
    assert right["success"] > 0.9
    assert right["reached"].shape == env.post_training_task.shape
    np.testing.assert_allclose(right["reached"][-1], right["success"])
    read, write = goal_writers
    wrong = evaluate(steering.Controllers(read, np.roll(write, 1, axis=0)), jax.random.key(0))
    assert wrong["success"] == 0.0
    assert wrong["colours_visited"] == 0.0


def test_colours_of_a_pair_share_their_subgoal():
    env = GridWorld(GridWorldConfig())
    subgoals = steering.task_subgoals(env, env.post_training_task)
    assert subgoals.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1]
    assert steering.task_subgoals(env, env.pretraining_tasks[0]).tolist()[6:] == [-1] * 6
