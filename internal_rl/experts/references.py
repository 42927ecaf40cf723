"""Exact cross-entropies that a model of expert actions can be held against.

Three predictors that know the layout and the expert, but different amounts of what it is up to:
bayes filters the pretraining tasks by all actions so far and is the best causal predictor there is,
goal_blind sees only the current observation, goal_given is told the colour the expert walks to.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.envs import layouts
from internal_rl.experts import shortest_path
from internal_rl.experts.expert_tokens import ExpertTokens

if TYPE_CHECKING:
    from internal_rl.experts.grid_data import ExpertStream

_ROWS_PER_CALL = 32
_MAX_FRUITLESS_CALLS = 100


def references(
    stream: "ExpertStream", key: chex.PRNGKey, num_trajectories: int
) -> dict[str, float]:
    """Mean nats per action of the three predictors on fresh trajectories of a stream.

    Args:
      stream: says which expert acts: its tasks, ties and epsilon.
      key: decides which trajectories are drawn.
      num_trajectories: at least as many are averaged, in whole batches.

    Returns:
      `bayes`, `goal_blind` and `goal_given`.

    Raises:
      ValueError: no expert completes its task for long.
    """

    @jax.jit
    def call(state):
        state, tokens = stream.next_tokens(state)
        totals = {name: -jnp.sum(p) for name, p in log_probs(stream, tokens).items()}
        return state, totals, jnp.sum(tokens.mask), jnp.sum(tokens.segment.max(axis=1) + 1)

    state, fruitless = stream.init(key, _ROWS_PER_CALL), 0
    sums, num_actions, seen = {"bayes": 0.0, "goal_blind": 0.0, "goal_given": 0.0}, 0, 0
    while seen < num_trajectories:
        state, totals, actions, trajectories = call(state)
        fruitless = 0 if actions else fruitless + 1
        if fruitless == _MAX_FRUITLESS_CALLS:
            raise ValueError(
                f"no task is completed within environment.time_limit = {stream.world.time_limit},"
                " allowed is a longer one"
            )
        sums = {name: total + float(totals[name]) for name, total in sums.items()}
        num_actions += int(actions)
        seen += int(trajectories)
    return {name: total / num_actions for name, total in sums.items()}


def log_probs(
    stream: "ExpertStream", tokens: ExpertTokens, tasks: np.ndarray | None = None
) -> Mapping[str, chex.Array]:
    """Log-probability in nats that each predictor gives to the actions of `tokens`.

    Args:
      stream: the stream that the tokens come from.
      tokens: `(B, S)`.
      tasks: `(N, K)` tasks that `bayes` starts from, uniformly; by default those of the stream.

    Returns:
      `bayes`, `goal_blind` and `goal_given`, `(B, S)` float32, 0 where `mask` is False; `bayes`
      is -inf from where no task explains the trajectory.
    """
    tasks = jnp.asarray(stream.tasks if tasks is None else tasks)
    policy = goal_policies(stream, tokens)
    taken = jnp.take_along_axis(policy, tokens.action[..., None, None], axis=3)[..., 0]
    at_colour = at_colours(tokens)
    start = None
    if stream.world.layouts is None:
        start = _solvable_tasks(tokens, tasks, stream.world.grid_size)
    values = {
        "bayes": bayes(taken, tokens, tasks, start),
        "goal_blind": goal_blind(taken, at_colour),
        "goal_given": goal_given(taken, tokens.goal),
    }
    return {name: jnp.where(tokens.mask, value, 0.0) for name, value in values.items()}


def goal_policies(stream: "ExpertStream", tokens: ExpertTokens) -> chex.Array:
    """The expert's action probabilities for every goal at every token, `(B, S, O, 4)` float32."""
    table, table_index = stream.tables(tokens.episodes)
    place = jnp.take_along_axis(table_index, tokens.episode, axis=1)[..., None]
    goals = jnp.arange(tokens.episodes.objects.shape[-1])
    here = shortest_path.ExpertTable(
        expert=table.expert[place, goals, tokens.cell[..., None]],
        harmless=table.harmless[place, goals, tokens.cell[..., None]],
        moves=table.moves,
    )
    return shortest_path.noisy_probabilities(here, stream.epsilon)


def at_colours(tokens: ExpertTokens) -> chex.Array:
    """Whether the agent stands on each colour, `(B, S, O)` bool."""
    objects = jnp.take_along_axis(tokens.episodes.objects, tokens.episode[..., None], axis=1)
    return objects == tokens.cell[..., None]


def goal_given(taken: chex.Array, goal: chex.Array) -> chex.Array:
    """`ln p(a_t | o_t, next colour)`.

    Args:
      taken: `(B, S, O)` probability of the taken action by goal colour.
      goal: `(B, S)` next colour.
    """
    given = jnp.take_along_axis(taken, jnp.maximum(goal, 0)[..., None], axis=2)
    return jnp.log(given[..., 0])


def goal_blind(taken: chex.Array, at_colour: chex.Array) -> chex.Array:
    """`ln p(a_t | o_t)` with all colours but the one underfoot equally likely to be next.

    Args:
      taken: `(B, S, O)` probability of the taken action by goal colour.
      at_colour: `(B, S, O)` bool, the agent stands on the colour.
    """
    possible = ~at_colour
    total = jnp.sum(jnp.where(possible, taken, 0.0), axis=2)
    return jnp.log(total / jnp.sum(possible, axis=2))


def bayes(
    taken: chex.Array, tokens: ExpertTokens, tasks: chex.Array, start: chex.Array | None = None
) -> chex.Array:
    """`ln p(a_t | o_{1:t})` by exact filtering of the task.

    The belief over tasks starts anew in every segment. A task loses its weight when an action is
    impossible under it (entering a colour that is not its next one is) or when it is already over.
    That the trajectories are known to meet the time limit is not taken into account.

    Args:
      taken: `(B, S, O)` probability of the taken action by goal colour.
      tokens: `(B, S)`.
      tasks: `(N, K)` int32 padded with -1, equally likely beforehand.
      start: `(B, S, N)` bool, tasks that are possible at the start of a trajectory; None for all.
    """
    # One row per number of visited colours; behind the longest task all tasks are over.
    goals = jnp.concatenate([tasks.T, jnp.full((1, tasks.shape[0]), -1, tasks.dtype)])
    previous = jnp.pad(tokens.segment, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    fresh = tokens.segment != previous
    if start is None:
        start = jnp.ones((*fresh.shape, 1), jnp.float32)
    start = start.astype(jnp.float32)

    def step(belief, token):
        taken, progress, fresh, start, mask = token
        belief = jnp.where(fresh[:, None], start / jnp.sum(start, axis=1, keepdims=True), belief)
        belief = belief / jnp.maximum(jnp.sum(belief, axis=1, keepdims=True), 1e-30)
        goal = goals[jnp.minimum(progress, tasks.shape[1])]
        likelihood = jnp.take_along_axis(taken, jnp.maximum(goal, 0), axis=1)
        joint = belief * jnp.where(goal >= 0, likelihood, 0.0)
        return jnp.where(mask[:, None], joint, belief), jnp.log(jnp.sum(joint, axis=1))

    inputs = (taken, tokens.progress, fresh, start, tokens.mask)
    inputs = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), inputs)
    belief = jnp.zeros_like(taken, shape=(tokens.mask.shape[0], tasks.shape[0]))
    _, log_prob = jax.lax.scan(step, belief, inputs)
    return log_prob.T


def _solvable_tasks(tokens: ExpertTokens, tasks: chex.Array, grid_size: int) -> chex.Array:
    """Tasks that the layout of each token's episode allows, `(B, S, N)` bool.

    Layouts are redrawn until they solve their task, so that one which does not is evidence.
    """
    episodes = tokens.episodes
    by_task = jax.vmap(layouts.solvable, in_axes=(None, None, None, 0, None))
    by_episode = jax.vmap(jax.vmap(by_task, (0, 0, 0, None, None)), (0, 0, 0, None, None))
    solvable = by_episode(episodes.objects, episodes.walls, episodes.start_cell, tasks, grid_size)
    return jnp.take_along_axis(solvable, tokens.episode[..., None], axis=1)
