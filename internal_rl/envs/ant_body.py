"""The ant's body: brax's description, edited, and what a renderer adds to it."""

import functools
import importlib.util
import pathlib

import mujoco
import numpy as np

from internal_rl.errors import ConfigError

NUM_TORQUES = 8
STANDING_HEIGHT = 0.55
# Hip and ankle of each leg in the order of the joints, radians (`init_qpos` of the description).
STANDING_JOINTS = (0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0)
WALL_HEIGHT = 0.5
COLOURS = (
    (0.90, 0.30, 0.25),
    (0.25, 0.50, 0.90),
    (0.30, 0.70, 0.35),
    (0.95, 0.75, 0.20),
    (0.60, 0.35, 0.75),
    (0.95, 0.55, 0.20),
    (0.30, 0.75, 0.80),
    (0.85, 0.45, 0.65),
)


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
    width: int = 640,
    height: int = 480,
) -> mujoco.MjModel:
    """The ant in a layout, to look at: coloured cells and walls that touch nothing.

    Args:
      colour_centres: `(O, 2)` in metres.
      wall_centres: `(W, 2)` in metres.
      cell_size: side of a cell, in metres.
      width: largest width of a picture, in pixels.
      height: largest height of a picture, in pixels.
    """
    spec = _edited()
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    half = cell_size / 2
    plates = [
        (f"colour_{i}", centre, 0.01, (*COLOURS[i % len(COLOURS)], 1.0))
        for i, centre in enumerate(colour_centres)
    ]
    plates += [
        (f"wall_{i}", centre, WALL_HEIGHT / 2, (0.35, 0.35, 0.35, 1.0))
        for i, centre in enumerate(wall_centres)
    ]
    for name, centre, half_height, rgba in plates:
        spec.worldbody.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[*centre, half_height - 0.005],
            size=[0.97 * half, 0.97 * half, half_height],
            rgba=rgba,
            contype=0,
            conaffinity=0,
        )
    return spec.compile()
