"""Pictures of the ant, or one line that says what is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs import ant_render
from internal_rl.envs.ant import AntWorld, AntWorldConfig
from internal_rl.envs.ant_body import STANDING_JOINTS, ant_model, scene_model

OBJECTS, WALLS = np.array([0, 3, 12, 15]), np.array([5])


@pytest.fixture
def world():
    return AntWorld(AntWorldConfig(physics="native"))


def test_scene_moves_as_the_world_does(world):
    centres = (np.asarray(world.centre_of(cells)) for cells in (OBJECTS, WALLS))
    scene, plain = scene_model(*centres, world.config.cell_size), ant_model()
    assert scene.ngeom == plain.ngeom + 5 and (scene.nq, scene.nv) == (plain.nq, plain.nv)
    added = [scene.geom(f"colour_{i}") for i in range(4)] + [scene.geom("wall_0")]
    assert all(geom.contype == 0 and geom.conaffinity == 0 for geom in added)
    np.testing.assert_allclose(scene.geom("colour_0").pos[:2], [-3, 3])
    np.testing.assert_allclose(scene.body_mass, plain.body_mass)


def test_frames_or_a_message_that_says_what_to_install(world):
    qpos = np.tile([0, 0, 0.55, 1, 0, 0, 0, *STANDING_JOINTS], (2, 1))
    try:
        frames = ant_render.render_frames(world, OBJECTS, WALLS, qpos)
    except ant_render.RenderError as error:
        assert "libegl1" in str(error) and "MUJOCO_GL=egl" in str(error)
    else:
        assert len(frames) == 2 and frames[0].shape == (360, 480, 3) and frames[0].std() > 5


def test_frames_show_the_postures_and_cells_that_were_observed(world, monkeypatch):
    shown = {}

    def record(world, objects, walls, qpos):
        shown.update(objects=objects, walls=walls, qpos=qpos)
        return list(qpos)

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
