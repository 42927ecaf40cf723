"""Pictures of the ant through MuJoCo's renderer."""

import jax
import mujoco
import numpy as np

from internal_rl.envs import ant_body
from internal_rl.envs.ant import AntWorld
from internal_rl.errors import UserError

FRAME_SIZE = (480, 360)


class RenderError(UserError):
    """Pictures were asked for, but the machine has no library that draws them."""


def render_frames(
    world: AntWorld, objects: np.ndarray, walls: np.ndarray, qpos: np.ndarray
) -> list[np.ndarray]:
    """Frames of an episode through MuJoCo's renderer.

    Args:
      world: the world.
      objects: `(O,)` cells of the colours.
      walls: `(W,)` cells of the walls.
      qpos: `(N, 15)` positions, one frame each.

    Returns:
      `N` frames `(360, 480, 3)` uint8.

    Raises:
      RenderError: neither EGL nor OSMesa nor a display is there, or MUJOCO_GL names another one.
    """
    width, height = FRAME_SIZE
    centres = (np.asarray(world.centre_of(np.asarray(cells))) for cells in (objects, walls))
    model = ant_body.scene_model(*centres, world.config.cell_size, width, height)
    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:
        raise RenderError(
            "pictures of the ant need EGL (libegl1) or OSMesa (libosmesa6), and MUJOCO_GL=egl or"
            " MUJOCO_GL=osmesa in the environment before the start; MuJoCo says:"
            f" {type(error).__name__}: {error}"
        ) from error
    camera = mujoco.MjvCamera()
    camera.lookat[:] = 0.0
    camera.distance, camera.elevation, camera.azimuth = 3.2 * world.half_side, -60.0, 90.0
    data = mujoco.MjData(model)
    frames = []
    with renderer:
        for positions in qpos:
            data.qpos[:] = positions
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera)
            frames.append(renderer.render().copy())
    return frames


def frames_of_observations(
    world: AntWorld, observations: np.ndarray, every: int = 1
) -> list[np.ndarray]:
    """Frames of an episode from what was observed, see `render_frames`.

    Args:
      world: the world.
      observations: `(T, d)` of one episode.
      every: control steps from frame to frame.
    """
    scene = world.scene(observations[0])
    objects, walls = (
        np.asarray(jax.vmap(world.cell_of)(centres * world.config.cell_size))
        for centres in (scene.colours, scene.walls)
    )
    return render_frames(world, objects, walls, np.asarray(world.posture(observations[::every])))
