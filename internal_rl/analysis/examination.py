"""What is measured once a model is trained: arrays that a stage keeps and the report reads."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.analysis import (
    abstract_actions,
    code_injection,
    credit,
    rate_distortion,
    switching,
)
from internal_rl.analysis.rollout import sample_base, transition_counts, unseen_transition_rate
from internal_rl.envs import World
from internal_rl.envs.tasks import unseen_transitions
from internal_rl.models.base_model import BaseModel
from internal_rl.models.metacontroller import Metacontroller
from internal_rl.rl.internal_env import InternalEnv, Rollout
from internal_rl.types import Trajectory

Arrays = dict[str, np.ndarray]

INJECTION_MOMENTS = (0, 1)
"""Numbers of visits after which a code is injected."""


def _to_host(arrays: dict) -> Arrays:
    return {name: np.asarray(value) for name, value in arrays.items()}


def examine_base(
    env: World,
    base: BaseModel,
    base_params: dict,
    key: chex.PRNGKey,
    num_episodes: int,
) -> Arrays:
    """Can the base model alone solve the post-training task, and would it take its transitions?

    Args:
      env: the world.
      base: the base model.
      base_params: its parameters.
      key: randomness.
      num_episodes: episodes sampled on the task, and as many that run free of it.

    Returns:
      `sampled_success` on the post-training task, `sampled_episodes`, `transition_counts` `(O, O)`
      and the rates of `unseen_transition_rate`. Free-running episodes count up to the number of
      visits of the longest pretraining task.
    """
    num_visits = max(len(task) for task in env.task_set.pretraining)
    task = env.post_training_task

    @jax.jit
    def sample(base_params, key):
        ruled_key, free_key = jax.random.split(key)
        run = functools.partial(sample_base, env, base, base_params)
        ruled = run(ruled_key, task, num_episodes)
        free = run(free_key, task, num_episodes, free_running=True)
        counts = transition_counts(free.visit, env.config.num_colours, num_visits)
        return jnp.mean(ruled.success), counts

    success, counts = sample(base_params, key)
    rates = unseen_transition_rate(counts, unseen_transitions(env.task_set))
    return _to_host(
        {
            "sampled_success": success,
            "sampled_episodes": num_episodes,
            "transition_counts": counts,
            **rates,
        }
    )


def examine_metacontroller(
    env: World,
    base: BaseModel,
    base_params: dict,
    metacontroller: Metacontroller,
    metacontroller_params: dict,
    layer: int,
    batch: Trajectory,
    key: chex.PRNGKey,
    num_episodes: int,
    num_examples: int = 5,
) -> Arrays:
    """Do its switches follow the subgoals, and do its codes mean them?

    Args:
      env: the world.
      base: the base model.
      base_params: its parameters.
      metacontroller: the metacontroller.
      metacontroller_params: its parameters.
      layer: residual stream that it reads and controls.
      batch: `(B, S)` held-out rows of clean expert trajectories.
      key: randomness.
      num_episodes: episodes per arm and moment of the injection.
      num_examples: trajectories kept to be shown.

    Returns:
      The results of `switching_metrics`, `kl_by_place`, `active_units` and `decoding_accuracy`; of
      all `INJECTION_MOMENTS` the scalars of `injection_metrics` as `injection_<visits>_<name>`;
      `example_beta`, `example_subgoal`, `example_mask`, `(E, T)`, `example_code` `(E, T, n_z)`, and
      the fields of the world's `Scene` as `example_<field>`, `(E, T, ...)`.
    """
    infer_key, code_key, split_key, inject_key = jax.random.split(key, 4)

    @jax.jit
    def infer(base_params, metacontroller_params, batch):
        residual = base.apply(base_params, batch.observation, batch.segment, layer, method="lower")
        discovery = metacontroller.apply(
            metacontroller_params, residual, batch.segment, infer_key, method="discover"
        )
        where = (batch.subgoal, batch.segment, batch.mask)
        counts = switching.count_switches(discovery.beta, *where, tolerance=env.switch_tolerance)
        results = {
            **switching.switching_metrics(counts),
            **rate_distortion.kl_by_place(discovery.kl, *where),
            **rate_distortion.active_units(discovery.mean, *where),
        }
        return discovery.beta, discovery.code, results

    beta, code, results = infer(base_params, metacontroller_params, batch)
    models = (env, base, base_params, metacontroller, metacontroller_params, layer)
    bank = abstract_actions.collect_codes(*models, batch, code_key)
    results |= abstract_actions.decoding_accuracy(bank, env.task_set.num_subgoals, split_key)
    colours, unseen = code_injection.first_colours(env), unseen_transitions(env.task_set)

    @jax.jit
    def inject(base_params, metacontroller_params, bank, visits):
        return code_injection.inject_codes(
            env, base, base_params, metacontroller, metacontroller_params, layer,
            bank, inject_key, num_episodes, visits,
        )  # fmt: skip

    for visits in INJECTION_MOMENTS:
        counts = inject(base_params, metacontroller_params, bank, visits)
        metrics = code_injection.injection_metrics(counts, colours, unseen)
        results |= {f"injection_{visits}_{name}": value for name, value in metrics.items()}
    scene = env.scene(batch.observation)
    examples = example_trajectories(
        {"beta": beta, "subgoal": batch.subgoal, "code": code, **vars(scene)},
        batch.segment,
        batch.mask,
        num_examples,
    )
    return _to_host(results | {f"example_{name}": value for name, value in examples.items()})


def example_trajectories(
    arrays: dict[str, chex.Array], segment: chex.Array, mask: chex.Array, count: int
) -> Arrays:
    """Takes the first trajectories out of packed rows.

    Args:
      arrays: `(B, S, ...)` values by name.
      segment: `(B, S)` int32 trajectory of every token.
      mask: `(B, S)` bool, tokens to keep.
      count: number of trajectories `E`; fewer if the rows hold fewer.

    Returns:
      `(E, T, ...)` by name, zero behind the end of a trajectory, and `mask` `(E, T)` bool.
    """
    segment, mask = np.asarray(segment), np.asarray(mask)
    found = []
    for row in range(segment.shape[0]):
        numbers = np.unique(segment[row][mask[row]])
        found += [(row, np.flatnonzero(mask[row] & (segment[row] == k))) for k in numbers]
        if len(found) >= count:
            break
    found = found[:count]
    length = max((len(tokens) for _, tokens in found), default=0)
    examples = {"mask": np.zeros((len(found), length), bool)}
    for name, values in arrays.items():
        values = np.asarray(values)
        examples[name] = np.zeros((len(found), length, *values.shape[2:]), values.dtype)
        for i, (row, tokens) in enumerate(found):
            examples[name][i, : len(tokens)] = values[row, tokens]
            examples["mask"][i, : len(tokens)] = True
    return examples


def example_episode(env: World, rollout: Rollout) -> Arrays:
    """One episode of internal RL, to be shown: the first of those that went furthest.

    Args:
      env: the world.
      rollout: episodes to choose from.

    Returns:
      `episode_observation` `(T, d)`, `episode_beta` `(T,)`, `episode_ask` `(T,)` bool,
      `episode_code` `(T, n_z)`, `episode_progress` `(T,)` int32 and the fields of the world's
      `Scene` as `episode_<field>`, `(T, ...)`, cut to the steps of the episode.
    """
    chosen = int(jnp.argmax(jnp.max(rollout.progress * rollout.active, axis=1)))
    length = int(rollout.length[chosen])
    names = ("observation", "beta", "ask", "code", "progress")
    episode = {name: getattr(rollout, name)[chosen, :length] for name in names}
    episode |= vars(env.scene(episode["observation"]))
    return _to_host({f"episode_{name}": value for name, value in episode.items()})


def examine_credit(internal_env: InternalEnv, params: dict, rollout: Rollout) -> Arrays:
    """Variance of the policy gradient with code actions and with raw actions.

    Args:
      internal_env: the environment of internal RL.
      params: `{"base": ..., "metacontroller": ..., "policy": ...}`.
      rollout: episodes of this policy to estimate it from.

    Returns:
      The fields of `credit.GradientVariance`, `(T,)` each, as `gradient_<field>`.
    """
    variance = jax.jit(functools.partial(credit.gradient_variance, internal_env))(params, rollout)
    return _to_host({f"gradient_{name}": value for name, value in vars(variance).items()})
