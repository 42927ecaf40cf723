"""Endless streams of expert trajectories, packed into rows without bias, on the device.

Every row of a batch is a lane with its own endless sequence of episodes; episode `j` of lane `i` is
a function of `fold_in(fold_in(key, i), j)` alone. A call plays the next episodes of each lane,
keeps those that end inside the row and advances the lane by their number, so that an episode that
did not fit opens the next row instead of being dropped: dropping it would favour short episodes.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec

from internal_rl.backend import on_cpu
from internal_rl.envs.gridworld import GridWorld
from internal_rl.envs.tasks import Task, followers, task_array
from internal_rl.envs.world import DataRequest
from internal_rl.experts import action_words, rollout, shortest_path
from internal_rl.experts.expert_tokens import ExpertTokens, pack_successes
from internal_rl.experts.legs import Legs, looked_up_actions, pack_facts, solved_actions
from internal_rl.experts.references import references
from internal_rl.experts.rollout import Episodes, Steps
from internal_rl.types import Trajectory


@struct.dataclass
class StreamState:
    """Position of a stream; plain integers, so that it can be stored in any checkpoint.

    Attributes:
      lane: `(B, 2)` uint32 key data of each lane.
      episode: `(B,)` int32 number of the next episode of each lane.
    """

    lane: chex.Array
    episode: chex.Array


class ExpertStream:
    """Successful expert trajectories of a grid world, episode after episode.

    Layouts and start cells are drawn as by `world.reset`, tasks uniformly. Episodes that run into
    the time limit are skipped. So would those be that cannot be completed: they are not even begun,
    whatever `solvable_only` of the world says.

    Attributes:
      world: the world.
      tasks: `(N, K)` int32 tasks padded with -1.
      ties: how the expert tells equally short paths apart, see `shortest_path.TIES`.
      epsilon: probability of a uniformly random harmless action.
      sequence_length: `S`, tokens per row.
      include_terminal: whether each trajectory ends with a token for its terminal observation.
      trajectories_per_row: mean number of trajectories in a row; not measured but stated, as rows
        per batch follow from it.
      max_episodes: `M`, most episodes started in one row.
      arrays: that the rows come from, to be given to `next`; none, as they are generated.
      labelled: True: every token carries the subgoal of the expert.
    """

    arrays = None
    labelled = True

    def __init__(
        self,
        world: GridWorld,
        tasks: np.ndarray,
        *,
        ties: str = "random",
        epsilon: float = 0.0,
        sequence_length: int = 256,
        include_terminal: bool = False,
        trajectories_per_row: float = 7.7,
    ):
        """Builds the stream; arguments as the attributes.

        Raises:
          ValueError: for unknown ties, epsilon outside [0, 1], no positive number of trajectories
            per row, tasks whose subgoals the world does not have or that no episode has the time
            for, or rows that could not hold an episode as long as the time limit.
        """
        shortest_path.check_ties(ties)
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon is {epsilon}, allowed is 0 to 1")
        if not trajectories_per_row > 0:
            raise ValueError(f"trajectories_per_row is {trajectories_per_row}, allowed is above 0")
        shortest_row = world.time_limit + int(include_terminal)
        if sequence_length < shortest_row:
            raise ValueError(
                f"sequence_length is {sequence_length}, allowed is {shortest_row} or more, the "
                "longest episode of this world"
            )
        self.world = world
        self.tasks = np.asarray(tasks, np.int32)
        self.ties = ties
        self.epsilon = epsilon
        self.sequence_length = sequence_length
        self.include_terminal = include_terminal
        self.trajectories_per_row = trajectories_per_row
        self._task_length = (self.tasks >= 0).sum(axis=1)
        self._subgoals = np.full_like(self.tasks, -1)
        for row, task, length in zip(self._subgoals, self.tasks, self._task_length, strict=True):
            row[:length] = world.task_set.subgoal_ids(tuple(task[:length].tolist()))
        self._follows = followers(world.task_set, world.config.num_colours)
        self._pool_table = self._pool_words = None
        if world.layouts is not None:
            self._pool_table, self._pool_words = self._solve_pool()
        # Steps per colour that an episode takes at least. Without a pool 3 is a guess on the safe
        # side; rows of even shorter episodes end early and lose nothing.
        pace = 3 * int(self._task_length.min())
        if self._pool_table is not None:
            pace = self._shortest_episode()
        least = int(self._task_length.min()) if self._pool_table is None else pace
        if world.time_limit < least:
            raise ValueError(
                f"environment.time_limit is {world.time_limit}, allowed is {least} or more, the"
                " steps of the shortest task"
            )
        self.max_episodes = sequence_length // (pace + int(include_terminal)) + 1

    def init(self, key: chex.PRNGKey, num_rows: int) -> StreamState:
        """State of a stream of `num_rows` lanes at its beginning."""
        lanes = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i)))
        numbers = jnp.arange(num_rows, dtype=jnp.int32)
        return StreamState(lanes(numbers), jnp.zeros_like(numbers))

    def next(self, state: StreamState, arrays: None = None) -> tuple[StreamState, Trajectory]:
        """Next rows: the advanced state and a `Trajectory` with leading axis `B`.

        `arrays` is the stream's attribute of that name, as with every source. Where the axes of the
        mesh in force are explicit, rows lie where the lanes of `state` do.
        """
        del arrays
        explicit = jax.sharding.get_abstract_mesh().explicit_axes
        if not explicit:
            return self._next(state)
        lanes = PartitionSpec(*jax.typeof(state.episode).sharding.spec)
        return jax.sharding.auto_axes(self._next, axes=explicit, out_sharding=lanes)(state)

    def next_share(
        self, state: StreamState, arrays: None, share: Any
    ) -> tuple[StreamState, Trajectory]:
        """As `next`, but with some of the rows, see `DataSource`."""
        del arrays
        lanes, batch = self._next(jax.tree.map(lambda leaf: leaf[share.rows], state))
        return state.replace(episode=share.together(lanes.episode)), batch

    def next_tokens(self, state: StreamState) -> tuple[StreamState, ExpertTokens]:
        """Next rows as integers: the advanced state and `ExpertTokens`."""
        episodes = self._draw(state)
        steps = self._play(episodes)
        ended = steps.status != rollout.RUNNING
        state = state.replace(episode=state.episode + ended.sum(axis=1, dtype=jnp.int32))
        return state, pack_successes(episodes, steps, self.tasks, self._subgoals)

    def trajectory(self, tokens: ExpertTokens) -> Trajectory:
        """Observations in place of cells; padding tokens observe nothing (zeros)."""
        # A cell outside the grid makes an observation without any thing in it.
        outside = self.world.config.grid_size**2
        real = tokens.segment >= 0
        cells = [jnp.where(real, cell, outside) for cell in (tokens.cell, tokens.next_cell)]
        encoded = self._encoded if on_cpu() else self._encoded_by_episode
        observation, next_observation = encoded(tokens, real, outside, cells)
        return Trajectory(
            observation=observation,
            next_observation=next_observation,
            action=tokens.action,
            mask=tokens.mask,
            subgoal=tokens.subgoal,
            segment=tokens.segment,
        )

    def _encoded(self, tokens, real, outside, cells) -> list[chex.Array]:
        """Observations `(B, S, d)` from cells of the agent `(B, S)`."""
        if self.world.layouts is None:
            pick = tokens.episode[..., None]
            objects = jnp.take_along_axis(tokens.episodes.objects, pick, axis=1)
            walls = jnp.take_along_axis(tokens.episodes.walls, pick, axis=1)
        else:
            pool = self.world.layouts
            objects = jnp.asarray(pool.objects)[tokens.layout_index]
            walls = jnp.asarray(pool.walls)[tokens.layout_index]
        objects = jnp.where(real[..., None], objects, outside)
        walls = jnp.where(real[..., None], walls, outside)
        encode = jax.vmap(jax.vmap(self.world.encode))
        return [encode(objects, walls, cell) for cell in cells]

    def _encoded_by_episode(self, tokens, real, outside, cells) -> list[chex.Array]:
        """The same on accelerators: layouts once per episode, spread over tokens by products."""
        episodes = tokens.episodes
        nowhere = jnp.full(episodes.start_cell.shape, outside, jnp.int32)
        layout = jax.vmap(jax.vmap(self.world.encode))(episodes.objects, episodes.walls, nowhere)
        number = jnp.arange(nowhere.shape[1], dtype=jnp.int32)
        own = (tokens.episode[..., None] == number) & real[..., None]
        # Zeros and ones, which bfloat16 holds exactly.
        spread = jnp.einsum("bsm,bmd->bsd", own.astype(jnp.bfloat16), layout.astype(jnp.bfloat16))
        agents = (self.world.encode_agent(cell) for cell in cells)
        return [((spread > 0) | agent).astype(jnp.uint8) for agent in agents]

    def held_out(self, key: chex.PRNGKey, num_rows: int, arrays: None = None) -> Trajectory:
        """One batch of rows from a stream of its own."""
        del arrays
        return jax.jit(lambda key: self.next(self.init(key, num_rows))[1])(key)

    def references(self, key: chex.PRNGKey, num_trajectories: int) -> dict[str, float]:
        """Exact cross-entropies of the expert's actions in nats, see `references.references`."""
        return references(self, key, num_trajectories)

    def padding_fraction(self, key: chex.PRNGKey, num_rows: int = 64, num_calls: int = 4) -> float:
        """Share of padding among the tokens of a few calls."""

        def call(state, _):
            state, tokens = self.next_tokens(state)
            return state, jnp.mean(tokens.segment < 0)

        _, shares = jax.lax.scan(call, self.init(key, num_rows), length=num_calls)
        return float(shares.mean())

    def tables(self, episodes: Episodes) -> tuple[shortest_path.ExpertTable, chex.Array]:
        """Expert tables of the layouts of `episodes`.

        Returns:
          the tables, with one leading axis, and the index into it of every episode, `(B, M)`.
        """
        if self._pool_table is not None:
            return jax.tree.map(jnp.asarray, self._pool_table), episodes.layout_index
        table = jax.vmap(jax.vmap(self._solve))(episodes.objects, episodes.walls)
        shape = episodes.start_cell.shape
        index = jnp.arange(shape[0] * shape[1], dtype=jnp.int32).reshape(shape)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), table), index

    def _next(self, state: StreamState) -> tuple[StreamState, Trajectory]:
        state, tokens = self.next_tokens(state)
        return state, self.trajectory(tokens)

    def _solve_pool(self) -> tuple[shortest_path.ExpertTable, shortest_path.ExpertTable]:
        """Expert tables of all layouts of the pool, `(N, ...)`; the same as words of actions."""

        @jax.jit
        def solve(objects, walls):
            table = jax.vmap(self._solve)(objects, walls)
            return table, self._words(table)

        pool = self.world.layouts
        return jax.tree.map(np.asarray, solve(pool.objects, pool.walls))

    def _solve(self, objects, walls) -> shortest_path.ExpertTable:
        return shortest_path.expert_table(
            objects, walls, self.world.config.grid_size, self.ties, self._follows
        )

    def _words(self, table: shortest_path.ExpertTable) -> shortest_path.ExpertTable:
        """Masks of actions as words of `action_words`."""
        size = self.world.config.grid_size
        return jax.tree.map(lambda mask: action_words.from_masks(mask, size), table)

    def _shortest_episode(self) -> int:
        """Fewest steps that any task takes in any layout of the pool."""
        pool = self.world.layouts
        measure = jax.vmap(
            lambda o, w: shortest_path.colour_distances(o, w, self.world.config.grid_size)
        )
        distance = np.asarray(jax.jit(measure)(pool.objects, pool.walls)).astype(np.int64)
        steps = [
            1 + distance[:, task[: length - 1], task[1:length]].sum(axis=1)
            for task, length in zip(self.tasks, self._task_length, strict=True)
        ]
        return int(np.min(steps))

    def _draw(self, state: StreamState) -> Episodes:
        """Starts of the next `max_episodes` episodes of every lane."""
        tasks = jnp.asarray(self.tasks)

        def draw(lane, number):
            key = jax.random.fold_in(jax.random.wrap_key_data(lane), number)
            task_key, start_key, action_key = jax.random.split(key, 3)
            task_index = jax.random.randint(task_key, (), 0, tasks.shape[0], jnp.int32)
            objects, walls, layout_index, start_cell = self.world.sample_start(
                start_key, tasks[task_index], solvable_only=True
            )
            seed = jax.random.key_data(action_key)
            return Episodes(seed, objects, walls, layout_index, task_index, start_cell)

        numbers = state.episode[:, None] + jnp.arange(self.max_episodes, dtype=jnp.int32)
        return jax.vmap(jax.vmap(draw, in_axes=(None, 0)))(state.lane, numbers)

    def _play(self, episodes: Episodes) -> Steps:
        """Plays the episodes of each lane one behind the other for `S` tokens."""
        rules = rollout.Rules(
            grid_size=self.world.config.grid_size,
            time_limit=self.world.time_limit,
            epsilon=self.epsilon,
            include_terminal=self.include_terminal,
        )
        num_slots, num_tokens = self.tasks.shape[1], self.sequence_length
        return rollout.play(self._legs(episodes), episodes.start_cell, num_slots, rules, num_tokens)

    def _legs(self, episodes: Episodes) -> Legs:
        """Tables of all legs of the episodes."""
        size, noisy = self.world.config.grid_size, self.epsilon > 0.0
        goals = jnp.maximum(jnp.asarray(self.tasks), 0)[episodes.task_index]
        num_goals = jnp.asarray(self._task_length, jnp.int32)[episodes.task_index]
        goal_cells = jnp.take_along_axis(episodes.objects, goals, axis=2)
        if self._pool_words is not None:
            words = jax.tree.map(jnp.asarray, self._pool_words)
            actions = looked_up_actions(words, episodes.layout_index, goals, noisy)
        elif self.ties != "random":
            table, layout = self.tables(episodes)
            actions = looked_up_actions(self._words(table), layout, goals, noisy)
        else:
            actions = solved_actions(episodes.objects, episodes.walls, goal_cells, size, noisy)
        seed = jnp.broadcast_to(episodes.seed[:, :, None], (*goals.shape, 2)).reshape(-1, 2)
        return Legs(
            facts=pack_facts(goal_cells, episodes.start_cell, num_goals, size),
            seed=(seed[:, 0], seed[:, 1]),
            actions=actions,
        )


def make_source(request: DataRequest) -> ExpertStream:
    """The trajectories that a stage asks for, made on the device as training goes.

    Raises:
      ValueError: a setting of the section `data` is not allowed, or a task of the curriculum is
        none of this world.
    """
    world, settings = request.world, request.settings
    clean = request.role == "clean"
    tasks = world.task_set.pretraining
    if request.role == "curriculum":
        tasks = _curriculum(world, request.tasks)
    return ExpertStream(
        world,
        task_array(tasks, max(map(len, tasks))),
        ties=settings.clean_ties if clean else settings.ties,
        epsilon=settings.clean_epsilon if clean else settings.epsilon,
        sequence_length=settings.sequence_length,
        include_terminal=request.include_terminal,
        trajectories_per_row=settings.trajectories_per_row,
    )


def _curriculum(world: GridWorld, text: str) -> tuple[Task, ...]:
    """Tasks that are separated by commas."""
    if not text:
        raise ValueError("tasks of the curriculum are '', allowed are tasks separated by commas")
    return tuple(tuple(world.parse_task(part).tolist()) for part in text.split(","))
