"""The benchmarks give every figure beside its bound."""

import math
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import data, environment, reinforcement, run, training
from benchmarks.choices import chosen
from benchmarks.contrast import with_contrast
from benchmarks.timing import Stopwatch, Timing
from configs import gridworld
from internal_rl.errors import ConfigError
from internal_rl.stages.settings import Settings
from tests.training.test_loop import ROOT

ROLLOUT_FIELDS = {
    "episodes_per_second",
    "steps_per_second",
    "mean_length",
    "flops_per_step",
    "share_of_matmul_rate",
    "cache_bytes_per_step",
    "cache_share_of_copy_rate",
    "share_of_matmul_and_cache_bounds",
    "matmul_bound_seconds",
    "cache_bound_seconds",
    "seconds",
}


@pytest.fixture
def settings():
    config = gridworld.get_config("smoke")
    config.internal_rl.episodes_per_update = config.raw_rl.episodes_per_update = 4
    return Settings.read(config)


@pytest.fixture
def stopwatch(monkeypatch):
    monkeypatch.setattr("benchmarks.timing.COPY_BYTES", 2**12)
    monkeypatch.setattr("benchmarks.timing.BOUND_SECONDS", 0.0)
    return Stopwatch("wall", 1, ((8, 16, 32), (16, 16, 16)))


def all_positive(figures):
    """Every number of nested dictionaries is finite and, padding and ratios apart, above 0."""
    for name, value in figures.items():
        if isinstance(value, dict):
            all_positive(value)
        elif not isinstance(value, str | None) and name != "padding":
            assert math.isfinite(value), name
            assert value > 0, name


def test_bounds_are_measured_for_every_shape(stopwatch):
    assert set(stopwatch.matmul_rates) == {"8x16x32", "16x16x16"}
    timing = stopwatch.measure({"sum": lambda: jax.numpy.ones(3).sum()}, "sum")["sum"]
    assert timing.seconds.shape == timing.matmul_rate.shape == (1,)
    assert stopwatch.matmul_rate > 0 and stopwatch.copy_rate > 0


def test_shares_are_medians_of_paired_repetitions():
    timing = Timing(np.array([1.0, 2.0, 4.0]), np.array([10.0, 10.0, 5.0]), np.array([4.0] * 3))
    assert timing.rate(8) == 8
    assert timing.share_of_matmul(2.0) == pytest.approx(0.1)
    assert timing.share_of_copy(4.0) == pytest.approx(0.5)
    assert timing.share_of_bounds(2.0, 4.0) == pytest.approx(0.6)


def test_environment_steps_per_second(settings, stopwatch):
    figures = environment.benchmark(settings.world, stopwatch, 4, 3)
    all_positive(figures)
    for restart, consumption, _ in environment.CASES:
        entry = figures[f"restart_{restart}_{consumption}"]
        assert {"steps_per_second", "share_of_copy_rate"} <= set(entry)
    installed = environment.xland_rules() is not None
    assert ("xland_note" in figures) == (not installed)
    assert ("ratio_to_xland" in figures["restart_first_written"]) == installed


@pytest.mark.parametrize("restart", ["first", "fresh"])
def test_worlds_start_again_and_every_observation_is_consumed(settings, restart):
    world = settings.world
    rules = environment.pinpad_rules(world)
    program, prepare = environment.make_program(rules, restart, "written", 5, 60)
    first, room = prepare(jax.random.key(0))
    written = np.asarray(program(jax.random.key(1), first, room))
    assert written.shape == (60, 5, world.observation_spec.size)
    np.testing.assert_array_equal(written.sum(axis=2), world.num_channels)
    # The steps are more than an episode can have: every world has started again.
    same = (written == np.asarray(jax.vmap(world.observe)(first))).all(axis=2)
    assert restart == "fresh" or same.any(axis=0).all()
    program, prepare = environment.make_program(rules, restart, "summed", 5, 60)
    total = program(jax.random.key(1), *prepare(jax.random.key(0)))
    np.testing.assert_array_equal(total, 60 * world.num_channels)


@pytest.mark.slow
def test_data_and_training_rates(settings, stopwatch):
    figures = data.benchmark(settings, stopwatch, rows=2)
    all_positive(figures)
    assert {"tokens_per_second", "trajectories_per_second", "share_of_copy_rate"} <= set(figures)
    figures = training.benchmark(settings, stopwatch, rows=2)
    all_positive(figures)
    assert {"tokens_per_second", "flops_per_token", "share_of_matmul_rate"} <= set(figures)
    assert figures["share_of_matmul_rate"] <= figures["computed_share_of_matmul_rate"]


def test_full_length_worlds_end_at_the_time_limit(settings):
    world = reinforcement.FullLengthWorld(settings.world.config)
    state, _ = world.reset(jax.random.key(0), world.post_training_task)
    step = jax.jit(world.step)
    for time in range(world.time_limit):
        assert not bool(state.done)
        state, timestep = step(state, (time // 3) % 4)
        assert float(timestep.reward) == 0.0
    assert bool(state.done) and bool(timestep.done)


def test_a_world_with_contrast_rewards_the_end_of_episodes_of_an_even_number_of_steps(settings):
    world = with_contrast(settings.world)

    @jax.jit
    @jax.vmap
    def play(key):
        def step(state, action):
            state, timestep = world.step(state, action)
            return state, timestep.reward

        state, _ = world.reset(key, world.post_training_task)
        actions = jax.random.randint(key, (world.time_limit + 5,), 0, 4)
        state, rewards = jax.lax.scan(step, state, actions)
        return state.time, rewards

    time, rewards = jax.tree.map(np.asarray, play(jax.random.split(jax.random.key(0), 64)))
    expected = np.zeros_like(rewards)
    even = time % 2 == 0
    expected[even, time[even] - 1] = 1
    np.testing.assert_array_equal(rewards, expected)
    assert 0 < even.sum() < 64


@pytest.mark.slow
def test_reinforcement_learning_rates(settings, stopwatch):
    for benchmark in (reinforcement.benchmark_internal, reinforcement.benchmark_raw):
        figures = benchmark(settings, stopwatch)
        all_positive(figures)
        assert set(figures) == {"episodes", "rollout", "full_length_rollout", "update"}
        for name in ("rollout", "full_length_rollout"):
            assert set(figures[name]) >= ROLLOUT_FIELDS
        assert figures["full_length_rollout"]["mean_length"] == settings.world.time_limit
        assert {"episodes_per_second", "share_of_matmul_rate"} <= set(figures["update"])


def test_the_json_holds_machine_bounds_and_sections(settings, stopwatch, monkeypatch):
    monkeypatch.setattr(run, "Stopwatch", lambda *arguments: stopwatch)
    figures = run.benchmark(settings, ("data",), "wall", 1)
    assert set(figures) == {"bounds", "data"}
    assert {"matmul_flops_per_second", "copy_bytes_per_second"} <= set(figures["bounds"])
    assert {"platform", "device", "cores", "jax"} <= set(run.machine())
    assert "tokens_per_second" in run.table(figures)


def test_unknown_names_are_one_line_and_exit_code_2():
    command = [sys.executable, "-m", "benchmarks.run", "--preset=huge"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert "--preset: 'huge' given" in process.stderr.splitlines()[-1]
    with pytest.raises(ConfigError, match="--only: 'moon' given, allowed is environment"):
        chosen(["moon"], run.SECTIONS, "only")


def test_the_clock_of_the_processor_is_refused_on_several_cores(monkeypatch):
    monkeypatch.setattr("benchmarks.timing.available_cores", lambda: 2)
    with pytest.raises(ConfigError, match="--clock"):
        Stopwatch("cpu", 1, ((2, 2, 2),))
