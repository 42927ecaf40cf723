"""Steps per second of the world, beside those of xland-minigrid measured by the same program.

Both are wrapped as `Rules`, and one function makes the measured program from either: vmapped
worlds, actions drawn uniformly at every step, one `lax.scan` over the steps, every observation made
and consumed. Worlds whose episode ends start again, in one of two ways: in the state in which they
started first (as brax does it; no reset inside the loop), or in a fresh one drawn at every step and
selected where it is needed (as xland-minigrid's own wrapper does it).
"""

import dataclasses
import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import Stopwatch
from internal_rl.envs.gridworld import GridWorld

NUM_WORLDS = 4096
NUM_STEPS = 128
XLAND_WORLD = "MiniGrid-EmptyRandom-8x8"
RESTARTS = ("first", "fresh")
CONSUMPTIONS = ("summed", "written")


@dataclasses.dataclass(frozen=True)
class Rules:
    """A single world as pure functions.

    Attributes:
      reset: `key -> (state, observation)`.
      step: `(state, action) -> (state, observation, done)`.
      num_actions: actions are 0 to `num_actions - 1`.
    """

    reset: Callable[[jax.Array], tuple[Any, jax.Array]]
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array, jax.Array]]
    num_actions: int


def pinpad_rules(world: GridWorld) -> Rules:
    """The rules of a grid world on its post-training task."""

    def reset(key):
        state, timestep = world.reset(key, world.post_training_task)
        return state, timestep.observation

    def step(state, action):
        state, timestep = world.step(state, action)
        return state, timestep.observation, timestep.done

    return Rules(reset, step, world.num_actions)


def xland_rules() -> Rules | None:
    """The rules of `XLAND_WORLD`; None if xland-minigrid is not installed."""
    try:
        import xminigrid
    except ImportError:
        return None
    env, params = xminigrid.make(XLAND_WORLD)

    def reset(key):
        timestep = env.reset(params, key)
        return timestep, timestep.observation

    def step(timestep, action):
        timestep = env.step(params, timestep, action)
        return timestep, timestep.observation, timestep.last()

    return Rules(reset, step, env.num_actions(params))


def make_program(
    rules: Rules, restart: str, consumption: str, num_worlds: int, num_steps: int
) -> Callable:
    """The measured program.

    Args:
      rules: the world.
      restart: `"first"` or `"fresh"`.
      consumption: `"summed"` adds up the numbers of every observation per world, `"written"`
        returns all observations.
      num_worlds: worlds side by side.
      num_steps: steps of each.

    Returns:
      A compiled function `(key, first) -> arrays`, and the function `key -> first` that makes the
      states in which the worlds start.
    """

    def start(key):
        return jax.vmap(rules.reset)(jax.random.split(key, num_worlds))

    def select(done, new, old):
        return jnp.where(done.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    def run(key, first):
        def step(carry, step_key):
            state, total = carry
            action_key, reset_key = jax.random.split(step_key)
            action = jax.random.randint(action_key, (num_worlds,), 0, rules.num_actions)
            state, observation, done = jax.vmap(rules.step)(state, action)
            again = first if restart == "first" else start(reset_key)
            state, observation = jax.tree.map(
                lambda new, old: _select_key(done, new, old, select), again, (state, observation)
            )
            if consumption == "written":
                return (state, total), observation
            axes = tuple(range(1, observation.ndim))
            return (state, total + observation.sum(axes, dtype=jnp.int32)), None

        carry = (first[0], jnp.zeros(num_worlds, jnp.int32))
        (_, total), written = jax.lax.scan(step, carry, jax.random.split(key, num_steps))
        return total, written

    return jax.jit(run), jax.jit(start)


def _select_key(done, new, old, select):
    """`select` that also takes typed random keys, which a state may hold."""
    if not jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
        return select(done, new, old)
    data = select(done, jax.random.key_data(new), jax.random.key_data(old))
    return jax.random.wrap_key_data(data)


def benchmark(
    world: GridWorld,
    stopwatch: Stopwatch,
    num_worlds: int = NUM_WORLDS,
    num_steps: int = NUM_STEPS,
) -> dict:
    """Steps per second of both worlds for every restart and consumption, and their ratios."""
    candidates = {"pinpad": pinpad_rules(world), "xland": xland_rules()}
    key = jax.random.key(0)
    programs = {}
    for name, rules in candidates.items():
        if rules is None:
            continue
        for restart in RESTARTS:
            for consumption in CONSUMPTIONS:
                run, start = make_program(rules, restart, consumption, num_worlds, num_steps)
                first = start(key)
                programs[name, restart, consumption] = lambda r=run, f=first: r(key, f)
    timings = stopwatch.measure(programs, "environment")
    steps = num_worlds * num_steps
    result = {
        "worlds": num_worlds,
        "steps_per_world": num_steps,
        "observation_size": world.observation_size,
        "xland_world": XLAND_WORLD,
        "xland_version": _xland_version(),
    }
    if candidates["xland"] is None:
        result["xland_note"] = "not installed, no comparison: pip install xminigrid"
    for restart in RESTARTS:
        for consumption in CONSUMPTIONS:
            pinpad = timings["pinpad", restart, consumption]
            entry = {"steps_per_second": pinpad.rate(steps)}
            entry["share_of_copy_rate"] = pinpad.share_of_copy(steps * world.observation_size)
            if ("xland", restart, consumption) in timings:
                xland = timings["xland", restart, consumption]
                entry["xland_steps_per_second"] = xland.rate(steps)
                entry["ratio_to_xland"] = xland.best / pinpad.best
            result[f"restart_{restart}_{consumption}"] = entry
    return result


def _xland_version() -> str | None:
    try:
        return importlib.metadata.version("xminigrid")
    except importlib.metadata.PackageNotFoundError:
        return None
