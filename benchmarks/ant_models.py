"""What the ant's expert, base model and internal RL do per second.

Models and datasets are random, so that episodes end early, at a fall or a wrong colour.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contrast import with_contrast
from benchmarks.random_inputs import random_method, random_model
from benchmarks.timing import Stopwatch
from benchmarks.training import with_rows
from internal_rl.experts import ant_ppo
from internal_rl.stages.build import stage_of
from internal_rl.stages.settings import Settings
from internal_rl.training.program import Program
from internal_rl.types import num_rows

UPDATES_PER_CALL = 2
# Tokens of one training update on a CPU; the rate hardly depends on it.
CPU_TOKENS = 8192
LATENCY_BATCHES = (1, 256)
# Control steps of the expert's training; the time of the difference leaves out compilation.
PPO_STEPS = (200_000, 600_000)


def expert_rate(settings: Settings) -> dict[str, float]:
    """Control steps per second of brax's PPO, updates included."""
    world, expert = settings.world, settings.expert
    seconds = []
    for steps in PPO_STEPS:
        started = time.perf_counter()
        short = dataclasses.replace(expert, rounds=1, steps_per_round=steps)
        ant_ppo.train_round(world, short, 0, 0, None)
        seconds.append(time.perf_counter() - started)
    rate = (PPO_STEPS[1] - PPO_STEPS[0]) / (seconds[1] - seconds[0])
    return {"control_steps_per_second": rate, "worlds": expert.num_worlds}


def training_rate(settings: Settings, stopwatch: Stopwatch) -> dict[str, float]:
    """Whole updates of the pretraining stage, one seed, rows full of tokens.

    Needed operations are the products with parameter matrices alone: three for each parameter and
    token, of two operations.
    """
    settings = settings.updated("pretrain", num_parts=1)
    length = settings.data.sequence_length
    rows = max(round(settings.pretrain.batch_size / settings.data.trajectories_per_row), 1)
    if jax.default_backend() == "cpu":
        rows = min(rows, max(CPU_TOKENS // length, 1))
    settings = with_rows(settings, rows)
    method = random_method("pretrain", settings)
    program = Program(stage_of("pretrain", settings, method, source=method.source))
    # The program reuses the memory of the state that it is given.
    held = [program.initial_state()]

    def update():
        held[0], metrics = program.advance(held[0], UPDATES_PER_CALL)
        return metrics

    timing = stopwatch.measure({"update": update}, "Hawk training")["update"]
    tokens = UPDATES_PER_CALL * num_rows(method.source, settings.pretrain.batch_size) * length
    matrices = [x.size for x in jax.tree.leaves(held[0].params) if x.ndim > 1]
    return {
        "tokens_per_second": timing.rate(tokens),
        "share_of_matmul_rate": timing.share_of_matmul(6 * sum(matrices) * tokens),
        "seconds": timing.best / UPDATES_PER_CALL,
    }


def step_latency(settings: Settings, stopwatch: Stopwatch) -> dict[str, float]:
    """Seconds of one step of the base model's one-step form, by batch."""
    model = random_model(settings).alone()
    model = model.at_layer(model.base.depth)

    def make(batch):
        @jax.jit
        def step(observation, state):
            return model.upper_step(*model.lower_step(observation, state))

        observation = jnp.zeros((batch, settings.world.observation_spec.size))
        state = model.initial_state(batch)
        return lambda: step(observation, state)

    programs = {f"seconds_at_batch_{batch}": make(batch) for batch in LATENCY_BATCHES}
    timings = stopwatch.measure(programs, "Hawk step")
    return {name: timing.best for name, timing in timings.items()}


def internal_rl_rate(settings: Settings, stopwatch: Stopwatch) -> dict[str, float]:
    """Episodes per second of internal RL, update included, and of its rollouts alone."""
    method = random_method("internal_rl", settings)
    key, num_episodes = jax.random.key(1), method.config.episodes_per_update
    state = jax.jit(method.init)(key, method.frozen)
    update = jax.jit(dataclasses.replace(method, world=with_contrast(method.world)).update)
    rollout = jax.jit(
        lambda params, frozen: method.rollout(params, frozen, key, num_episodes, keep=method.KEPT)
    )
    programs = {
        "rollout": lambda: rollout(state.params, method.frozen),
        "update": lambda: update(state, method.frozen),
    }
    timings = stopwatch.measure(programs, "internal RL on the ant")
    length = np.asarray(programs["rollout"]().length)
    return {
        "episodes": num_episodes,
        "mean_length": float(length.mean()),
        "rollout_episodes_per_second": timings["rollout"].rate(num_episodes),
        "control_steps_per_second": timings["rollout"].rate(length.sum()),
        "episodes_per_second": timings["update"].rate(num_episodes),
    }


def benchmark(settings: Settings, stopwatch: Stopwatch) -> dict:
    """All of them for one preset of `configs/ant.py`."""
    return {
        "expert": expert_rate(settings),
        "training": training_rate(settings, stopwatch),
        "step": step_latency(settings, stopwatch),
        "internal_rl": internal_rl_rate(settings, stopwatch),
    }
