"""Pictures of the ant, or one line that says what is missing."""

import numpy as np
import pytest
from matplotlib.figure import Figure

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


def test_layout_from_above_shows_every_thing_in_its_cell(world):
    axes = Figure().subplots()
    ant_render.draw_layout(axes, world, OBJECTS, WALLS)
    corners = [tuple(patch.get_xy()) for patch in axes.patches]
    assert corners == [(-4, 2), (2, 2), (-4, -4), (2, -4), (-2, 0)]
    assert [text.get_text() for text in axes.texts] == ["0", "1", "2", "3"]
    assert axes.get_xlim() == (-4, 4)
