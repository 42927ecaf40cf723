"""Pictures of the ant through MuJoCo's renderer."""

import contextlib
import ctypes.util
import importlib
import os
import sys

import jax
import mujoco
import numpy as np

from internal_rl.envs import ant_body
from internal_rl.envs.ant import AntWorld
from internal_rl.envs.render import add_panels, check_log
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
        for library in ("EGL", "OSMesa"):
            if ctypes.util.find_library(library):
                module = importlib.import_module(f"mujoco.{library.lower()}")
                return module.GLContext(width, height)
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
    model = ant_body.scene_model(*centres, size, world.config.grid_size, width=width, height=height)
    camera = mujoco.MjvCamera()
    # A little below the centre, since what is near looks larger.
    camera.lookat[:] = 0.0, -0.08 * world.half_side, 0.0
    camera.distance, camera.elevation, camera.azimuth = 2.75 * world.half_side, -70.0, 90.0
    data, option = mujoco.MjData(model), mujoco.MjvOption()
    scene, everything = mujoco.MjvScene(model, MAX_GEOMS), mujoco.mjtCatBit.mjCAT_ALL
    # In the upper left corner of their cells, above the lines.
    labels = [np.array([x - 0.32 * size, y + 0.32 * size, 0.02]) for x, y in centres[0]]
    frames = []
    with _renderer(model, width, height) as draw:
        for positions in qpos:
            data.qpos[:] = positions
            mujoco.mj_forward(model, data)
            mujoco.mjv_updateScene(model, data, option, None, camera, everything, scene)
            for number, place in enumerate(labels):
                _add_label(scene, str(number), place)
            frames.append(draw(scene))
    return frames


def _add_label(scene: mujoco.MjvScene, label: str, place: np.ndarray) -> None:
    """Writes at `place (3,)`, in metres."""
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(
        geom,
        mujoco.mjtGeom.mjGEOM_LABEL,
        np.zeros(3),
        place,
        np.eye(3).ravel(),
        np.array([0.1, 0.1, 0.1, 1.0], np.float32),
    )
    geom.label = label
    scene.ngeom += 1


def frames_of_observations(
    world: AntWorld,
    observations: np.ndarray,
    *,
    every: int = 1,
    beta: np.ndarray | None = None,
    code: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Frames of an episode from what was observed, see `render_frames`.

    Args:
      world: the world.
      observations: `(T, d)` of one episode.
      every: control steps from frame to frame; the last observation is shown in any case.
      beta: `(T,)` or, where the last observation is that after the last step, `(T - 1,)` switching
        gate of each step, shown in a panel with the code.
      code: `(T, n_z)` or `(T - 1, n_z)` code that was active in each step.

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
    last = len(observations) - 1
    postures = np.asarray(world.posture(observations[[*range(0, last, every), last]]))
    frames = render_frames(world, objects, walls, postures)
    return add_panels(frames, beta, code, every)
