"""Pictures of the ant through MuJoCo's renderer."""

import contextlib
import ctypes.util
import os
import sys

import jax
import mujoco
import numpy as np

from internal_rl.envs import ant_body
from internal_rl.envs.ant import AntWorld
from internal_rl.envs.render import check_log, code_panel
from internal_rl.errors import UserError

FRAME_SIZE = (480, 360)
# Room for the scene: the ant, its cells and lines, and the labels of colours.
MAX_GEOMS = 1_000


class RenderError(UserError):
    """Pictures were asked for, but the machine has no library that draws them."""


def _gl_context(width: int, height: int):
    """MuJoCo's choice, or what draws without a display where there is none."""
    chosen = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in chosen):
        if ctypes.util.find_library("EGL"):
            from mujoco.egl import GLContext

            return GLContext(width, height)
        if ctypes.util.find_library("OSMesa"):
            from mujoco.osmesa import GLContext

            return GLContext(width, height)
    return mujoco.GLContext(width, height)


@contextlib.contextmanager
def _renderer(model: mujoco.MjModel, width: int, height: int):
    """Gives `draw(scene) -> (height, width, 3)` uint8.

    `mujoco.Renderer` would leave no choice of the library after the import of MuJoCo.

    Raises:
      RenderError: nothing can be drawn.
    """
    try:
        gl = _gl_context(width, height)
        gl.make_current()
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    except Exception as error:
        raise RenderError(
            "pictures of the ant need EGL (libegl1) or OSMesa (libosmesa6), and MUJOCO_GL=egl or"
            " MUJOCO_GL=osmesa in the environment before the start where there is a display;"
            f" MuJoCo says: {type(error).__name__}: {error}"
        ) from error
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    viewport = mujoco.MjrRect(0, 0, width, height)

    def draw(scene):
        frame = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(viewport, scene, context)
        mujoco.mjr_readPixels(frame, None, viewport, context)
        # OpenGL counts rows from below.
        return frame[::-1].copy()

    try:
        yield draw
    finally:
        context.free()
        gl.free()


def render_frames(
    world: AntWorld, objects: np.ndarray, walls: np.ndarray, qpos: np.ndarray
) -> list[np.ndarray]:
    """Frames of an episode, seen from above at a slant; coloured cells carry their numbers.

    Draws by the library that MUJOCO_GL names; without it by EGL or else OSMesa where Linux has no
    display.

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
    size = world.config.cell_size
    centres = [np.asarray(world.centre_of(np.asarray(cells))) for cells in (objects, walls)]
    model = ant_body.scene_model(*centres, size, world.config.grid_size, width, height)
    camera = mujoco.MjvCamera()
    # A little below the centre, since what is near looks larger.
    camera.lookat[:] = 0.0, -0.08 * world.half_side, 0.0
    camera.distance, camera.elevation, camera.azimuth = 2.75 * world.half_side, -70.0, 90.0
    data, option = mujoco.MjData(model), mujoco.MjvOption()
    scene = mujoco.MjvScene(model, MAX_GEOMS)
    frames = []
    with _renderer(model, width, height) as draw:
        for positions in qpos:
            data.qpos[:] = positions
            mujoco.mj_forward(model, data)
            everything = mujoco.mjtCatBit.mjCAT_ALL
            mujoco.mjv_updateScene(model, data, option, None, camera, everything, scene)
            for number, centre in enumerate(centres[0]):
                _add_label(scene, str(number), (*(centre + 0.32 * size * np.array([-1, 1])), 0.02))
            frames.append(draw(scene))
    return frames


def _add_label(scene: mujoco.MjvScene, label: str, place: tuple[float, float, float]) -> None:
    """Writes at `place`, in metres."""
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(
        geom,
        mujoco.mjtGeom.mjGEOM_LABEL,
        np.zeros(3),
        np.asarray(place, np.float64),
        np.eye(3).ravel(),
        np.array([0.1, 0.1, 0.1, 1.0], np.float32),
    )
    geom.label = label
    scene.ngeom += 1


def frames_of_observations(
    world: AntWorld,
    observations: np.ndarray,
    every: int = 1,
    beta: np.ndarray | None = None,
    code: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Frames of an episode from what was observed, see `render_frames`.

    Args:
      world: the world.
      observations: `(T, d)` of one episode.
      every: control steps from frame to frame.
      beta: `(T,)` switching gate of each step, shown in a panel with the code.
      code: `(T, n_z)` code that was active in each step.

    Raises:
      ValueError: if only one of beta and code is given or their lengths do not fit.
      RenderError: see `render_frames`.
    """
    check_log(len(observations), beta, code)
    scene = world.scene(observations[0])
    objects, walls = (
        np.asarray(jax.vmap(world.cell_of)(centres * world.config.cell_size))
        for centres in (scene.colours, scene.walls)
    )
    postures = np.asarray(world.posture(observations[::every]))
    frames = render_frames(world, objects, walls, postures)
    if beta is None:
        return frames
    times = [min(every * i, len(beta) - 1) for i in range(len(frames))]
    panels = [code_panel(beta, code, time, FRAME_SIZE[1]) for time in times]
    return [np.concatenate(pair, axis=1) for pair in zip(frames, panels, strict=True)]
