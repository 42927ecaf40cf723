"""Pictures of the ant, or one line that says what is missing."""

import ctypes.util
import sys
import types

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from internal_rl.envs import ant_render
from internal_rl.envs.ant import AntWorld, AntWorldConfig
from internal_rl.envs.ant_body import STANDING_JOINTS, ant_model, scene_model
from internal_rl.envs.render import code_panel

OBJECTS, WALLS = np.array([0, 3, 12, 15]), np.array([5])


@pytest.fixture
def world():
    return AntWorld(AntWorldConfig(physics="native"))


def test_scene_moves_as_the_world_does(world):
    centres = (np.asarray(world.centre_of(cells)) for cells in (OBJECTS, WALLS))
    scene, plain = scene_model(*centres, world.config.cell_size, 4), ant_model()
    assert (scene.nq, scene.nv) == (plain.nq, plain.nv)
    # Colours, a wall and the lines between cells.
    added = [f"colour_{i}" for i in range(4)] + ["wall_0"]
    added += [f"{line}_{i}" for line in ("row", "column") for i in range(5)]
    assert scene.ngeom == plain.ngeom + len(added)
    for name in added:
        assert scene.geom(name).contype == 0 and scene.geom(name).conaffinity == 0
    assert scene.geom("row_0").pos[1] == -4 and scene.geom("column_4").pos[0] == 4
    np.testing.assert_allclose(scene.geom("colour_0").pos[:2], [-3, 3])
    np.testing.assert_allclose(scene.body_mass, plain.body_mass)


def test_frames_show_ant_and_colours_where_a_library_draws(world):
    qpos = np.tile([0, 0, 0.55, 1, 0, 0, 0, *STANDING_JOINTS], (2, 1))
    qpos[1, 0] = 2.0
    try:
        frames = ant_render.render_frames(world, OBJECTS, WALLS, qpos)
    except ant_render.RenderError as error:
        pytest.skip(str(error))
    assert len(frames) == 2 and frames[0].shape == (360, 480, 3)
    # The ant stands in the middle of the first one; its colours lie in the corners.
    moved = np.abs(frames[0].astype(int) - frames[1]).sum(-1) > 60
    assert moved[120:240, 180:420].any() and not moved[:60].any() and not moved[-60:].any()
    upper_left, upper_right = frames[0][:150, :240], frames[0][:150, 240:]
    blue, orange = ((0, 2), (2, 0))
    for corner, (less, more) in ((upper_left, blue), (upper_right, orange)):
        assert (corner[..., more].astype(int) - corner[..., less] > 80).mean() > 0.03


def test_machine_that_cannot_draw_is_told_what_to_install(world, monkeypatch):
    def fail(width, height):
        raise RuntimeError("no library")

    monkeypatch.setattr(ant_render, "_gl_context", fail)
    qpos = np.array([[0, 0, 0.55, 1, 0, 0, 0, *STANDING_JOINTS]])
    with pytest.raises(ant_render.RenderError, match="libegl1.*MUJOCO_GL=egl.*no library"):
        ant_render.render_frames(world, OBJECTS, WALLS, qpos)


@pytest.mark.parametrize(
    ("libraries", "variables", "chosen"),
    [
        (("EGL", "OSMesa"), {}, "egl"),
        (("OSMesa",), {}, "osmesa"),
        ((), {}, "default"),
        (("EGL",), {"DISPLAY": ":0"}, "default"),
        (("EGL",), {"MUJOCO_GL": "osmesa"}, "default"),
    ],
)
def test_without_a_display_egl_draws_or_else_osmesa(monkeypatch, libraries, variables, chosen):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: name in libraries or None)
    for name in ("egl", "osmesa"):
        module = types.SimpleNamespace(GLContext=lambda *size, name=name: (name, size))
        monkeypatch.setitem(sys.modules, f"mujoco.{name}", module)
    monkeypatch.setattr(mujoco, "GLContext", lambda *size: ("default", size))
    assert ant_render._gl_context(480, 360) == (chosen, (480, 360))


def test_frames_show_the_postures_and_cells_that_were_observed(world, monkeypatch):
    shown = {}

    def record(world, objects, walls, qpos):
        shown.update(objects=objects, walls=walls, qpos=qpos)
        return [np.zeros((360, 480, 3), np.uint8)] * len(qpos)

    monkeypatch.setattr(ant_render, "render_frames", record)
    keys = jax.random.split(jax.random.key(0), 5)
    bodies = [world.sample_body(key, jnp.int32(6)) for key in keys]
    states = [world.reset_to(OBJECTS, WALLS, body, world.post_training_task) for body in bodies]
    observations = np.stack([timestep.observation for _, timestep in states])
    frames = ant_render.frames_of_observations(world, observations, every=2)
    assert len(frames) == 3
    np.testing.assert_array_equal(shown["objects"], OBJECTS)
    np.testing.assert_array_equal(shown["walls"], WALLS)
    expected = [bodies[i].qpos for i in (0, 2, 4)]
    np.testing.assert_allclose(shown["qpos"], expected, atol=1e-5)
    beta, code = np.linspace(0, 1, 5), np.arange(10.0).reshape(5, 2)
    frames = ant_render.frames_of_observations(world, observations, every=2, beta=beta, code=code)
    for frame, time in zip(frames, (0, 2, 4), strict=True):
        np.testing.assert_array_equal(frame[:, 480:], code_panel(beta, code, time, 360))
    with pytest.raises(ValueError, match="one of them is missing"):
        ant_render.frames_of_observations(world, observations, every=2, beta=beta)
    # The last one is shown wherever the others fall.
    assert len(ant_render.frames_of_observations(world, observations, every=3)) == 3
    np.testing.assert_allclose(shown["qpos"], [bodies[i].qpos for i in (0, 3, 4)], atol=1e-5)
