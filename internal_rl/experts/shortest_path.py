"""The expert: stochastic shortest paths to every colour, by dynamic programming.

For a goal colour all other colours and the walls are blocked, so the expert never enters a wrong
colour. Sets of actions are bit masks (bit a stands for action a), which keeps the tables small and
the rollouts to integer look-ups.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.envs import boards
from internal_rl.experts import action_words

TIES = ("random", "fixed", "fork", "axis", "priority", "departures")
"""How equally short paths are told apart.

random: uniformly among the optimal actions, at every step anew.
fixed: one optimal action per layout, goal and cell, always the same in the same layout.
fork: as fixed, but the paths that leave a colour start with actions that differ as far as possible.
axis: towards even colours up or down wherever that is optimal, towards odd ones left or right, up
  before down and left before right; a rule that is the same in all layouts.
priority: every colour has its own order of preference among the four actions (`PRIORITIES`), the
  same in all layouts.
departures: as axis, but at every colour the first actions towards the colours that may follow it
  differ as much as possible.
"""

_UNREACHED = np.int16(np.iinfo(np.int16).max // 2)
_NUM_ACTIONS = 4

PRIORITIES = np.array(
    [[0, 1, 2, 3], [2, 3, 0, 1], [0, 2, 3, 1], [1, 2, 3, 0], [3, 0, 1, 2], [2, 0, 1, 3]]
)
"""Orders of preference among up 0, down 1, left 2, right 3: vertical first, horizontal first, and
up, down, right or left first with the opposite last. Any two of them differ in at least half of the
four pairs of a vertical and a horizontal action. Colour `c` uses number `c % 6`."""


@struct.dataclass
class ExpertTable:
    """Bit masks of the actions in one layout; all fields may carry leading axes.

    Attributes:
      expert: `(O, G*G)` uint8, the expert's choices by goal colour and cell; 0 where no path leads
        to the goal.
      harmless: `(O, G*G)` uint8, the actions that do not enter a wrong colour.
      moves: `(G*G,)` uint8, the actions that leave the cell.
    """

    expert: chex.Array
    harmless: chex.Array
    moves: chex.Array


@struct.dataclass
class ExpertBoards:
    """The same sets of actions as bit boards, one for each action: the cells where it is a member.

    A board is a tuple of words, see `internal_rl.envs.boards`.

    Attributes:
      expert: boards `(..., K)` for `K` goals.
      harmless: boards `(..., K)`.
      moves: boards `(...)`.
    """

    expert: tuple[boards.Board, ...]
    harmless: tuple[boards.Board, ...]
    moves: tuple[boards.Board, ...]


def check_ties(ties: str) -> None:
    """Raises ValueError for an unknown way to break ties."""
    if ties not in TIES:
        raise ValueError(f"ties is '{ties}', allowed are {', '.join(TIES)}")


def distance_fields(objects: chex.Array, walls: chex.Array, grid_size: int) -> chex.Array:
    """Steps to each colour with walls and all other colours blocked, `(O, G*G)` int16.

    Blocked cells and cells from which a colour cannot be reached hold a large number.
    """
    cells = jnp.arange(grid_size**2)
    goal = (cells == objects[:, None]).reshape(-1, grid_size, grid_size)
    blocked = _occupancy(jnp.concatenate([objects, walls]), grid_size) & ~goal

    def relax(carry):
        distance, _ = carry
        nearest = _shifted(distance, _UNREACHED).min(axis=0)
        relaxed = jnp.minimum(distance, jnp.where(blocked, _UNREACHED, nearest + jnp.int16(1)))
        relaxed = jnp.minimum(relaxed, _UNREACHED)
        return relaxed, jnp.any(relaxed != distance)

    start = jnp.where(goal, jnp.int16(0), _UNREACHED)
    # The first step comes before the loop: under `jax.shard_map` its results have the types of all
    # further ones.
    first = relax((start, True))
    with jax.named_scope("relax"):
        distance, _ = jax.lax.while_loop(lambda carry: carry[1], relax, first)
    return distance.reshape(-1, grid_size**2)


def colour_distances(objects: chex.Array, walls: chex.Array, grid_size: int) -> chex.Array:
    """Steps from each colour's cell to each colour, `(O, O)` int16 by start and goal.

    The way from a colour to itself leaves its cell and comes back.
    """
    distance = distance_fields(objects, walls, grid_size).reshape(-1, grid_size, grid_size)
    nearest = _shifted(distance, _UNREACHED).min(axis=0).reshape(-1, grid_size**2)
    return nearest[:, objects].T + jnp.int16(1)


def _occupancy(cells: chex.Array, grid_size: int) -> chex.Array:
    """Whether each cell of the grid is among `cells (n,)`: `(G, G)` bool."""
    grid = jnp.any(jnp.arange(grid_size**2)[:, None] == cells, axis=-1)
    return grid.reshape(grid_size, grid_size)


def _shifted(field: chex.Array, outside) -> chex.Array:
    """Value of `field (..., G, G)` at the four neighbours of every cell, `(4, ..., G, G)`."""
    lead = ((0, 0),) * (field.ndim - 2)
    padded = jnp.pad(field, (*lead, (1, 1), (1, 1)), constant_values=outside)
    return jnp.stack(
        [
            padded[..., :-2, 1:-1],
            padded[..., 2:, 1:-1],
            padded[..., 1:-1, :-2],
            padded[..., 1:-1, 2:],
        ]
    )


def expert_boards(
    objects: chex.Array, walls: chex.Array, goals: chex.Array, grid_size: int
) -> ExpertBoards:
    """Solves layouts, all optimal actions kept: breadth-first from every goal at once.

    Args:
      objects: `(..., O)` int32 cells of the colours.
      walls: `(..., W)` int32 cells of the walls.
      goals: `(..., K)` int32 cells of the colours to walk to.
      grid_size: side `G` of the grid.
    """
    inside = boards.whole(grid_size)
    wall = boards.union(walls, grid_size)
    colours = boards.union(objects, grid_size)
    free = boards.without(inside, boards.any_of((wall, colours)))
    goal = boards.single(goals, grid_size)

    def for_goals(board):
        return tuple(word[..., None] for word in board)

    def relax(carry):
        frontier, expert, _ = carry
        ahead = boards.neighbours(frontier, grid_size)
        # What leads into the first frontier that is next to a cell is optimal there, also in cells
        # that no path goes through: walls and colours.
        fresh = boards.without(inside, boards.any_of(expert))
        expert = tuple(
            tuple(old | new & here for old, new, here in zip(*words, strict=True))
            for words in zip(expert, ahead, (fresh,) * len(ahead), strict=True)
        )
        reached = zip(boards.any_of(ahead), fresh, for_goals(free), strict=True)
        frontier = tuple(new & here & open_word for new, here, open_word in reached)
        return frontier, expert, jnp.any(boards.any_cell(frontier))

    nothing = tuple(jnp.zeros_like(word) for word in goal)
    # The first step comes before the loop: under `jax.shard_map` its results have the types of all
    # further ones.
    first = relax((goal, (nothing,) * 4, True))
    with jax.named_scope("relax"):
        _, expert, _ = jax.lax.while_loop(lambda carry: carry[2], relax, first)
    wrong = boards.without(for_goals(colours), goal)
    harmful = boards.neighbours(wrong, grid_size)
    harmless = tuple(boards.without(inside, board) for board in harmful)
    moves = boards.neighbours(boards.without(inside, wall), grid_size)
    return ExpertBoards(expert, harmless, moves)


def expert_table(
    objects: chex.Array,
    walls: chex.Array,
    grid_size: int,
    ties: str = "random",
    follows: chex.Array | None = None,
) -> ExpertTable:
    """Solves one layout.

    Args:
      objects: `(O,)` int32 cells of the colours.
      walls: `(W,)` int32 cells of the walls.
      grid_size: side `G` of the grid.
      ties: one of `TIES`.
      follows: `(O, O)` bool, colours that may follow each colour, for the ties that spread first
        actions over them; every other colour by default.

    Raises:
      ValueError: for unknown ties.
    """
    check_ties(ties)
    found = expert_boards(objects, walls, objects, grid_size)
    expert, harmless, moves = (
        action_words.to_masks(action_words.from_boards(sets, grid_size), grid_size)
        for sets in (found.expert, found.harmless, found.moves)
    )
    return ExpertTable(break_ties(expert, objects, walls, ties, follows), harmless, moves)


def break_ties(
    expert: chex.Array,
    objects: chex.Array,
    walls: chex.Array,
    ties: str,
    follows: chex.Array | None = None,
) -> chex.Array:
    """Leaves one of the optimal actions, or all of them with `random` ties.

    Args:
      expert: `(O, G*G)` uint8 masks of the optimal actions of one layout.
      objects, walls, ties, follows: as in `expert_table`.

    Returns:
      `(O, G*G)` uint8.
    """
    if ties == "random":
        return expert
    if ties in ("axis", "departures"):
        chosen = _prefer(expert, PRIORITIES[:2])
    elif ties == "priority":
        chosen = _prefer(expert, PRIORITIES)
    else:
        chosen = choose_bit(expert, _layout_bits(objects, walls, expert.shape))
    if ties in ("fork", "departures"):
        if follows is None or ties == "fork":
            follows = ~jnp.eye(objects.shape[0], dtype=bool)
        bits = _layout_bits(objects, walls, expert.shape)[0, objects]
        first = jnp.where(follows, expert[:, objects].T, jnp.uint8(0))
        spread = jax.vmap(_spread_choices)(first, bits)
        here = (jnp.arange(expert.shape[1]) == objects[:, None])[:, None, :]
        at_colours = jnp.sum(jnp.where(here, spread[:, :, None], 0), axis=0, dtype=jnp.uint8)
        chosen = jnp.where(at_colours > 0, at_colours, chosen)
    return chosen


def policy_table(
    objects: chex.Array, walls: chex.Array, grid_size: int, ties: str = "random"
) -> chex.Array:
    """Action probabilities of the noiseless expert, `(O, G*G, 4)` float32.

    Rows are zero where the goal cannot be reached; other arguments as in `expert_table`.
    """
    return mask_probabilities(expert_table(objects, walls, grid_size, ties).expert)


def noisy_probabilities(table: ExpertTable, epsilon: float) -> chex.Array:
    """Action probabilities of the noisy expert, `(..., O, G*G, 4)` float32.

    With probability `epsilon` the action is uniform over the harmless ones (walking against a wall
    counts as harmless, entering the goal colour too), otherwise it is the expert's.
    """
    return (1.0 - epsilon) * mask_probabilities(table.expert) + epsilon * mask_probabilities(
        table.harmless
    )


def mask_probabilities(mask: chex.Array) -> chex.Array:
    """Uniform distribution over the actions in `mask (...)`, `(..., 4)` float32; 0 if empty."""
    member = (mask[..., None] >> jnp.arange(_NUM_ACTIONS, dtype=jnp.uint8)) & 1
    count = jnp.maximum(member.sum(axis=-1, keepdims=True), 1)
    return member.astype(jnp.float32) / count


def choose_action(mask: chex.Array, bits: chex.Array) -> chex.Array:
    """Picks an action of `mask (...)` uint8 uniformly with random `bits (...)` uint32.

    Returns:
      `(...)` int32 action; 0 for an empty mask.
    """
    mask = mask.astype(jnp.int32)
    member = [(mask >> action) & 1 for action in range(_NUM_ACTIONS)]
    count = sum(member)
    # The upper 16 bits times the count, shifted back: uniform over the ranks 0 to count - 1.
    rank = ((bits >> 16) * count.astype(jnp.uint32) >> 16).astype(jnp.int32)
    action = jnp.zeros_like(mask)
    passed = jnp.zeros_like(mask)
    for candidate in range(_NUM_ACTIONS):
        action = jnp.where((member[candidate] == 1) & (passed == rank), candidate, action)
        passed = passed + member[candidate]
    return action


def choose_bit(mask: chex.Array, bits: chex.Array) -> chex.Array:
    """As `choose_action`, but returns the mask of the picked action; 0 for an empty mask."""
    return jnp.where(mask > 0, 1 << choose_action(mask, bits), 0).astype(jnp.uint8)


def _prefer(mask: chex.Array, orders: np.ndarray) -> chex.Array:
    """Keeps of `mask (O, cells)` the action that comes first in the colour's order.

    Args:
      mask: actions to choose from.
      orders: `(P, 4)` orders of preference; colour `c` uses number `c % P`.
    """
    chosen = jnp.zeros_like(mask)
    for rank in range(_NUM_ACTIONS):
        action = orders[np.arange(mask.shape[0]) % len(orders), rank].astype(np.uint8)
        candidate = mask & (np.uint8(1) << action)[:, None]
        chosen = jnp.where(chosen == 0, candidate, chosen)
    return chosen


def _layout_bits(objects: chex.Array, walls: chex.Array, shape: tuple[int, ...]) -> chex.Array:
    """Random uint32 of `shape` that depend on nothing but the layout."""
    cells = jnp.concatenate([objects, walls]).astype(jnp.uint32)
    powers = np.cumprod(np.full(cells.shape[0], 0x9E3779B1, np.uint64) & 0xFFFFFFFF)
    powers = (powers & 0xFFFFFFFF).astype(np.uint32)
    seed = jnp.sum((cells + 1) * powers, dtype=jnp.uint32)
    return jax.random.bits(jax.random.fold_in(jax.random.key(0), seed), shape, jnp.uint32)


def _spread_choices(mask: chex.Array, bits: chex.Array) -> chex.Array:
    """Picks one action for every goal so that the picks are spread over the actions.

    An optimal semi-matching (Harvey et al. 2006, algorithm A_SM1): goals are added one by one, each
    along the alternating path that ends at the least used action it can reach. The result minimises
    the sum of squared uses and with it maximises the number of distinct actions.

    Args:
      mask: `(O,)` uint8 optimal actions for every goal; 0 leaves a goal out.
      bits: `()` uint32 that decide between equally good choices.

    Returns:
      `(O,)` uint8, one bit of every mask.
    """
    num_goals = mask.shape[0]
    member = ((mask[:, None] >> jnp.arange(_NUM_ACTIONS, dtype=jnp.uint8)) & 1) > 0
    # Equal uses are told apart by a rotation of the action numbers that depends on the layout.
    preference = (jnp.arange(_NUM_ACTIONS) + (bits >> 30).astype(jnp.int32)) % _NUM_ACTIONS

    def add(goal, chosen):
        via = jnp.where(member[goal], goal, -1)
        for _ in range(_NUM_ACTIONS - 1):
            # Goal h may give up its action a for another one if a is reached.
            can_give_up = (chosen >= 0) & (via[jnp.maximum(chosen, 0)] >= 0)
            step = member & can_give_up[:, None]
            via = jnp.where((via < 0) & step.any(axis=0), jnp.argmax(step, axis=0), via)
        uses = jnp.sum(chosen[:, None] == jnp.arange(_NUM_ACTIONS), axis=0)
        cost = jnp.where(via >= 0, uses * _NUM_ACTIONS + preference, num_goals * _NUM_ACTIONS * 2)
        action = jnp.argmin(cost).astype(jnp.int32)
        moving = jnp.bool_(True)
        for _ in range(_NUM_ACTIONS):
            mover = via[action]
            given_up = chosen[mover]
            chosen = jnp.where(moving & (jnp.arange(num_goals) == mover), action, chosen)
            moving = moving & (mover != goal)
            action = jnp.where(moving, given_up, action)
        return chosen

    def add_if_any(goal, chosen):
        return jnp.where(mask[goal] > 0, add(goal, chosen), chosen)

    none = jnp.full_like(mask, -1, jnp.int32)
    chosen = jax.lax.fori_loop(0, num_goals, add_if_any, none)
    return jnp.where(chosen >= 0, 1 << jnp.maximum(chosen, 0), 0).astype(jnp.uint8)
