"""A small world that tells all that a world may tell, and in which nothing is broken."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.types import ActionSpec, ObservationSpec, Scene, Timestep

SIZE = 5


@struct.dataclass
class RingState:
    start: jax.Array
    cell: jax.Array
    task: jax.Array
    progress: jax.Array
    time: jax.Array
    done: jax.Array


class Ring:
    """Five cells in a circle, to be visited as the task says; nothing is broken."""

    observation_spec = ObservationSpec("bernoulli", SIZE, np.uint8)
    action_spec = ActionSpec("categorical", 2)
    time_limit = 6
    post_training_task = np.array([0, 2], np.int32)
    pretraining_tasks = np.array([[1, 3], [2, 0]], np.int32)
    num_places = num_subgoals = SIZE
    subgoal_places = np.arange(SIZE)
    unseen_transitions = frozenset({(0, 2)})
    num_pretraining_visits = 2
    grid_size = SIZE
    seconds_per_frame = 0.1

    def reset(self, key, task):
        cell = jax.random.randint(key, (), 0, SIZE, jnp.int32)
        zero = jnp.int32(0)
        task = jnp.array(task, jnp.int32)
        state = RingState(jnp.copy(cell), cell, task, zero, jnp.copy(zero), jnp.bool_(False))
        return state, self.timestep(state, jnp.float32(0), jnp.int32(-1))

    def step(self, state, action):
        return self.move(state, action, with_task=True)

    def step_without_task(self, state, action):
        return self.move(state, action, with_task=False)

    def move(self, state, action, with_task):
        running = ~state.done
        cell = jnp.where(running, (state.cell + 2 * action - 1) % SIZE, state.cell)
        right = running & (cell == state.task[state.progress % 2]) & with_task
        progress = state.progress + right
        time = state.time + running
        completed = right & (progress == 2)
        done = state.done | completed | (with_task & (time >= self.time_limit))
        state = state.replace(cell=cell, progress=progress, time=time, done=done)
        visit = jnp.where(running, cell, -1)
        return state, self.timestep(state, completed.astype(jnp.float32), visit)

    def timestep(self, state, reward, visit):
        subgoal = state.task[jnp.minimum(state.progress, 1)]
        observation = jax.nn.one_hot(state.cell, SIZE, dtype=jnp.uint8)
        return Timestep(observation, reward, state.done, visit, state.progress, subgoal)

    def layout_fingerprint(self, observation):
        return jnp.zeros(observation.shape[:-1], jnp.uint32)

    def scene(self, observation):
        x = jnp.argmax(jnp.asarray(observation), axis=-1)
        place = jnp.stack([x, x], axis=-1)
        lead = observation.shape[:-1]
        return Scene(place, jnp.zeros((*lead, SIZE, 2)), jnp.zeros((*lead, 0, 2)))

    def frames(self, observations, beta=None, code=None):
        return [np.zeros((2, 2, 3), np.uint8) for _ in observations]

    def parse_task(self, text):
        return np.array([int(part) for part in text.split("-")], np.int32)
