"""The rules of the grid world once more, written from their description without any JAX."""

import networkx as nx
import numpy as np

STEPS = {0: (-1, 0), 1: (1, 0), 2: (0, -1), 3: (0, 1)}


class NumpyGridWorld:
    """One episode, with cells as (row, column)."""

    def __init__(self, grid_size, objects, walls, start_cell, task, time_limit):
        self.size = grid_size
        self.colours = [divmod(int(cell), grid_size) for cell in objects]
        self.walls = [divmod(int(cell), grid_size) for cell in walls]
        self.agent = divmod(int(start_cell), grid_size)
        self.todo = [int(colour) for colour in task if colour >= 0]
        self.steps_left = time_limit
        self.done = False
        self.success = False
        self.progress = 0
        self.visit = -1

    def step(self, action):
        """Returns the reward."""
        self.visit = -1
        if self.done:
            return 0.0
        self.steps_left -= 1
        row = self.agent[0] + STEPS[int(action)][0]
        column = self.agent[1] + STEPS[int(action)][1]
        inside = 0 <= row < self.size and 0 <= column < self.size
        if inside and (row, column) not in self.walls:
            self.agent = (row, column)
            if self.agent in self.colours:
                self.visit = self.colours.index(self.agent)
                if self.visit != self.todo[0]:
                    self.done = True
                    return 0.0
                self.todo.pop(0)
                self.progress += 1
                if not self.todo:
                    self.done = self.success = True
                    return 1.0
        self.done = self.steps_left == 0
        return 0.0

    def observation(self):
        """`(G, G, O + W + 1)` uint8."""
        channels = [*self.colours, *self.walls, self.agent]
        board = np.zeros((self.size, self.size, len(channels)), np.uint8)
        for channel, (row, column) in enumerate(channels):
            board[row, column, channel] = 1
        return board


def path_graph(grid_size, objects, walls, goal):
    """Directed moves of an expert on its way to colour `goal`: no wall, no wrong colour entered."""
    blocked = set(np.asarray(walls).tolist()) | set(np.asarray(objects).tolist())
    blocked -= {int(objects[goal])}
    graph = nx.DiGraph()
    graph.add_nodes_from(range(grid_size**2))
    for cell in set(range(grid_size**2)) - set(np.asarray(walls).tolist()):
        row, column = divmod(cell, grid_size)
        for action, (down, right) in STEPS.items():
            if 0 <= row + down < grid_size and 0 <= column + right < grid_size:
                target = (row + down) * grid_size + column + right
                if target not in blocked:
                    graph.add_edge(cell, target, action=action)
    return graph


def solvable_by_search(grid_size, objects, walls, start_cell, task):
    """Whether networkx finds a way through all colours of the task."""
    cell = int(start_cell)
    for colour in task[task >= 0]:
        goal = int(objects[colour])
        if not nx.has_path(path_graph(grid_size, objects, walls, colour), cell, goal):
            return False
        cell = goal
    return True
