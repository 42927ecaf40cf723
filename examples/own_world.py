"""A world of your own with your own trajectories, in one file outside of the package.

A castle with five rooms: key, door, treasure, well and hearth. At every crossing between them a
signpost shows for each room whether it lies to the left or to the right. The room whose signs were
followed six times first is the one that is entered. A task is a list of rooms, never shown: who
enters another room than the next fails. The held-out task is to fetch the key, go to the door and
take the treasure; no trajectory goes from key to door or from door to treasure.

    python examples/own_world.py runs/castle

trains everything within half an hour on two cores; `smoke` behind it only shows that all works.
"""

import dataclasses
import sys
from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import internal_rl as irl

K = 5  # rooms
HELD_OUT = (0, 1, 2)
CROSSINGS = 6  # that lie at least between two rooms
NOISE = 0.1  # share of random turns in D; none in the cleaner D*


@dataclasses.dataclass(frozen=True)
class CastleConfig:
    """Settings of the castle."""

    time_limit: int = 48


@struct.dataclass
class Castle:
    """State: the signs `(T + 1, K)` of all crossings to come, and where the walker is."""

    signs: jax.Array
    task: jax.Array
    followed: jax.Array  # (K,) how often the signs of each room were, since the last room
    room: jax.Array  # the last room, -1 at first
    progress: jax.Array
    time: jax.Array
    done: jax.Array


class CastleWorld:
    """The world; visits, progress and subgoals are what it tells beyond the protocol."""

    observation_spec = irl.ObservationSpec("bernoulli", (2 + CROSSINGS) * K, np.uint8)
    action_spec = irl.ActionSpec("categorical", 2)
    post_training_task = np.array(HELD_OUT, np.int32)
    num_places = num_subgoals = K
    subgoal_places = np.arange(K)
    unseen_transitions = frozenset(pairwise(HELD_OUT))
    num_pretraining_visits = len(HELD_OUT)

    def __init__(self, config):
        self.time_limit = config.time_limit

    def reset(self, key, task):
        """Before the first crossing, with all rooms to choose from."""
        signs = jax.random.bernoulli(key, 0.5, (self.time_limit + 1, K))
        counters = (jnp.int32(start) for start in (-1, 0, 0))
        state = Castle(signs, jnp.array(task), jnp.zeros(K, jnp.int32), *counters, jnp.bool_(False))
        return state, self._timestep(state, jnp.float32(0), jnp.int32(-1))

    def step(self, state, action):
        """Turns left (0) or right (1)."""
        followed = state.followed + (state.signs[state.time] == (action == 1))
        time, most = state.time + ~state.done, followed.max()
        arrived = (most >= CROSSINGS) & ((followed == most).sum() == 1) & ~state.done
        visit = jnp.where(arrived, jnp.argmax(followed), -1).astype(jnp.int32)
        right = arrived & (visit == self._goal(state))
        complete = right & (state.progress + 1 == len(state.task))
        failed = (arrived & ~right) | (time >= self.time_limit)
        new = Castle(
            signs=state.signs,
            task=state.task,
            followed=jnp.where(arrived, 0, followed),
            room=jnp.where(arrived, visit, state.room),
            progress=state.progress + right,
            time=time,
            done=complete | failed,
        )
        new = jax.tree.map(lambda old, now: jnp.where(state.done, old, now), state, new)
        return new, self._timestep(new, complete.astype(jnp.float32), visit)

    def _goal(self, state):
        return state.task[jnp.minimum(state.progress, len(state.task) - 1)]

    def _timestep(self, state, reward, visit):
        at = jnp.arange(K) == state.room
        count = (state.followed[:, None] > jnp.arange(CROSSINGS)).reshape(-1)
        seen = jnp.concatenate([state.signs[state.time], at, count]).astype(jnp.uint8)
        return irl.Timestep(seen, reward, state.done, visit, state.progress, self._goal(state))


def make_data(request):
    """The trajectories that a stage asks for, as arrays: walkers who follow the right signs."""
    world, noise = request.world, 0.0 if request.role == "clean" else NOISE
    tasks = product(range(K), repeat=len(HELD_OUT))
    if request.role == "curriculum":  # the next room is certain: one less, around the circle
        tasks = [task for task in tasks if all((a - b) % K == 1 for a, b in pairwise(task))]
    else:
        unseen = world.unseen_transitions
        tasks = [t for t in tasks if all(a != b and (a, b) not in unseen for a, b in pairwise(t))]

    def walk(key, task):
        def step(carry, lot):
            state, shown = carry
            turn = state.signs[state.time, shown.subgoal]
            action = jnp.where(lot < noise, lot < noise / 2, turn).astype(jnp.int32)
            return world.step(state, action), (shown, action)

        lots = jax.random.uniform(jax.random.fold_in(key, 1), (world.time_limit,))
        end, (shown, action) = jax.lax.scan(step, world.reset(key, task), lots)
        observation = jnp.concatenate([shown.observation, end[1].observation[None]])
        return observation, action, shown.subgoal, (~shown.done).sum(), end[0].progress

    seed = ("pretraining", "clean", "curriculum").index(request.role)  # no walk has two roles
    keys = jax.random.split(jax.random.key(seed), 20_000)
    tasks = np.array(tasks)[np.random.default_rng(seed).integers(len(tasks), size=len(keys))]
    *arrays, progress = map(np.asarray, jax.jit(jax.vmap(walk))(keys, tasks))
    observation, action, subgoal, length = (x[progress == len(HELD_OUT)] for x in arrays)
    return irl.Dataset.from_arrays(observation, action, length, subgoal, sequence_length=128)


PRESETS = {name: CastleConfig() for name in ("smoke", "small")}
irl.register_world("castle", CastleWorld, config=CastleConfig, presets=PRESETS, data=make_data)
SHORT = {"baseline_steps": 500, "curriculum_tasks": "circle"}
BASE = {"steps": 1_500, "curriculum_steps": 500, "evaluation_episodes": 4_096, **SHORT}
CODES = {"layer": 1, "steps": 2_000}  # higher up the model's own belief is harder to overrule
POLICY, RAW = {"steps": 250, "initial_std": 1.5}, {"steps": 250}
OVERLAYS = {
    "small": {"pretrain": BASE, "metacontroller": CODES, "internal_rl": POLICY, "raw_rl": RAW},
    "smoke": {"pretrain": {"curriculum_steps": 2, **SHORT, "baseline_steps": 20}},
}


if __name__ == "__main__":
    workdir, preset = ([*sys.argv[1:], "small"] if sys.argv[1:] else sys.exit(__doc__))[:2]
    irl.testing.check_world(irl.make_world("castle", preset))
    config = irl.make_config("castle", preset, OVERLAYS, size=preset)
    stages = ["pretrain", "probe", "metacontroller", "internal_rl", "raw_rl", "report"]
    irl.run_stages(config, workdir, stages)
