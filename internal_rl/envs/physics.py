"""The physics step of a MuJoCo world, twice: MJX for accelerators and native MuJoCo for CPUs.

A maker returns a function `physics(model, state, control) -> state` that advances one world by one
control step of `frame_skip` physics steps. Both are pure, jittable and vmappable. Every control
step starts the constraint solver afresh, so that positions and velocities are the whole state and a
run that was cut off goes on with the same bits.
"""

import contextlib
import functools
import io
import threading
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from absl import logging
from flax import struct

from internal_rl.backend import exact_products, on_cpu
from internal_rl.errors import ConfigError
from internal_rl.host_threads import available_cores, warn_of_host_threads

KINDS = ("auto", "mjx", "native")
_FULL_PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS


@struct.dataclass
class PhysicsState:
    """All that a control step depends on.

    Attributes:
      qpos: `(nq,)` float32 generalised positions, in metres and radians; quaternions `w, x, y, z`.
      qvel: `(nv,)` float32 generalised velocities, in metres and radians per second.
    """

    qpos: chex.Array
    qvel: chex.Array


Physics = Callable[[mujoco.MjModel, PhysicsState, chex.Array], PhysicsState]


def make_physics(kind: str, frame_skip: int) -> Physics:
    """The physics function of a kind.

    Args:
      kind: `"mjx"`, `"native"`, or `"auto"`, which takes native physics where jax computes on a CPU
        and MJX elsewhere; where that one is not installed it warns and takes the other.
      frame_skip: physics steps in a control step.

    Raises:
      ValueError: for an unknown kind.
      ConfigError: if the kind asked for is not installed, or for `"auto"` neither is.
    """
    if kind not in KINDS:
        raise ValueError(f"physics is '{kind}', allowed are {', '.join(KINDS)}")
    makers = {"native": native_physics, "mjx": mjx_physics}
    if kind != "auto":
        return makers[kind](frame_skip)
    first, second = makers if on_cpu() else reversed(makers)
    try:
        return makers[first](frame_skip)
    except ConfigError as missing:
        logging.warning("physics 'auto' takes '%s' here: %s", second, missing)
        return makers[second](frame_skip)


def quiet_import() -> contextlib.redirect_stdout:
    """Keeps from the standard output that MJX lacks Warp, which nothing here needs."""
    return contextlib.redirect_stdout(io.StringIO())


def _own_device() -> jax.Device:
    """Where MJX may put things: its own choice, the first device of all, may be another host's."""
    return jax.local_devices()[0]


def mjx_physics(frame_skip: int) -> Physics:
    """Physics by MJX, compiled into the program that calls it, with exact products everywhere.

    Raises:
      ConfigError: if MJX is not installed.
    """
    try:
        with quiet_import():
            from mujoco import mjx
    except ImportError:
        raise ConfigError(
            "physics 'mjx' needs mujoco-mjx, which is not installed: pip install mujoco-mjx, or "
            "choose 'native'"
        ) from None

    if on_cpu():
        warn_of_host_threads()

    @functools.lru_cache(maxsize=4)
    def on_host(model):
        # Arrays of NumPy: those of jax would belong to the trace in which they happen to be made
        # first, or to a device, and programs for another one could not hold them.
        with jax.ensure_compile_time_eval():
            return jax.tree.map(np.asarray, mjx.put_model(model, device=_own_device()))

    def physics(model: mujoco.MjModel, state: PhysicsState, control: chex.Array) -> PhysicsState:
        device_model = jax.tree.map(jnp.asarray, on_host(model))
        data = mjx.make_data(device_model, device=_own_device())
        data = data.replace(qpos=state.qpos, qvel=state.qvel, ctrl=control)
        # Rounded factors would make the solver of contacts another one on every accelerator.
        with exact_products():
            data = jax.lax.fori_loop(
                0, frame_skip, lambda _, data: mjx.step(device_model, data), data
            )
        return PhysicsState(data.qpos, data.qvel)

    return physics


def native_physics(frame_skip: int, num_threads: int | None = None) -> Physics:
    """Physics by `mujoco.rollout` on threads behind a callback.

    Args:
      frame_skip: physics steps in a control step.
      num_threads: threads of the pool; one per available core by default.

    Raises:
      ConfigError: if this MuJoCo has no rollouts on threads.
    """
    try:
        from mujoco.rollout import Rollout
    except ImportError:
        raise ConfigError(
            "physics 'native' needs mujoco.rollout.Rollout, which this mujoco lacks: "
            "pip install -U mujoco, or choose 'mjx'"
        ) from None
    threads = num_threads or available_cores()
    pools = {}
    lock = threading.Lock()

    def pool_of(model):
        if id(model) not in pools:
            # Keeps the model too, so that its id stays its own.
            pools[id(model)] = _ThreadPool(Rollout, model, frame_skip, threads)
        return pools[id(model)]

    def physics(model: mujoco.MjModel, state: PhysicsState, control: chex.Array) -> PhysicsState:
        def host_step(qpos, qvel, control):
            with lock:
                return pool_of(model).step(qpos, qvel, control)

        shapes = tuple(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (state.qpos, state.qvel))
        return PhysicsState(
            *jax.pure_callback(
                host_step, shapes, state.qpos, state.qvel, control, vmap_method="broadcast_all"
            )
        )

    return physics


class _ThreadPool:
    """Threads, with a `MjData` each, that step batches of worlds of one model."""

    def __init__(self, rollout: type, model: mujoco.MjModel, frame_skip: int, num_threads: int):
        self._model = model
        self._frame_skip = frame_skip
        self._data = [mujoco.MjData(model) for _ in range(num_threads)]
        self._rollout = rollout(nthread=num_threads if num_threads > 1 else 0)
        self._state_size = mujoco.mj_stateSize(model, _FULL_PHYSICS)
        # Time first, then positions and velocities; the rest is zero.
        self._qpos = slice(1, 1 + model.nq)
        self._qvel = slice(1 + model.nq, 1 + model.nq + model.nv)

    def step(self, qpos, qvel, control) -> tuple[np.ndarray, np.ndarray]:
        """Steps worlds with any leading axes: `(..., nq)`, `(..., nv)`, `(..., nu)`."""
        qpos, qvel, control = (np.asarray(x) for x in (qpos, qvel, control))
        lead = qpos.shape[:-1]
        num_worlds = int(np.prod(lead))
        initial = np.zeros((num_worlds, self._state_size))
        initial[:, self._qpos] = qpos.reshape(num_worlds, -1)
        initial[:, self._qvel] = qvel.reshape(num_worlds, -1)
        controls = np.broadcast_to(
            control.reshape(num_worlds, 1, -1).astype(np.float64),
            (num_worlds, self._frame_skip, self._model.nu),
        )
        states, _ = self._rollout.rollout(
            [self._model] * num_worlds,
            self._data,
            initial,
            np.ascontiguousarray(controls),
            nstep=self._frame_skip,
        )
        last = states[:, -1].astype(np.float32)
        return (
            np.ascontiguousarray(last[:, self._qpos]).reshape(*lead, -1),
            np.ascontiguousarray(last[:, self._qvel]).reshape(*lead, -1),
        )
