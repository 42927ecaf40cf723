"""Steps per second of the world, beside those of xland-minigrid measured by the same program.

Both are wrapped as `Rules`, and one function makes the measured program from either: vmapped
worlds, actions drawn uniformly at every step, one `lax.scan` over the steps. Worlds whose episode
has ended start again, and then every world is observed, once per step. Two ways to start again:
in the state in which the world started first (as brax does it; no reset inside the loop), or in a
fresh one drawn at every step and selected where it is needed (as xland-minigrid's own wrapper does
it).
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
# How worlds start again, what becomes of observations, and the share of the steps that is run: a
# fresh start at every step takes many times as long as the step.
CASES = (("first", "written", 1.0), ("first", "summed", 1.0), ("fresh", "written", 0.125))


@dataclasses.dataclass(frozen=True)
class Rules:
    """A single world as pure functions.

    Attributes:
      reset: `key -> state`.
      step: `(state, action) -> (state, done)`.
      observe: `state -> observation`, uint8.
      num_actions: actions are 0 to `num_actions - 1`.
    """

    reset: Callable[[jax.Array], Any]
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array]]
    observe: Callable[[Any], jax.Array]
    num_actions: int


def pinpad_rules(world: GridWorld) -> Rules:
    """The rules of a grid world on its post-training task."""

    def step(state, action):
        state, timestep = world.step(state, action)
        return state, timestep.done

    return Rules(
        reset=lambda key: world.reset(key, world.post_training_task)[0],
        step=step,
        observe=world.observe,
        num_actions=world.action_spec.size,
    )


def xland_rules() -> Rules | None:
    """The rules of `XLAND_WORLD`; None if xland-minigrid is not installed."""
    try:
        import xminigrid
        from xminigrid.core.observation import transparent_field_of_view
        from xminigrid.types import StepType, TimeStep
    except ImportError:
        return None
    env, params = xminigrid.make(XLAND_WORLD)
    view = params.view_size

    def step(state, action):
        # Only the state is read; the observation that `step` makes is not used and not computed.
        before = TimeStep(state, StepType.MID, jnp.float32(0), jnp.float32(1), None)
        timestep = env.step(params, before, action)
        return timestep.state, timestep.last()

    return Rules(
        reset=lambda key: env.reset(params, key).state,
        step=step,
        observe=lambda state: transparent_field_of_view(state.grid, state.agent, view, view),
        num_actions=env.num_actions(params),
    )


def make_program(
    rules: Rules, restart: str, consumption: str, num_worlds: int, num_steps: int
) -> tuple[Callable, Callable]:
    """The measured program.

    Args:
      rules: the world.
      restart: `"first"` or `"fresh"`.
      consumption: `"written"` keeps all observations in memory, `"summed"` adds up the numbers of
        every observation per world.
      num_worlds: worlds side by side.
      num_steps: steps of each.

    Returns:
      The compiled function `(key, first, consumed) -> consumed`, which reuses the memory of
      `consumed`, and the function `key -> (first, consumed)` that makes the states in which the
      worlds start and empty room for what is consumed.
    """

    def start(key):
        return jax.vmap(rules.reset)(jax.random.split(key, num_worlds))

    def prepare(key):
        first = start(key)
        if consumption == "summed":
            return first, jnp.zeros(num_worlds, jnp.int32)
        shape = jax.eval_shape(jax.vmap(rules.observe), first)
        return first, jnp.zeros((num_steps, *shape.shape), shape.dtype)

    def select(done, new, old):
        if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
            data = select(done, jax.random.key_data(new), jax.random.key_data(old))
            return jax.random.wrap_key_data(data)
        return jnp.where(done.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    def run(key, first, consumed):
        def step(carry, inputs):
            state, consumed = carry
            step_key, time = inputs
            action_key, reset_key = jax.random.split(step_key)
            action = jax.random.randint(action_key, (num_worlds,), 0, rules.num_actions)
            state, done = jax.vmap(rules.step)(state, action)
            again = first if restart == "first" else start(reset_key)
            state = jax.tree.map(lambda new, old: select(done, new, old), again, state)
            observation = jax.vmap(rules.observe)(state)
            if consumption == "written":
                return (state, consumed.at[time].set(observation)), None
            axes = tuple(range(1, observation.ndim))
            return (state, consumed + observation.sum(axes, dtype=jnp.int32)), None

        steps = jax.random.split(key, num_steps), jnp.arange(num_steps)
        return jax.lax.scan(step, (first, consumed), steps)[0][1]

    return jax.jit(run, donate_argnums=2), jax.jit(prepare)


def _repeated(run: Callable, first, consumed) -> Callable:
    """The program as a function without arguments that uses the same memory every time."""
    held = [consumed]

    def once():
        held[0] = run(jax.random.key(1), first, held[0])
        return held[0]

    return once


def benchmark(
    world: GridWorld,
    stopwatch: Stopwatch,
    num_worlds: int = NUM_WORLDS,
    num_steps: int = NUM_STEPS,
) -> dict:
    """Steps per second of both worlds in every case, and their ratios."""
    candidates = {"pinpad": pinpad_rules(world), "xland": xland_rules()}
    programs, steps = {}, {}
    for restart, consumption, share in CASES:
        case = f"restart_{restart}_{consumption}"
        length = max(round(share * num_steps), 1)
        steps[case] = num_worlds * length
        for name, rules in candidates.items():
            if rules is not None:
                run, prepare = make_program(rules, restart, consumption, num_worlds, length)
                programs[case, name] = _repeated(run, *prepare(jax.random.key(0)))
    timings = stopwatch.measure(programs, "environment")
    result = {
        "worlds": num_worlds,
        "steps_per_world": num_steps,
        "observation_size": world.observation_spec.size,
        "xland_world": XLAND_WORLD,
    }
    if candidates["xland"] is None:
        result["xland_note"] = "not installed, no comparison: pip install xminigrid"
    else:
        result["xland_version"] = importlib.metadata.version("xminigrid")
    for case, count in steps.items():
        timing = timings[case, "pinpad"]
        result[case] = {
            "steps_per_second": timing.rate(count),
            "share_of_copy_rate": timing.share_of_copy(count * world.observation_spec.size),
        }
        if (case, "xland") in timings:
            xland = timings[case, "xland"]
            result[case]["xland_steps_per_second"] = xland.rate(count)
            result[case]["ratio_to_xland"] = xland.best / timing.best
    return result
