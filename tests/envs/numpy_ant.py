"""The rules of the ant world a second time: plain Python, fed with logged torso positions."""

import numpy as np


def cell_of(x, y, grid_size, cell_size):
    """Row and column of a place; rows downwards, y upwards, outer cells go on for ever."""
    half = grid_size * cell_size / 2
    column = min(max(int(np.floor((x + half) / cell_size)), 0), grid_size - 1)
    row = min(max(int(np.floor((half - y) / cell_size)), 0), grid_size - 1)
    return row, column


def judge(config, objects, walls, task, positions):
    """Plays the rules along a path.

    Args:
      config: `AntWorldConfig`.
      objects: list of (row, column) of the colours.
      walls: list of (row, column).
      task: list of colours.
      positions: `(N + 1, 3)` torso at the reset and after each step.

    Returns:
      for every step a dict: `progress`, `reward`, `done`, `success`, `visit`.
    """
    before = cell_of(*positions[0][:2], config.grid_size, config.cell_size)
    progress, time, ended, success = 0, 0, False, False
    log = []
    for x, y, z in positions[1:]:
        reward, visit = 0.0, -1
        if not ended:
            time += 1
            cell = cell_of(x, y, config.grid_size, config.cell_size)
            visit = objects.index(cell) if cell != before and cell in objects else -1
            half = config.grid_size * config.cell_size / 2
            outside = config.border == "terminal" and (abs(x) > half or abs(y) > half)
            if outside or cell in walls or z < 0.2 or z > 1.0:
                ended = True
            elif cell != before and cell in objects:
                if objects.index(cell) == task[progress]:
                    progress += 1
                    if progress == len(task):
                        reward, ended, success = 1.0, True, True
                else:
                    ended = True
            if time >= config.time_limit:
                ended = True
            before = cell
        entry = {"progress": progress, "reward": reward, "done": ended, "success": success}
        log.append(entry | {"visit": visit})
    return log
