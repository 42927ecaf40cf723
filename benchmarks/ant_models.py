"""What the ant's expert, base model and internal RL do per second.

Models and datasets are random, so that episodes end early, at a fall or a wrong colour.
"""

import dataclasses
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.contrast import with_contrast
from benchmarks.random_inputs import publish_random_datasets, random_parameters
from benchmarks.timing import Stopwatch
from experiments import build, internal_rl, launch, pretrain
from experiments.expert import expert_config
from internal_rl.experts import ant_ppo
from internal_rl.training.program import Program

UPDATES_PER_CALL = 2
# Tokens of one training update on a CPU; the rate hardly depends on it.
CPU_TOKENS = 8192
LATENCY_BATCHES = (1, 256)
# Control steps of the expert's training; the time of the difference leaves out compilation.
PPO_STEPS = (200_000, 600_000)


def expert_rate(config: ConfigDict) -> dict[str, float]:
    """Control steps per second of brax's PPO, updates included."""
    world, settings = build.make_world(config), expert_config(config)
    seconds = []
    for steps in PPO_STEPS:
        started = time.perf_counter()
        short = dataclasses.replace(settings, rounds=1, steps_per_round=steps)
        ant_ppo.train_round(world, short, 0, 0, None)
        seconds.append(time.perf_counter() - started)
    rate = (PPO_STEPS[1] - PPO_STEPS[0]) / (seconds[1] - seconds[0])
    return {"control_steps_per_second": rate, "worlds": settings.num_worlds}


def training_rate(config: ConfigDict, stopwatch: Stopwatch) -> dict[str, float]:
    """Whole updates of the pretraining stage, one seed, rows full of tokens.

    Needed operations are the products with parameter matrices alone: three for each parameter and
    token, of two operations.
    """
    config = config.copy_and_resolve_references()
    config.pretrain.num_seeds = config.pretrain.num_parts = 1
    rows = launch.rows_of(config, "pretrain")
    if jax.default_backend() == "cpu":
        rows = min(rows, max(CPU_TOKENS // config.data.sequence_length, 1))
    config.pretrain.batch_size = max(round(rows * config.data.trajectories_per_row), 1)
    with tempfile.TemporaryDirectory() as workdir:
        publish_random_datasets(config, workdir)
        program = Program(pretrain.make_stage(config, workdir))
    # The program reuses the memory of the state that it is given.
    held = [program.initial_state()]

    def update():
        held[0], metrics = program.advance(held[0], UPDATES_PER_CALL)
        return metrics

    timing = stopwatch.measure({"update": update}, "Hawk training")["update"]
    tokens = UPDATES_PER_CALL * launch.rows_of(config, "pretrain") * config.data.sequence_length
    matrices = [x.size for x in jax.tree.leaves(held[0].params) if x.ndim > 1]
    return {
        "tokens_per_second": timing.rate(tokens),
        "share_of_matmul_rate": timing.share_of_matmul(6 * sum(matrices) * tokens),
        "seconds": timing.best / UPDATES_PER_CALL,
    }


def step_latency(config: ConfigDict, stopwatch: Stopwatch) -> dict[str, float]:
    """Seconds of one step of the base model's one-step form, by batch."""
    world = build.make_world(config)
    base, params = build.make_base_model(config, world), random_parameters(config)["base"]

    def make(batch):
        @jax.jit
        def step(observation, state):
            depth = config.base.depth
            x, state = base.apply(params, observation, state, depth, method="lower_step")
            return base.apply(params, x, state, depth, method="upper_step")

        observation, state = jnp.zeros((batch, world.observation_size)), base.initial_state(batch)
        return lambda: step(observation, state)

    programs = {f"seconds_at_batch_{batch}": make(batch) for batch in LATENCY_BATCHES}
    timings = stopwatch.measure(programs, "Hawk step")
    return {name: timing.best for name, timing in timings.items()}


def internal_rl_rate(config: ConfigDict, stopwatch: Stopwatch) -> dict[str, float]:
    """Episodes per second of internal RL, update included, and of its rollouts alone."""
    trainer = internal_rl.make_trainer(config)
    frozen, key = random_parameters(config), jax.random.key(1)
    state = jax.jit(trainer.init)(key)
    rewarded = dataclasses.replace(trainer.env, world=with_contrast(trainer.env.world))
    update = jax.jit(dataclasses.replace(trainer, env=rewarded).update)
    rollout = jax.jit(
        lambda params: trainer.env.rollout(params, key, trainer.task, trainer.num_episodes)
    )
    programs = {
        "rollout": lambda: rollout({**frozen, "policy": state.params}),
        "update": lambda: update(state, frozen),
    }
    timings = stopwatch.measure(programs, "internal RL on the ant")
    length = np.asarray(programs["rollout"]().length)
    return {
        "episodes": trainer.num_episodes,
        "mean_length": float(length.mean()),
        "rollout_episodes_per_second": timings["rollout"].rate(trainer.num_episodes),
        "control_steps_per_second": timings["rollout"].rate(length.sum()),
        "episodes_per_second": timings["update"].rate(trainer.num_episodes),
    }


def benchmark(config: ConfigDict, stopwatch: Stopwatch) -> dict:
    """All of them for one preset of `configs/ant.py`."""
    return {
        "expert": expert_rate(config),
        "training": training_rate(config, stopwatch),
        "step": step_latency(config, stopwatch),
        "internal_rl": internal_rl_rate(config, stopwatch),
    }
