"""Pinpad under a MuJoCo ant: walk over coloured cells in the order of a task that is never seen."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.envs import ant_body, pinpad
from internal_rl.envs.layout_config import LayoutPoolConfig
from internal_rl.envs.physics import KINDS, Physics, PhysicsState, make_physics
from internal_rl.envs.world import check_action, on_any_mesh, register_world
from internal_rl.types import ActionSpec, ObservationSpec, Scene, Timestep

# The plane is in metres, x to the right and y upwards; row 0 of the grid lies at the largest y.
HEIGHT_LIMITS = (0.2, 1.0)
RESET_NOISE = 0.1
# Speeds, in metres or radians per second, beyond which the simulation counts as diverged.
MAX_SPEED = 200.0
BORDERS = ("open", "terminal")
MIN_CELL_SIZE, MAX_CELL_SIZE, MAX_FRAME_SKIP = 0.01, 1_000.0, 1_000
# Control steps from picture to picture of an animation.
STEPS_PER_FRAME = 4


@dataclasses.dataclass(frozen=True)
class AntWorldConfig(LayoutPoolConfig):
    """Settings of an ant world, beside those of its layouts.

    Attributes:
      grid_size: side `G` of the grid, in cells.
      num_colours: `O`, number of coloured cells.
      num_walls: `W`, number of wall cells.
      time_limit: `T`, an episode ends after this many control steps.
      tasks: name of the task set, see `tasks.task_set`.
      cell_size: side of a cell, in metres. The ant's feet stand 0.8 to 1.1 m from its torso.
      frame_skip: physics steps of 0.01 s in a control step; 5 is customary for this ant.
      torso_speed: at a reset the six velocities of the torso are drawn uniformly within this, in
        metres or radians per second (open: the paper names those of the joints alone).
      border: `"open"`: the outer cells go on beyond the border, so that a step over it changes
        nothing (12 of the 16 cells lie at the border, and the ant starts anywhere in a cell);
        `"terminal"`: leaving the grid ends the episode, as a wall does.
      physics: `"mjx"`, `"native"`, or `"auto"`, see `physics.make_physics`.
    """

    grid_size: int = 4
    num_colours: int = 4
    num_walls: int = 1
    time_limit: int = 500
    tasks: str = "ant-pinpad"
    cell_size: float = 2.0
    frame_skip: int = 5
    torso_speed: float = 0.0
    border: str = "open"
    physics: str = "auto"

    def __post_init__(self):
        pinpad.check_fields(self, frame_skip=1)
        if not MIN_CELL_SIZE <= self.cell_size <= MAX_CELL_SIZE:
            raise ValueError(
                f"cell_size is {self.cell_size}, allowed is above 0 metres, {MIN_CELL_SIZE} at"
                f" least, and up to {MAX_CELL_SIZE}"
            )
        if self.frame_skip > MAX_FRAME_SKIP:
            raise ValueError(f"frame_skip is {self.frame_skip}, allowed is up to {MAX_FRAME_SKIP}")
        if not 0 <= self.torso_speed < MAX_SPEED:
            raise ValueError(
                f"torso_speed is {self.torso_speed}, allowed is 0 or more and below {MAX_SPEED:g}"
            )
        for name, allowed in (("border", BORDERS), ("physics", KINDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is '{getattr(self, name)}', allowed are {', '.join(allowed)}"
                )


@struct.dataclass
class AntState:
    """State of one episode.

    Attributes:
      physics: positions and velocities of the ant.
      objects: `(O,)` int32 cell of each colour.
      walls: `(W,)` int32 cell of each wall.
      board: `(G*G,)` int8 what stands in each cell, see `pinpad.board`; follows from the former.
      start_cell: `()` int32 cell at the reset.
      cell: `()` int32 cell of the torso's centre.
      task: `(K,)` int32 colours to visit, padded with -1.
      progress: `()` int32 number of colours visited in order.
      time: `()` int32 control steps taken.
      done: `()` bool, the episode has ended.
      success: `()` bool, it ended because the task was completed.
      diverged: `()` bool, it ended because the simulation did not stay finite.
    """

    physics: PhysicsState
    objects: chex.Array
    walls: chex.Array
    board: chex.Array
    start_cell: chex.Array
    cell: chex.Array
    task: chex.Array
    progress: chex.Array
    time: chex.Array
    done: chex.Array
    success: chex.Array
    diverged: chex.Array


def symlog(x: chex.Array) -> chex.Array:
    """`sign(x) ln(1 + |x|)`."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


class AntWorld(pinpad.PinpadWorld):
    """The world as pure functions of its state; no auto-reset.

    Attributes:
      config: the settings.
      task_set: pretraining and post-training tasks.
      model: the MuJoCo model of the ant on a plane.
      max_task_length: `K`, colours in the longest task of the set.
      post_training_task: `(K,)` int32.
      pretraining_tasks: `(N, K)` int32, padded with -1.
      observation_spec: `d` real numbers, see `observation_fields`.
      action_spec: 8 torques.
    """

    action_spec = ActionSpec("gaussian", ant_body.NUM_TORQUES)
    # A quarter of a second.
    switch_tolerance = 5
    seconds_per_frame = 0.25

    def __init__(self, config: AntWorldConfig, physics: Physics | None = None):
        """Builds the world.

        Args:
          config: the settings.
          physics: replaces the physics that the config names.

        Raises:
          ValueError: if the tasks need more colours than there are, or no pool can be drawn.
          ConfigError: if the physics asked for is not installed.
        """
        super().__init__(config)
        self.model = ant_body.ant_model()
        self._given_physics = physics
        self._physics = physics or make_physics(config.physics, config.frame_skip)
        size = sum(size for _, size in self._field_sizes())
        self.observation_spec = ObservationSpec("gaussian", size, np.float32)

    def __reduce__(self):
        # The MuJoCo model and the functions around it cannot be pickled, but can be made again.
        return type(self), (self.config, self._given_physics)

    def _field_sizes(self) -> tuple[tuple[str, int], ...]:
        config = self.config
        return (
            ("height", 1),
            ("orientation", 4),
            ("joint_angles", ant_body.NUM_TORQUES),
            ("linear_velocity", 3),
            ("angular_velocity", 3),
            ("joint_velocities", ant_body.NUM_TORQUES),
            ("position", 2),
            ("colours", 2 * config.num_colours),
            ("walls", 2 * config.num_walls),
            ("place_in_cell", 2),
        )

    def observation_fields(self) -> dict[str, slice]:
        """Where each field of an observation lies, in order.

        - `height`, `orientation` (quaternion `w, x, y, z`), `joint_angles`, `linear_velocity` (in
          the axes of the plane), `angular_velocity` (in those of the torso), `joint_velocities`:
          proprioception, through symlog;
        - `position`: x, y of the torso, -1 to 1 across the grid;
        - `colours`, `walls`: x, y of the centre of every coloured cell and wall as seen from the
          torso, in the axes of the plane and in half sides of the grid;
        - `place_in_cell`: x, y of the torso in its cell, -1 to 1 across the cell (beyond that where
          an open border was crossed).
        """
        fields, start = {}, 0
        for name, size in self._field_sizes():
            fields[name] = slice(start, start + size)
            start += size
        return fields

    @on_any_mesh
    def reset(self, key: chex.PRNGKey, task: chex.Array) -> tuple[AntState, Timestep]:
        """Starts an episode of `task (K,)` int32 padded with -1, in a random layout.

        Raises:
          ValueError: outside of `jax.jit`, for a task that this world does not know.
        """
        task = self.checked_task(task)
        layout_key, body_key = jax.random.split(key)
        objects, walls, _, start_cell = self.sample_start(layout_key, task)
        return self.reset_to(objects, walls, self.sample_body(body_key, start_cell), task)

    @on_any_mesh
    def reset_to(
        self, objects: chex.Array, walls: chex.Array, physics: PhysicsState, task: chex.Array
    ) -> tuple[AntState, Timestep]:
        """Starts an episode in a given layout, objects `(O,)` and walls `(W,)`, and posture."""
        task = self.checked_task(task)
        objects, walls = jnp.asarray(objects, jnp.int32), jnp.asarray(walls, jnp.int32)
        physics = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), physics)
        cell = self.cell_of(physics.qpos[:2])
        state = AntState(
            physics=physics,
            objects=objects,
            walls=walls,
            board=pinpad.board(objects, walls, self.config.grid_size),
            start_cell=cell,
            cell=cell,
            task=task,
            progress=jnp.int32(0),
            time=jnp.int32(0),
            done=jnp.bool_(False),
            success=jnp.bool_(False),
            diverged=jnp.bool_(False),
        )
        timestep = self._timestep(state, jnp.float32(0.0), jnp.int32(pinpad.FREE))
        return pinpad.with_own_buffers((state, timestep), state.cell, task)

    def sample_body(self, key: chex.PRNGKey, cell: chex.Array) -> PhysicsState:
        """Draws a posture: torso anywhere in `cell ()`, any yaw, joints near the standing pose.

        Velocities are near zero.
        """
        keys = jax.random.split(key, 4)

        def uniform(key, shape, limit):
            return jax.random.uniform(key, shape, jnp.float32, -limit, limit)

        def constant(value, like):
            # Where `jax.vmap` spreads what was drawn over devices, this is spread too.
            return jnp.where(jnp.isfinite(like), jnp.float32(value), jnp.float32(value))

        place = self.centre_of(cell) + self.config.cell_size * uniform(keys[0], (2,), 0.5)
        half_yaw = uniform(keys[1], (), jnp.pi) / 2
        zero = constant(0.0, half_yaw)
        quaternion = jnp.stack([jnp.cos(half_yaw), zero, zero, jnp.sin(half_yaw)])
        shape = (ant_body.NUM_TORQUES,)
        joints = jnp.array(ant_body.STANDING_JOINTS) + uniform(keys[2], shape, RESET_NOISE)
        height = constant(ant_body.STANDING_HEIGHT, place[:1])
        velocities = uniform(keys[3], shape, RESET_NOISE)
        if self.config.torso_speed:
            torso = uniform(jax.random.fold_in(keys[3], 1), (6,), self.config.torso_speed)
            velocities = jnp.concatenate([torso, velocities])
        else:
            velocities = jnp.pad(velocities, (6, 0))
        return PhysicsState(
            qpos=jnp.concatenate([place, height, quaternion, joints]),
            qvel=velocities,
        )

    @on_any_mesh
    def step(self, state: AntState, action: chex.Array) -> tuple[AntState, Timestep]:
        """Applies the torques `action (8,)`, clipped to [-1, 1], for one control step.

        A finished episode does not change and pays no reward. A simulation that does not stay
        finite ends the episode as a failure, with the last finite posture.

        Raises:
          ValueError: if the action has another shape.
        """
        return self._step(state, action, with_task=True)

    @on_any_mesh
    def step_without_task(self, state: AntState, action: chex.Array) -> tuple[AntState, Timestep]:
        """A step that no task and no time limit ends; an ant that has fallen does not get up."""
        return self._step(state, action, with_task=False)

    def _step(self, state: AntState, action: chex.Array, with_task: bool):
        check_action(self.action_spec, action)
        control = jnp.clip(jnp.asarray(action, jnp.float32), -1.0, 1.0)
        finite = jnp.all(jnp.isfinite(control))
        # Physics never sees a number that is not finite, nor does it move an ended episode's ant.
        moved = self._physics(self.model, state.physics, jnp.where(finite, control, 0.0))
        finite &= jnp.all(jnp.isfinite(moved.qpos)) & jnp.all(jnp.abs(moved.qvel) < MAX_SPEED)
        diverged = ~state.done & ~finite
        keep = state.done | ~finite
        physics = jax.tree.map(lambda old, new: jnp.where(keep, old, new), state.physics, moved)
        cell = self.cell_of(physics.qpos[:2])
        content, moved = state.board[cell], cell != state.cell
        progress, completed, wrong = pinpad.visit(content, moved, state.task, state.progress)
        lost = self._lost(physics, content)
        # A visit that falls together with a fall or a fault does not count.
        progress = jnp.where(lost | diverged, state.progress, progress)
        completed &= ~(lost | diverged)
        time = state.time + jnp.where(state.done, 0, 1)
        done = state.done | completed | wrong | lost | diverged | (time >= self.time_limit)
        if not with_task:
            progress, completed = state.progress, completed & False
            done = lost | state.diverged | diverged
        state = state.replace(
            physics=physics,
            cell=cell,
            progress=progress,
            time=time,
            done=done,
            success=state.success | completed,
            diverged=state.diverged | diverged,
        )
        reward = completed.astype(jnp.float32)
        return state, self._timestep(state, reward, pinpad.visited_colour(content, moved))

    def _lost(self, physics: PhysicsState, content: chex.Array) -> chex.Array:
        """Whether an ant in a cell that holds `content` has fallen, or is where it must not be."""
        height = physics.qpos[2]
        lost = (content == pinpad.WALL) | (height < HEIGHT_LIMITS[0]) | (height > HEIGHT_LIMITS[1])
        if self.config.border == "terminal":
            lost |= jnp.any(jnp.abs(physics.qpos[:2]) > self.half_side)
        return lost

    def posture(self, observation: chex.Array) -> chex.Array:
        """Positions `(..., 15)` of the physics, read from observations `(..., d)`."""
        fields = self.observation_fields()
        names = ("height", "orientation", "joint_angles")
        body = jnp.concatenate([observation[..., fields[name]] for name in names], axis=-1)
        body = jnp.sign(body) * jnp.expm1(jnp.abs(body))
        return jnp.concatenate([observation[..., fields["position"]] * self.half_side, body], -1)

    def scene(self, observation: chex.Array) -> Scene:
        """Reads observations `(..., d)`, see `observation_fields`."""
        fields = self.observation_fields()
        place = observation[..., fields["position"]]

        def centres(name):
            offsets = observation[..., fields[name]]
            return offsets.reshape(*offsets.shape[:-1], -1, 2) + place[..., None, :]

        half_side = self.config.grid_size / 2
        return Scene(
            place * half_side, centres("colours") * half_side, centres("walls") * half_side
        )

    def frames(
        self,
        observations: np.ndarray,
        beta: np.ndarray | None = None,
        code: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Draws an episode from what was observed, an image for every fourth step.

        Args:
          observations: `(T, d)` of one episode.
          beta: `(T,)` switching gate of each step, shown in a panel with the code.
          code: `(T, n_z)` code that was active in each step.

        Returns:
          images `(H, W, 3)` uint8.

        Raises:
          ValueError: if only one of beta and code is given or their lengths do not fit.
          RenderError: this machine has no library that draws.
        """
        # The renderer imports this file, and to step a world needs no renderer.
        from internal_rl.envs import ant_render

        return ant_render.frames_of_observations(
            self, observations, every=STEPS_PER_FRAME, beta=beta, code=code
        )

    @property
    def half_side(self) -> float:
        """Half the side of the grid, in metres; the grid's centre is the origin."""
        return self.config.grid_size * self.config.cell_size / 2

    def cell_of(self, place: chex.Array) -> chex.Array:
        """Cell `()` int32 of a place `(2,)`; beyond the border, the nearest cell."""
        size = self.config.grid_size
        steps = jnp.floor((place + self.half_side) / self.config.cell_size)
        column, up = jnp.clip(steps, 0, size - 1).astype(jnp.int32)
        return (size - 1 - up) * size + column

    def centre_of(self, cell: chex.Array) -> chex.Array:
        """Centre `(..., 2)` of cells `(...)`, in metres."""
        return pinpad.centre_of(cell, self.config.grid_size) * self.config.cell_size

    def observe(self, state: AntState) -> chex.Array:
        """Observation `(d,)` float32 of a state, see `observation_fields`."""
        physics = state.physics
        place = physics.qpos[:2]
        things = self.centre_of(jnp.concatenate([state.objects, state.walls]))
        half_cell = self.config.cell_size / 2
        return jnp.concatenate(
            [
                symlog(jnp.concatenate([physics.qpos[2:], physics.qvel])),
                place / self.half_side,
                ((things - place) / self.half_side).reshape(-1),
                (place - self.centre_of(state.cell)) / half_cell,
            ]
        )


PRESETS = {
    "paper": AntWorldConfig(solvable_only=False),
    # Nothing lies on the way between two colours, nor from the start to any of them: to plan paths
    # around others is what a small model learns last. The wall then always closes a corner off.
    "small": AntWorldConfig(
        num_layouts=4_096,
        homes=".0../...1/2.../..3.",
        home_radius=1,
        clear_rectangles=True,
        clear_starts=True,
    ),
    # Cells so small that an ant that has learnt nothing drifts over some of them.
    "smoke": AntWorldConfig(
        grid_size=3, num_colours=3, time_limit=30, tasks="walks:3:2:0-1-2", cell_size=0.1
    ),
}

register_world(
    "ant-pinpad",
    AntWorld,
    config=AntWorldConfig,
    presets=PRESETS,
    data="internal_rl.experts.shard_data:make_source",
)
