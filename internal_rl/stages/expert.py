"""The stage `expert`: trains the ant's expert with PPO; one policy for all tasks (method §2)."""

import functools
import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging

from internal_rl.checksums import ChecksumsError
from internal_rl.errors import ConfigError, DivergenceError, StorageError
from internal_rl.experts import ant_ppo
from internal_rl.stages.places import Places
from internal_rl.stages.seeds import for_each_seed
from internal_rl.stages.settings import Settings
from internal_rl.training.loggers import LoggedRun, make_loggers
from internal_rl.training.metrics import MetricsWriter, read_metrics
from internal_rl.training.progress import Progress
from internal_rl.training.randomness import named_key
from internal_rl.training.stage_directory import ROUND, StageDirectory
from internal_rl.training.weights import load_weights, save_weights


def evaluate(settings: Settings, params: tuple, key: jax.Array) -> dict[str, float]:
    """Success of the mean action on the pretraining tasks and on the post-training task."""
    world, results = settings.world, {}
    task_sets = {
        "pretraining": world.pretraining_tasks,
        "post_training": world.post_training_task[None],
    }
    keys = jax.random.split(key, settings.expert.evaluation_episodes)
    play = jax.jit(functools.partial(ant_ppo.play, world, settings.expert, deterministic=True))
    for name, tasks in task_sets.items():
        played = play(params, tasks, keys)
        colours = (tasks >= 0).sum(axis=1)[played.task]
        visited, success = np.asarray(played.progress.max(axis=1)), np.asarray(played.success)
        results[f"{name}/success"] = float(success.mean())
        if hasattr(world, "solvable"):
            solvable = np.asarray(played.solvable)
            results[f"{name}/solvable_success"] = float(success[solvable].mean())
        results[f"{name}/share_of_colours"] = float((visited / colours).mean())
        results[f"{name}/steps_per_colour"] = float(
            played.length[success].sum() / max(colours[success].sum(), 1)
        )
        results[f"{name}/diverged"] = float(played.diverged.mean())
    return results


def train(settings: Settings, loggers: tuple[str, ...], directory: StageDirectory) -> int:
    """Trains one seed, round by round; goes on after the last finished round.

    Returns:
      The number of rounds.

    Raises:
      DivergenceError: the parameters are not finite; the last good ones are kept.
    """
    world, expert, seed = settings.world, settings.expert, directory.seed
    folder = directory.path / "checkpoints"
    folder.mkdir(exist_ok=True)
    rounds = [folder / f"{ROUND}{index}.msgpack" for index in range(expert.rounds)]
    finished, params = _newest(rounds)
    config = settings.stage_config("expert").values
    logged = LoggedRun(directory.path, config, finished)
    writer = MetricsWriter(directory.path, finished, make_loggers(loggers, logged))
    lines = read_metrics(directory.path)
    started = time.monotonic() - (lines[-1]["seconds"] if lines else 0.0)
    key = named_key(jax.random.key(seed), "evaluation")
    with Progress(expert.rounds, finished, "expert", "round") as progress:
        for index in range(finished, expert.rounds):
            params, metrics = ant_ppo.train_round(world, expert, index, seed, params)
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
                raise DivergenceError(
                    f"expert: parameters are not finite after round {index + 1}; the last good"
                    f" ones are kept in {folder}; try a lower expert.learning_rate"
                )
            results = evaluate(settings, params, key)
            seconds = time.monotonic() - started
            writer.write(
                index + 1,
                {**metrics, **results, "steps": (index + 1) * expert.steps_per_round}
                | {"seconds": seconds},
                time.time(),
            )
            writer.flush()
            save_weights(rounds[index], ant_ppo.as_tree(params))
            progress.advance()
            progress.tell({f"evaluation/{name}": value for name, value in results.items()})
    writer.close()
    if finished == expert.rounds:
        results = evaluate(settings, params, key)
    directory.save_artifacts({name: np.float32(value) for name, value in results.items()})
    directory.save_params(ant_ppo.as_tree(params))
    return expert.rounds


def _newest(rounds: Sequence[pathlib.Path]) -> tuple[int, tuple | None]:
    """How many rounds are done, and the parameters after them; damaged files are passed over.

    Raises:
      StorageError: there are files of rounds, and none is intact.
    """
    fault = None
    for number in reversed(range(len(rounds))):
        if not rounds[number].exists():
            continue
        try:
            params = ant_ppo.as_params(load_weights(rounds[number]))
        except ChecksumsError:
            raise
        except IsADirectoryError as error:
            fault = fault or StorageError(f"{rounds[number]}: {error.strerror}")
            continue
        except StorageError as error:
            named = str(rounds[number]) in str(error)
            fault = fault or (error if named else StorageError(f"{rounds[number]}: {error}"))
            continue
        if fault is not None:
            logging.warning("expert: %s; goes on from round %d", fault, number + 1)
        return number + 1, params
    if fault is not None:
        raise StorageError(
            f"{fault}; no round is intact: remove {rounds[0].parent} and run the same command"
            " again, which trains from the beginning"
        )
    return 0, None


def run(settings: Settings, places: Places) -> None:
    """Trains every seed.

    Raises:
      ConfigError: the worlds cannot be shared out among the devices.
    """

    def prepare(seed):
        del seed
        devices, num_worlds = jax.local_device_count(), settings.expert.num_worlds
        if num_worlds % devices:
            raise ConfigError(
                f"config.expert.num_worlds: {num_worlds} given, allowed is a multiple of {devices},"
                " the devices here"
            )
        return functools.partial(train, settings, places.loggers)

    for_each_seed(
        settings,
        places,
        "expert",
        prepare,
        intact=lambda directory: directory.complete,
    )
