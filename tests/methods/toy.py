"""A data source without a world, whose expert acts on what it sees and wants, and a model."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.types import ActionSpec, ObservationSpec, Trajectory

NUM_SUBGOALS = 3
NUM_ACTIONS = 4
# Two trajectories of 9 actions and a last observation, then padding.
SEGMENT = np.array([0] * 10 + [1] * 10 + [-1] * 4)
MASK = (SEGMENT >= 0) & (np.arange(24) % 10 < 9)
CHANGE = 5

OBSERVATION_SPECS = {
    "bernoulli": ObservationSpec("bernoulli", NUM_ACTIONS + 1, np.uint8),
    "gaussian": ObservationSpec("gaussian", NUM_ACTIONS + 1),
}
ACTION_SPECS = {
    "categorical": ActionSpec("categorical", NUM_ACTIONS),
    "gaussian": ActionSpec("gaussian", 2),
}
SIZES = {"width": 16, "depth": 2, "num_heads": 2, "head_size": 8, "mlp_size": 16}


RISING_STEPS = (0, 10, 15, 30, 99)
RISING_SHARES = [
    (0, 0, [1, 1, 1, 1, 1]),
    (0, 20, [0.05, 0.55, 0.8, 1, 1]),
    (10, 20, [0, 0.05, 0.3, 1, 1]),
    (10, 0, [0, 1, 1, 1, 1]),
]
"""What is zero for `free` updates and rises over `ramp`, with its shares at `RISING_STEPS`."""


def make_base(observation_head="bernoulli", action_head="categorical", **fields):
    """An unbound base model; the config has `fields` on top."""
    specs = OBSERVATION_SPECS[observation_head], ACTION_SPECS[action_head]
    return BaseModel(*specs, BaseConfig(init_scale=1.0, **SIZES | fields), max_length=10)


@dataclasses.dataclass(frozen=True)
class ToySource:
    """Rows of two trajectories; the subgoal of each changes once.

    The observation shows a number `u` as one of four, and whether the subgoal is the first one; the
    action is `u + g` modulo four, for continuous actions as a point on the circle.
    """

    observation_head: str = "bernoulli"
    action_head: str = "categorical"
    labelled: bool = True
    padded: bool = True
    trajectories_per_row: float = 2.0
    sequence_length: int = len(SEGMENT)

    @property
    def arrays(self) -> Any:
        """Read by every call: what an action is turned by."""
        return {"turn": jnp.int32(0)}

    def init(self, key, num_rows):
        return {"key": jax.random.key_data(key), "rows": jnp.zeros(num_rows, jnp.int32)}

    def next(self, position, arrays):
        key, after = jax.random.split(jax.random.wrap_key_data(position["key"]))
        rows = self._rows(key, len(position["rows"]), arrays)
        return position | {"key": jax.random.key_data(after)}, rows

    def held_out(self, key, num_rows, arrays):
        return self._rows(key, num_rows, arrays)

    def references(self, key, num_trajectories):
        return {}

    # Outside of programs too it is one, where every operation would be.
    @functools.partial(jax.jit, static_argnums=(0, 2))
    def _rows(self, key, num_rows, arrays) -> Trajectory:
        shape = (num_rows, self.sequence_length)
        number_key, goal_key, noise_key = jax.random.split(key, 3)
        number = jax.random.randint(number_key, shape, 0, NUM_ACTIONS, jnp.int32)
        goals = jax.random.randint(goal_key, (num_rows, 3), 0, NUM_SUBGOALS, jnp.int32)
        subgoal = goals[:, np.maximum(SEGMENT, 0)] + (np.arange(24) % 10 >= CHANGE)
        subgoal = jnp.where(SEGMENT >= 0, subgoal % NUM_SUBGOALS, -1).astype(jnp.int32)
        shown = jax.nn.one_hot(number, NUM_ACTIONS + 1, dtype=jnp.float32)
        shown = shown.at[..., -1].set(subgoal == 0)
        if self.observation_head == "bernoulli":
            observation = shown.astype(jnp.uint8)
        else:
            observation = shown + 0.1 * jax.random.normal(noise_key, shown.shape, jnp.float32)
        action = (number + subgoal + arrays["turn"]) % NUM_ACTIONS
        if self.action_head == "gaussian":
            angle = action * (2 * np.pi / NUM_ACTIONS)
            action = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1).astype(jnp.float32)
        segment = SEGMENT if self.padded else np.where(SEGMENT < 0, 2, SEGMENT)
        every_row = jnp.zeros((num_rows, 1), jnp.int32)
        return Trajectory(
            observation=observation,
            next_observation=jnp.roll(observation, -1, axis=1),
            action=action,
            mask=MASK & (every_row == 0),
            subgoal=subgoal if self.labelled else None,
            segment=segment.astype(np.int32) + every_row,
        )
