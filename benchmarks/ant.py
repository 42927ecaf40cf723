"""Control steps per second of the ant world, beside the bare physics of the same run.

Every program runs the same number of control steps with uniformly random torques. `bare_native` is
`mujoco.rollout` alone on as many threads; `bare_mjx` steps a batch of MJX data that stays on the
device. The worlds observe, judge and start again in their first state when an episode has ended.
"""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import rollout as mujoco_rollout

from benchmarks.timing import Stopwatch
from internal_rl.envs.ant import AntWorld, AntWorldConfig
from internal_rl.host_threads import available_cores

NATIVE = (1024, 16)
# Worlds and control steps: MJX runs a few thousand physics steps per second on a CPU.
MJX_ON_CPU, MJX_ON_ACCELERATOR = (128, 2), (4096, 16)


def world_program(world: AntWorld, num_worlds: int, num_steps: int):
    """Compiled function without arguments that runs the world."""
    keys = jax.random.split(jax.random.key(0), num_worlds)
    first = jax.jit(jax.vmap(lambda key: world.reset(key, world.post_training_task)[0]))(keys)

    def run(first, key):
        def step(state, key):
            action = jax.random.uniform(
                key, (num_worlds, world.action_spec.size), minval=-1, maxval=1
            )
            state, timestep = jax.vmap(world.step)(state, action)
            done = timestep.done

            def again(start, now):
                return jnp.where(done.reshape(-1, *[1] * (now.ndim - 1)), start, now)

            return jax.tree.map(again, first, state), timestep.observation

        return jax.lax.scan(step, first, jax.random.split(key, num_steps))[1]

    compiled = jax.jit(run)
    return lambda: compiled(first, jax.random.key(1))


def bare_native_program(world: AntWorld, num_worlds: int, num_steps: int):
    """`mujoco.rollout` over the same number of physics steps."""
    model, threads = world.model, available_cores()
    data = [mujoco.MjData(model) for _ in range(threads)]
    pool = mujoco_rollout.Rollout(nthread=threads if threads > 1 else 0)
    kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
    keys = jax.random.split(jax.random.key(0), num_worlds)
    physics = jax.vmap(lambda key: world.reset(key, world.post_training_task)[0].physics)(keys)
    initial = np.zeros((num_worlds, mujoco.mj_stateSize(model, kind)))
    initial[:, 1 : 1 + model.nq + model.nv] = np.concatenate([physics.qpos, physics.qvel], axis=1)
    steps = num_steps * world.config.frame_skip
    control = np.random.default_rng(0).uniform(-1, 1, (num_worlds, num_steps, model.nu))
    control = np.repeat(control, world.config.frame_skip, axis=1)
    models = [model] * num_worlds

    def run():
        return pool.rollout(models, data, initial, control, nstep=steps)[0][:, -1]

    return run


def bare_mjx_program(world: AntWorld, num_worlds: int, num_steps: int):
    """`mjx.step` over a batch, with nothing around it."""
    from mujoco import mjx

    model = mjx.put_model(world.model)
    keys = jax.random.split(jax.random.key(0), num_worlds)
    physics = jax.vmap(lambda key: world.reset(key, world.post_training_task)[0].physics)(keys)

    def place(qpos, qvel):
        return mjx.make_data(model).replace(qpos=qpos, qvel=qvel)

    data = jax.jit(jax.vmap(place))(physics.qpos, physics.qvel)

    def run(data, key):
        def step(data, key):
            control = jax.random.uniform(key, (num_worlds, model.nu), minval=-1, maxval=1)
            data = data.replace(ctrl=control)
            step_all = jax.vmap(lambda one: mjx.step(model, one))
            return jax.lax.fori_loop(0, world.config.frame_skip, lambda _, d: step_all(d), data), 0

        return jax.lax.scan(step, data, jax.random.split(key, num_steps))[0].qpos

    compiled = jax.jit(run)
    return lambda: compiled(data, jax.random.key(1))


def benchmark(stopwatch: Stopwatch) -> dict:
    """Control steps per second of both physics, bare and in the world, and their ratios."""
    native, mjx = (AntWorld(AntWorldConfig(physics=kind)) for kind in ("native", "mjx"))
    on_cpu = jax.default_backend() == "cpu"
    mjx_size = MJX_ON_CPU if on_cpu else MJX_ON_ACCELERATOR
    programs = {
        "mjx": (world_program(mjx, *mjx_size), mjx_size),
        "bare_mjx": (bare_mjx_program(mjx, *mjx_size), mjx_size),
        "native": (world_program(native, *NATIVE), NATIVE),
        "bare_native": (bare_native_program(native, *NATIVE), NATIVE),
    }
    timings = stopwatch.measure({name: run for name, (run, _) in programs.items()}, "ant")
    rates = {name: timings[name].rate(np.prod(size)) for name, (_, size) in programs.items()}
    result = {
        name: {"worlds": size[0], "steps": size[1], "control_steps_per_second": rates[name]}
        for name, (_, size) in programs.items()
    }
    return result | {
        "frame_skip": native.config.frame_skip,
        "native_share_of_bare": rates["native"] / rates["bare_native"],
        "mjx_share_of_bare": rates["mjx"] / rates["bare_mjx"],
        "native_to_mjx": rates["native"] / rates["mjx"],
    }
