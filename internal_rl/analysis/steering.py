"""Supervised linear controllers: can the residual stream be steered to a known subgoal? (method §4)

One controller per subgoal, `e' = e + U^(g) e`, is trained at one layer on expert trajectories whose
subgoal `g_t` is known (the metacontroller with `z_t = onehot(g_t)` and `beta = 1`). To solve the
post-training task, which the base model has never seen, the controllers are switched in the right
order while the base model acts.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.nn.initializers import variance_scaling, zeros

from internal_rl.analysis.rollout import Control, StepContext, in_batches, reset_batch, rollout
from internal_rl.envs import World
from internal_rl.models import heads
from internal_rl.models.base_model import BaseModel
from internal_rl.models.reach import gradient_through
from internal_rl.training.accumulation import accumulated_gradients
from internal_rl.training.optimiser import apply_gradients
from internal_rl.types import Trajectory


@struct.dataclass
class Controllers:
    """Linear controllers of `G` subgoals, `U^(g) = write_g read_g`.

    Attributes:
      read: `(G, r, n_e)`; for full controllers `r = n_e`.
      write: `(G, n_e, r)`; None for full controllers, whose matrix is `read` alone.
    """

    read: chex.Array
    write: chex.Array | None


@struct.dataclass
class SteeringState:
    """State of the trainer.

    Attributes:
      controllers: what is trained.
      optimiser_state: state of the optimiser.
    """

    controllers: Controllers
    optimiser_state: Any


def init(
    key: chex.PRNGKey,
    num_subgoals: int,
    width: int,
    rank: int,
    optimiser: optax.GradientTransformation,
) -> SteeringState:
    """Controllers that change nothing: `write` is zero, `read` random so that it can learn.

    Args:
      key: randomness of `read`.
      num_subgoals: number of subgoals `G`.
      width: size `n_e` of the residual stream.
      rank: rank of the controllers, 0 for full ones (which start at zero altogether).
      optimiser: takes the gradient to an update.

    Raises:
      ValueError: if the rank is outside `0..n_e`.
    """
    if not 0 <= rank <= width:
        raise ValueError(f"rank is {rank}, allowed are 0 (full) to {width}")
    if rank == 0:
        controllers = Controllers(jnp.zeros((num_subgoals, width, width)), None)
    else:
        read_init = variance_scaling(1.0, "fan_in", "truncated_normal", -1, -2, batch_axis=0)
        controllers = Controllers(
            read_init(key, (num_subgoals, rank, width)),
            zeros(key, (num_subgoals, width, rank)),
        )
    return SteeringState(controllers, optimiser.init(controllers))


def steer(controllers: Controllers, residual: chex.Array, subgoal: chex.Array) -> chex.Array:
    """Applies the controller of each token's subgoal.

    All controllers read every token in one matrix product and a mask keeps the right one, which is
    faster than gathering a matrix per token.

    Args:
      controllers: of `G` subgoals.
      residual: `(..., n_e)`.
      subgoal: `(...)` int32; tokens with -1 stay as they are.

    Returns:
      `e + U^(g) e`, `(..., n_e)`.
    """
    num_subgoals = controllers.read.shape[0]
    chosen = jax.nn.one_hot(subgoal, num_subgoals)[..., None]
    hidden = jnp.einsum("...n,grn->...gr", residual, controllers.read) * chosen
    if controllers.write is None:
        return residual + jnp.sum(hidden, axis=-2)
    return residual + jnp.einsum("...gr,gnr->...n", hidden, controllers.write)


def steering_loss(
    controllers: Controllers,
    base: BaseModel,
    base_params: dict,
    layer: int,
    batch: Trajectory,
    tokens: chex.Array,
    min_action_std: float = 0.0,
) -> chex.Array:
    """Negative log-likelihood of the expert's actions under control, summed, by `tokens`, in nats.

    Args:
      controllers: of all subgoals.
      base: the frozen base model.
      base_params: its parameters.
      layer: residual stream that is controlled, 0 (embedding) to `L`.
      batch: `(B, S)` packed rows of expert trajectories.
      tokens: `()` number of actions that makes the sum a mean.
      min_action_std: see `heads.action_log_prob`.
    """
    residual = base.apply(base_params, batch.observation, batch.segment, layer, method="lower")
    steered = steer(controllers, jax.lax.stop_gradient(residual), batch.subgoal)
    output = base.apply(base_params, steered, batch.segment, layer, method="upper")
    log_prob = heads.action_log_prob(base.action_head, output.action, batch.action, min_action_std)
    return -jnp.sum(log_prob * batch.mask) / tokens


def update(
    state: SteeringState,
    batch: Trajectory,
    *,
    base: BaseModel,
    base_params: dict,
    layer: int,
    optimiser: optax.GradientTransformation,
    num_parts: int = 1,
    min_action_std: float = 0.0,
) -> tuple[SteeringState, dict[str, chex.Array]]:
    """One gradient step; arguments as in `steering_loss`, `init` and `accumulated_gradients`.

    Returns:
      The new state, and `action_nll` in nats per action and `gradient_norm`.
    """
    tokens = batch.num_targets()

    def share(base, controllers, part, index):
        del index
        loss = steering_loss(controllers, base, base_params, layer, part, tokens, min_action_std)
        return loss, ()

    (loss, _), gradient = accumulated_gradients(
        gradient_through(base, share), state.controllers, batch, num_parts
    )
    controllers, optimiser_state, metrics = apply_gradients(
        optimiser, gradient, state.optimiser_state, state.controllers
    )
    return SteeringState(controllers, optimiser_state), {"action_nll": loss, **metrics}


def task_subgoals(env: World, task: chex.Array) -> np.ndarray:
    """Subgoal that each colour of a task belongs to: `(K,)` padded with -1 to `(K,)` int32."""
    task = np.asarray(task)
    colours = tuple(int(colour) for colour in task[task >= 0])
    subgoals = np.full(task.shape, -1, np.int32)
    subgoals[: len(colours)] = env.task_set.subgoal_ids(colours)
    return subgoals


def steering_control(controllers: Controllers, layer: int, goals: chex.Array) -> Control:
    """Control that always applies the controller of the next subgoal.

    Args:
      controllers: of all subgoals.
      layer: residual stream that is controlled.
      goals: `(K,)` int32 subgoal of every colour of the task, see `task_subgoals`.
    """
    goals = jnp.asarray(goals)

    def step(carry: None, residual: chex.Array, context: StepContext):
        progress = jnp.minimum(context.state.progress, goals.shape[0] - 1)
        return carry, steer(controllers, residual, goals[progress]), None

    return Control(layer, None, step)


def evaluate(
    env: World,
    base: BaseModel,
    base_params: dict,
    controllers: Controllers,
    layer: int,
    key: chex.PRNGKey,
    task: chex.Array,
    num_episodes: int,
    batch_size: int = 256,
) -> dict[str, chex.Array]:
    """Solves a task by switching the controllers in the right order.

    Args:
      env: the world.
      base: the frozen base model.
      base_params: its parameters.
      controllers: of all subgoals.
      layer: residual stream that is controlled.
      key: randomness of layouts and actions.
      task: `(K,)` concrete array of colours padded with -1.
      num_episodes: number of episodes.
      batch_size: episodes in lock-step.

    Returns:
      `success` share of completed tasks; `colours_visited` mean number of colours visited in order;
      `reached` `(K,)` share of episodes that visited at least the first, second, .. colour.
    """
    control = steering_control(controllers, layer, task_subgoals(env, task))
    batch_size = min(batch_size, num_episodes)

    def run(key):
        reset_key, run_key = jax.random.split(key)
        state = reset_batch(env, reset_key, task, batch_size)
        episodes = rollout(env, base, base_params, state, run_key, control)
        return episodes.success, episodes.progress

    success, progress = in_batches(run, key, num_episodes, batch_size)
    return {
        "success": jnp.mean(success),
        "colours_visited": jnp.mean(progress),
        "reached": jnp.mean(progress[:, None] > jnp.arange(len(task)), axis=0),
    }
