"""The ant's body: brax's description, edited, and what a renderer adds to it."""

import functools
import importlib.util
import pathlib

import mujoco
import numpy as np

from internal_rl.colours import fill_colour
from internal_rl.errors import ConfigError

NUM_TORQUES = 8
STANDING_HEIGHT = 0.55
# Hip and ankle of each leg in the order of the joints, radians (`init_qpos` of the description).
STANDING_JOINTS = (0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0)
WALL_HEIGHT = 0.5
# Red, green, blue and opacity of what a renderer shows.
FLOOR, LINE, WALL = (0.93, 0.93, 0.92, 1.0), (0.7, 0.7, 0.7, 1.0), (0.35, 0.35, 0.35, 1.0)
LINE_WIDTH, LINE_HEIGHT = 0.05, 0.02


def _description() -> pathlib.Path:
    # To import brax would take seconds, and print what it misses.
    package = importlib.util.find_spec("brax")
    if package is None:
        raise ConfigError("the ant's description comes with brax: pip install brax")
    return pathlib.Path(package.origin).parent / "envs" / "assets" / "ant.xml"


def _edited() -> mujoco.MjSpec:
    """The ant on a plane; only its feet and the floor touch, as in the description."""
    spec = mujoco.MjSpec.from_file(str(_description()))
    # A simulation that diverges has to be seen, not reset behind the world's back.
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return spec


@functools.lru_cache(maxsize=1)
def ant_model() -> mujoco.MjModel:
    """The model that worlds simulate: 15 positions, 14 velocities, 8 torques in [-1, 1]."""
    return _edited().compile()


def scene_model(
    colour_centres: np.ndarray,
    wall_centres: np.ndarray,
    cell_size: float,
    grid_size: int,
    *,
    width: int = 640,
    height: int = 480,
) -> mujoco.MjModel:
    """The ant in a layout, to look at: coloured cells, walls and lines that touch nothing.

    Args:
      colour_centres: `(O, 2)` in metres; geoms `colour_0`, `colour_1`, ...
      wall_centres: `(W, 2)` in metres; geoms `wall_0`, ...
      cell_size: side of a cell, in metres.
      grid_size: side `G` of the grid, in cells; its centre is the origin.
      width: largest width of a picture, in pixels.
      height: largest height of a picture, in pixels.
    """
    spec = _edited()
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    # The description's lights wash light colours out.
    spec.visual.headlight.ambient[:], spec.visual.headlight.diffuse[:] = 0.35, 0.0
    spec.lights[0].diffuse[:] = 0.6
    floor = spec.geom("floor")
    floor.material, floor.rgba = "", FLOOR

    def add_box(name, centre, sides, box_height, rgba):
        spec.worldbody.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[*centre, box_height / 2],
            size=[sides[0] / 2, sides[1] / 2, box_height / 2],
            rgba=rgba,
            contype=0,
            conaffinity=0,
        )

    for i, centre in enumerate(colour_centres):
        rgba = (*(part / 255 for part in fill_colour(i, len(colour_centres))), 1.0)
        add_box(f"colour_{i}", centre, (cell_size, cell_size), 0.01, rgba)
    for i, centre in enumerate(wall_centres):
        add_box(f"wall_{i}", centre, (cell_size, cell_size), WALL_HEIGHT, WALL)
    side = grid_size * cell_size
    for i in range(grid_size + 1):
        place = i * cell_size - side / 2
        add_box(f"column_{i}", (place, 0.0), (LINE_WIDTH, side), LINE_HEIGHT, LINE)
        add_box(f"row_{i}", (0.0, place), (side, LINE_WIDTH), LINE_HEIGHT, LINE)
    return spec.compile()
