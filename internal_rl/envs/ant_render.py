"""Pictures of the ant: frames through MuJoCo's renderer, and layouts from above."""

import mujoco
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

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


def draw_layout(axes: Axes, world: AntWorld, objects: np.ndarray, walls: np.ndarray) -> None:
    """The grid from above: cells, coloured cells with their numbers, walls; axes in metres."""
    size, half = world.config.cell_size, world.half_side
    things = [(cell, ant_body.COLOURS[i % len(ant_body.COLOURS)]) for i, cell in enumerate(objects)]
    things += [(cell, (0.35, 0.35, 0.35)) for cell in walls]
    for cell, colour in things:
        corner = np.asarray(world.centre_of(np.asarray(cell))) - size / 2
        axes.add_patch(Rectangle(corner, size, size, facecolor=colour, alpha=0.5, linewidth=0))
    for number, cell in enumerate(objects):
        x, y = np.asarray(world.centre_of(np.asarray(cell)))
        axes.text(x, y, str(number), ha="center", va="center", fontsize=11, color="0.2")
    lines = np.arange(world.config.grid_size + 1) * size - half
    for place in lines:
        axes.plot([place, place], [-half, half], color="0.8", linewidth=0.6, zorder=0)
        axes.plot([-half, half], [place, place], color="0.8", linewidth=0.6, zorder=0)
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xlabel="x (m)", ylabel="y (m)")
