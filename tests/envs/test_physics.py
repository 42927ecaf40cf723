"""Both physics make the same trajectories, batched or not."""

import sys

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from internal_rl.backend import traced_for
from internal_rl.envs import physics as physics_module
from internal_rl.envs.ant_body import STANDING_JOINTS, ant_model
from internal_rl.envs.physics import PhysicsState, make_physics, native_physics
from internal_rl.errors import ConfigError
from internal_rl.host_threads import SAFE_NUM_THREADS
from tests.products import HIGHEST, precisions_of

FRAME_SKIP = 5


def standing(height):
    qpos = jnp.array([0.3, -0.2, height, 1.0, 0.0, 0.0, 0.0, *STANDING_JOINTS])
    return PhysicsState(qpos, jnp.zeros(14))


def trajectory(physics, state, controls):
    def step(state, control):
        state = physics(ant_model(), state, control)
        return state, state

    return jax.device_get(jax.jit(lambda: jax.lax.scan(step, state, controls)[1])())


def random_controls(num_steps, seed=0):
    return jax.random.uniform(jax.random.key(seed), (num_steps, 8), minval=-1.0, maxval=1.0)


def test_native_physics_is_plain_mujoco():
    controls = np.asarray(random_controls(20))
    states = trajectory(native_physics(FRAME_SKIP), standing(0.55), jnp.asarray(controls))
    model = ant_model()
    data = mujoco.MjData(model)
    qpos, qvel = (np.asarray(x) for x in (standing(0.55).qpos, standing(0.55).qvel))
    for i, control in enumerate(controls):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, control
        for _ in range(FRAME_SKIP):
            mujoco.mj_step(model, data)
        qpos, qvel = data.qpos.astype(np.float32), data.qvel.astype(np.float32)
        np.testing.assert_array_equal(states.qpos[i], qpos)
        np.testing.assert_array_equal(states.qvel[i], qvel)


def test_mjx_follows_native_physics():
    controls = random_controls(20)
    native, mjx = (make_physics(kind, FRAME_SKIP) for kind in ("native", "mjx"))
    # 0.4 s of free fall and 1 s with contacts; later, small differences grow with every impact.
    falling = [trajectory(physics, standing(3.0), controls[:8]) for physics in (native, mjx)]
    np.testing.assert_allclose(*(states.qpos for states in falling), atol=1e-5)
    np.testing.assert_allclose(*(states.qvel for states in falling), atol=1e-4)
    walking = [trajectory(physics, standing(0.55), controls) for physics in (native, mjx)]
    np.testing.assert_allclose(*(states.qpos for states in walking), atol=1e-3)
    np.testing.assert_allclose(*(states.qvel for states in walking), atol=2e-2)


def test_a_batch_is_a_row_of_single_worlds():
    physics = native_physics(FRAME_SKIP, num_threads=2)
    heights = jnp.array([[0.5, 0.6, 0.7], [0.8, 0.9, 3.0]])
    states = jax.vmap(jax.vmap(standing))(heights)
    controls = jax.random.uniform(jax.random.key(1), (2, 3, 8))
    step = jax.jit(lambda state, control: physics(ant_model(), state, control))
    batched = jax.jit(jax.vmap(jax.vmap(step)))(states, controls)
    for i in range(2):
        for j in range(3):
            one = step(standing(heights[i, j]), controls[i, j])
            np.testing.assert_array_equal(batched.qpos[i, j], one.qpos)
            np.testing.assert_array_equal(batched.qvel[i, j], one.qvel)


def test_native_physics_does_not_hide_divergence():
    state = standing(0.55)
    state = state.replace(qvel=state.qvel.at[0].set(jnp.nan))
    after = jax.jit(lambda s: native_physics(FRAME_SKIP)(ant_model(), s, jnp.zeros(8)))(state)
    assert not np.isfinite(after.qpos).all()


def test_unknown_physics_is_refused():
    with pytest.raises(ValueError, match="physics is 'bullet', allowed are auto, mjx, native"):
        make_physics("bullet", 5)


def hide(monkeypatch, module):
    """Makes `mujoco.<module>` a package that is not installed."""
    monkeypatch.delattr(mujoco, module, raising=False)
    monkeypatch.setitem(sys.modules, f"mujoco.{module}", None)


@pytest.mark.parametrize(
    ("module", "kind", "package"), [("mjx", "mjx", "mujoco-mjx"), ("rollout", "native", "mujoco")]
)
def test_physics_that_is_not_installed_is_refused_by_name(monkeypatch, module, kind, package):
    hide(monkeypatch, module)
    with pytest.raises(ConfigError, match=f"physics '{kind}' needs .*pip install .*{package}"):
        make_physics(kind, FRAME_SKIP)


@pytest.mark.parametrize(
    ("backend", "module", "taken"), [("gpu", "mjx", "native"), ("cpu", "rollout", "mjx")]
)
def test_auto_takes_the_physics_that_is_there(monkeypatch, caplog, backend, module, taken):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    makers = {kind: f"{kind}_physics" for kind in ("mjx", "native")}
    present = next(kind for kind in makers if kind != taken)
    with monkeypatch.context() as everything:
        for kind, maker in makers.items():
            everything.setattr(physics_module, maker, lambda frame_skip, kind=kind: kind)
        assert make_physics("auto", FRAME_SKIP) == present
    monkeypatch.setattr(physics_module, makers[taken], lambda frame_skip: taken)
    hide(monkeypatch, module)
    assert make_physics("auto", FRAME_SKIP) == taken
    assert f"physics 'auto' takes '{taken}' here" in caplog.text


def test_auto_is_refused_where_no_physics_is_installed(monkeypatch):
    hide(monkeypatch, "mjx")
    hide(monkeypatch, "rollout")
    with pytest.raises(ConfigError, match="pip install"):
        make_physics("auto", FRAME_SKIP)


def test_mjx_keeps_to_the_devices_of_its_own_host(monkeypatch):
    asked = []
    with monkeypatch.context() as elsewhere:
        # The first device of all may be one that this process cannot reach.
        elsewhere.setattr(jax, "devices", lambda *kind: asked.append(kind) or [None])
        physics = make_physics("mjx", 1)
        jax.make_jaxpr(lambda control: physics(ant_model(), standing(0.55), control))(jnp.zeros(8))
    assert not asked


def test_products_of_mjx_are_exact_on_accelerators():
    physics = make_physics("mjx", 1)

    def step(control):
        return physics(ant_model(), standing(0.55), control)

    with traced_for("gpu"):
        assert precisions_of(step, jnp.zeros(8)) == {HIGHEST}


@pytest.mark.slow
def test_an_mjx_step_has_fewer_factorisations_side_by_side_than_the_guard_has_threads():
    physics = make_physics("mjx", 1)
    states = jax.tree.map(lambda x: jnp.stack([x] * 64), standing(0.55))
    step = jax.jit(jax.vmap(lambda state, control: physics(ant_model(), state, control)))
    program = step.lower(states, random_controls(64)).compile().as_text()
    # Computations (loop bodies, the entry) run one after the other.
    counts = [part.count('custom_call_target="lapack_spotrf') for part in program.split("\n\n")]
    assert 1 <= max(counts) < SAFE_NUM_THREADS
