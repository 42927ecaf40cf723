"""Trains the ant's expert with PPO; one policy for all tasks (method §2)."""

import functools
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import build, launch
from experiments.validation import EXPERT_STAGE_FIELDS
from internal_rl.envs.ant import AntWorld
from internal_rl.errors import DivergenceError
from internal_rl.experts import ant_ppo
from internal_rl.experts.ant_expert import AntExpertConfig
from internal_rl.training.metrics import MetricsWriter, progress_bar, read_metrics
from internal_rl.training.randomness import named_key
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.weights import load_weights, save_weights


def expert_config(config: ConfigDict) -> AntExpertConfig:
    """The expert's part of the section `expert`."""
    fields = config.expert.to_dict()
    for name in EXPERT_STAGE_FIELDS:
        fields.pop(name)
    return build.checked(AntExpertConfig, "expert", **fields)


def evaluate(
    world: AntWorld, settings: AntExpertConfig, params: tuple, key: jax.Array, episodes: int
) -> dict[str, float]:
    """Success of the mean action on the pretraining tasks and on the post-training task."""
    results = {}
    task_sets = {
        "pretraining": world.pretraining_tasks,
        "post_training": world.post_training_task[None],
    }
    keys = jax.random.split(key, episodes)
    play = jax.jit(functools.partial(ant_ppo.play, world, settings, deterministic=True))
    for name, tasks in task_sets.items():
        played = play(params, tasks, keys)
        colours = (tasks >= 0).sum(axis=1)[played.task]
        visited, success = np.asarray(played.progress.max(axis=1)), np.asarray(played.success)
        results[f"{name}/success"] = float(success.mean())
        results[f"{name}/share_of_colours"] = float((visited / colours).mean())
        results[f"{name}/steps_per_colour"] = float(
            played.length[success].sum() / max(colours[success].sum(), 1)
        )
        results[f"{name}/diverged"] = float(played.diverged.mean())
    return results


def train(config: ConfigDict, directory: StageDirectory) -> int:
    """Trains one seed, round by round; goes on after the last finished round.

    Returns:
      The number of rounds.

    Raises:
      DivergenceError: the parameters are not finite; the last good ones are kept.
    """
    world, settings, seed = build.make_world(config), expert_config(config), directory.seed
    folder = directory.path / "checkpoints"
    folder.mkdir(exist_ok=True)
    rounds = [folder / f"round_{index}.msgpack" for index in range(settings.rounds)]
    finished = max((i + 1 for i, file in enumerate(rounds) if file.exists()), default=0)
    params = ant_ppo.as_params(load_weights(rounds[finished - 1])) if finished else None
    writer = MetricsWriter(directory.path, finished)
    lines = read_metrics(directory.path)
    started = time.monotonic() - (lines[-1]["seconds"] if lines else 0.0)
    key = named_key(jax.random.key(seed), "evaluation")
    with progress_bar(settings.rounds, finished, "expert", "round") as bar:
        for index in range(finished, settings.rounds):
            params, metrics = ant_ppo.train_round(world, settings, index, seed, params)
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
                raise DivergenceError(
                    f"expert: parameters are not finite after round {index + 1}; the last good"
                    f" ones are kept in {folder}; try a lower expert.learning_rate"
                )
            results = evaluate(world, settings, params, key, config.expert.evaluation_episodes)
            seconds = time.monotonic() - started
            writer.write(
                index + 1,
                {**metrics, **results, "steps": (index + 1) * settings.steps_per_round}
                | {"seconds": seconds},
                time.time(),
            )
            save_weights(rounds[index], ant_ppo.as_tree(params))
            bar.set_postfix(success=f"{results['pretraining/success']:.2f}", refresh=False)
            bar.update()
    writer.close()
    if finished == settings.rounds:
        results = evaluate(world, settings, params, key, config.expert.evaluation_episodes)
    directory.save_artifacts({name: np.float32(value) for name, value in results.items()})
    directory.save_params(ant_ppo.as_tree(params))
    return settings.rounds


def main(config: ConfigDict, workdir: str) -> None:
    """Trains every seed."""
    launch.for_each_seed(config, workdir, "expert", lambda _: functools.partial(train, config))


if __name__ == "__main__":
    launch.run(main)
