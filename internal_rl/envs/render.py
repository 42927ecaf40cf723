"""Text, images and animations of grid worlds, from logged NumPy arrays."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from internal_rl.colours import fill_colour

_BACKGROUND, _LINE, _WALL, _AGENT = (250, 250, 248), (205, 205, 205), (70, 70, 70), (20, 20, 20)
_ACCENT, _POSITIVE, _NEGATIVE = (214, 69, 65), (66, 133, 200), (226, 140, 60)
_PANEL_WIDTH = 240


def text(objects: np.ndarray, walls: np.ndarray, cell: int, grid_size: int) -> str:
    """Draws the grid with characters: colours by number, walls `#`, the agent `@`.

    Args:
      objects: `(O,)` cells of the colours.
      walls: `(W,)` cells of the walls.
      cell: cell of the agent.
      grid_size: side `G` of the grid.

    Returns:
      `G` lines of `G` fields; an agent on a colour shows both, as in `@3`.
    """
    names = {int(place): str(colour) for colour, place in enumerate(objects)}
    names |= {int(place): "#" for place in walls}
    names[int(cell)] = "@" + names.get(int(cell), "")
    width = max(map(len, names.values()))
    fields = [names.get(place, ".").rjust(width) for place in range(grid_size**2)]
    rows = (fields[start : start + grid_size] for start in range(0, grid_size**2, grid_size))
    return "\n".join(" ".join(row) for row in rows)


def image(
    objects: np.ndarray, walls: np.ndarray, cell: int, grid_size: int, cell_pixels: int = 40
) -> np.ndarray:
    """Draws the grid as an RGB image.

    Args:
      objects: `(O,)` cells of the colours.
      walls: `(W,)` cells of the walls.
      cell: cell of the agent, a disc.
      grid_size: side `G` of the grid.
      cell_pixels: side of a cell in pixels.

    Returns:
      `(G * cell_pixels + 1, G * cell_pixels + 1, 3)` uint8.
    """
    side = grid_size * cell_pixels + 1
    canvas = Image.new("RGB", (side, side), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)

    def box(place, margin=0):
        row, column = divmod(int(place), grid_size)
        left, top = column * cell_pixels, row * cell_pixels
        far = cell_pixels - margin
        return left + margin, top + margin, left + far, top + far

    for place in range(grid_size**2):
        draw.rectangle(box(place), outline=_LINE)
    for place in walls:
        draw.rectangle(box(place), fill=_WALL)
    for colour, place in enumerate(objects):
        corners = box(place)
        draw.rectangle(corners, fill=fill_colour(colour, len(objects)), outline=_LINE)
        draw.text((corners[0] + 3, corners[1] + 1), str(colour), fill=_AGENT)
    draw.ellipse(box(cell, cell_pixels // 4), fill=_AGENT, outline=_BACKGROUND, width=2)
    return np.asarray(canvas)


def code_panel(beta: np.ndarray, code: np.ndarray, time: int, height: int) -> np.ndarray:
    """Draws the switching gate over time and the code that is active now.

    Args:
      beta: `(T,)` gate in [0, 1], drawn up to `time`.
      code: `(T, n_z)` active code; the bars of all steps share one scale.
      time: step to show, 0 to T - 1.
      height: height of the panel in pixels.

    Returns:
      `(height, 240, 3)` uint8.
    """
    canvas = Image.new("RGB", (_PANEL_WIDTH, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    left, right, middle = 12, _PANEL_WIDTH - 12, height // 2
    draw.text((left, 4), f"beta = {beta[time]:.2f}   t = {time}", fill=_AGENT)
    top, bottom = 24, middle - 10
    draw.rectangle((left, top, right, bottom), outline=_LINE)
    step = (right - left) / len(beta)
    for t in range(time + 1):
        level = bottom - (bottom - top) * float(np.clip(beta[t], 0.0, 1.0))
        bar = (left + t * step, level, left + (t + 1) * step, bottom)
        draw.rectangle(bar, fill=_ACCENT if t == time else _POSITIVE)
    draw.text((left, middle), "active code", fill=_AGENT)
    top, bottom = middle + 20, height - 8
    zero, scale = (top + bottom) / 2, max(float(np.abs(code).max()), 1e-6)
    draw.line((left, zero, right, zero), fill=_LINE)
    width = (right - left) / code.shape[1]
    for i, value in enumerate(code[time]):
        level = zero - (bottom - top) / 2 * float(value) / scale
        span = (
            left + i * width + 2,
            min(zero, level),
            left + (i + 1) * width - 2,
            max(zero, level),
        )
        draw.rectangle(span, fill=_POSITIVE if value >= 0 else _NEGATIVE)
    return np.asarray(canvas)


def check_log(num_frames: int, beta: np.ndarray | None, code: np.ndarray | None) -> None:
    """Refuses gates and codes that do not belong to an episode.

    Raises:
      ValueError: if only one of beta and code is given or their lengths do not fit.
    """
    if (beta is None) != (code is None):
        raise ValueError("beta and code: one of them is missing, allowed are both or neither")
    if beta is not None and (len(beta) != len(code) or num_frames - len(beta) not in (0, 1)):
        raise ValueError(
            f"beta and code have {len(beta)} and {len(code)} steps, allowed is {num_frames} or "
            f"{num_frames - 1} for {num_frames} frames"
        )


def add_panels(
    frames: list[np.ndarray], beta: np.ndarray | None, code: np.ndarray | None, every: int = 1
) -> list[np.ndarray]:
    """Puts gate and code beside each frame of an episode; without them frames stay as they are.

    Args:
      frames: `(H, W, 3)` uint8 images, `every` steps apart.
      beta: `(T,)` switching gate, see `check_log`.
      code: `(T, n_z)` active code.
      every: steps from frame to frame.
    """
    if beta is None:
        return frames
    times = [min(every * i, len(beta) - 1) for i in range(len(frames))]
    return [
        np.concatenate([frame, code_panel(beta, code, time, frame.shape[0])], axis=1)
        for frame, time in zip(frames, times, strict=True)
    ]


def episode_frames(
    objects: np.ndarray,
    walls: np.ndarray,
    cells: Sequence[int],
    grid_size: int,
    *,
    beta: np.ndarray | None = None,
    code: np.ndarray | None = None,
    cell_pixels: int = 40,
) -> list[np.ndarray]:
    """Draws one image per step, with a panel for gate and code where they are given.

    Args:
      objects: `(O,)` cells of the colours.
      walls: `(W,)` cells of the walls.
      cells: `(T,)` cells of the agent, or `(T + 1,)` with the one after the last action.
      grid_size: side `G` of the grid.
      beta: `(T,)` switching gate of each step.
      code: `(T, n_z)` code that was active in each step.
      cell_pixels: side of a cell in pixels.

    Returns:
      as many `(H, W, 3)` uint8 images as there are cells.

    Raises:
      ValueError: if only one of beta and code is given or their lengths do not fit.
    """
    check_log(len(cells), beta, code)
    frames = [image(objects, walls, cell, grid_size, cell_pixels) for cell in cells]
    return add_panels(frames, beta, code)


def frames_of_observations(
    observations: np.ndarray,
    grid_size: int,
    num_colours: int,
    *,
    beta: np.ndarray | None = None,
    code: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Draws an episode from what was observed.

    Args:
      observations: `(T, G*G*(O + W + 1))` one-hots of one episode.
      grid_size: side `G` of the grid.
      num_colours: `O`.
      beta: as in `episode_frames`.
      code: as in `episode_frames`.

    Returns:
      `T` images, see `episode_frames`.
    """
    boards = np.asarray(observations).reshape(len(observations), grid_size**2, -1)
    places = boards.argmax(axis=1)
    objects, walls = places[0, :num_colours], places[0, num_colours:-1]
    return episode_frames(objects, walls, places[:, -1], grid_size, beta=beta, code=code)


def as_gif(frames: Sequence[np.ndarray], seconds: float = 0.25) -> bytes:
    """Frames `(H, W, 3)` uint8 as the content of an endless GIF file, `seconds` per frame."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    duration, content = round(1000 * seconds), io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    return content.getvalue()
