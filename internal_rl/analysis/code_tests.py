"""The paper's two tests of codes, with codes out of unconditioned rollouts (method §5).

A code that led a rollout to one colour and no other (`analysis.sampled_codes`) is put into an
episode in another layout, whose codes are random up to then.

- *Test 1*: at a given step, whatever the agent was doing: is the code's colour the next one
  visited?
- *Test 2*: after the agent has visited a colour, a code of a colour to which no pretraining task
  goes from there: is the unseen transition taken?

Both are compared with the same episodes whose random codes go on. Codes that the encoder finds on
expert data are another, easier test: `analysis.encoder_injection`.
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.acting.random_codes import Injection
from internal_rl.analysis.code_bank import CodeBank, choose_codes
from internal_rl.analysis.injected_paths import Pairs, next_visit, pairs_of
from internal_rl.analysis.sampled_codes import Play, Rollouts, fresh_starts, make_play, sample_codes
from internal_rl.methods.code_tests import CodeTestSettings
from internal_rl.models.steered_model import SteeredModel
from internal_rl.types import World

TESTS = ("step", "unseen")
"""Test 1, at a given step, and test 2, the unseen transitions."""
ARMS = ("with", "without")


@struct.dataclass
class Reached:
    """Episodes of one test by place visited last before the injection (`O` for none) and its aim.

    Attributes:
      tried: `(O + 1, O)` int32 episodes in which a code was injected.
      with_code: `(O + 1, O)` int32 of these, those whose next visit is the place aimed at.
      without_code: `(O + 1, O)` int32 the same, where the random codes went on.
    """

    tried: chex.Array
    with_code: chex.Array
    without_code: chex.Array

    @property
    def total(self) -> int:
        """Episodes in which a code was injected."""
        return int(np.sum(self.tried))

    def hits(self, arm: str) -> int:
        """Episodes of an arm of `ARMS` whose next visit is the place aimed at."""
        return int(np.sum(self.with_code if arm == "with" else self.without_code))

    def rate(self, arm: str) -> float:
        """Their share, NaN without any."""
        return self.hits(arm) / self.total if self.total else float("nan")

    def plus(self, other: "Reached") -> "Reached":
        """Both together."""
        return jax.tree.map(np.add, self, other)


@struct.dataclass
class CodeTests:
    """What both tests find.

    Attributes:
      found: `(O,)` int32 codes of each place.
      reached: `Reached` by test; without `unseen` where the world tells no unseen transitions.
      pairs: episodes of test 1 to be drawn; None in a world that tells no scene.
    """

    found: chex.Array
    reached: dict[str, Reached]
    pairs: Pairs | None


def run_test(
    model: SteeredModel,
    bank: CodeBank,
    layout: chex.Array,
    window: tuple[int, int],
    allowed: np.ndarray,
    *,
    start: tuple,
    key: chex.PRNGKey,
    play: Play,
) -> dict[str, Rollouts]:
    """Rollouts of one test by arm, which differ from the injection on alone.

    Args:
      model: base model and metacontroller.
      bank: codes that may be injected.
      layout: `(B,)` layouts of the episodes, whose own codes are not.
      window: first and last step of the injection.
      allowed: `(O + 1, O)` bool, places to aim at by the place visited last.
      start: `B` states and timesteps.
      key: randomness.
      play: of `sampled_codes.make_play`.
    """
    code_key, aim_key, act_key = jax.random.split(key, 3)
    codes, found = choose_codes(bank, layout, allowed.shape[1], code_key)
    preference = jax.random.uniform(aim_key, found.shape, jnp.float32)
    injection = Injection(
        codes=codes,
        preference=jnp.where(found, preference, -jnp.inf),
        allowed=jnp.asarray(allowed),
        first_step=jnp.int32(window[0]),
        last_step=jnp.int32(window[1]),
        enabled=jnp.array(True),
    )
    off = injection.replace(enabled=jnp.array(False))
    return {
        "with": play(model, start, act_key, injection),
        "without": play(model, start, act_key, off),
    }


def injected_at(rollouts: Rollouts) -> tuple[np.ndarray, np.ndarray]:
    """Step of the injection and place aimed at, `(B,)` each; place -1 where there was none."""
    aimed = np.asarray(rollouts.active) & (np.asarray(rollouts.target) >= 0)
    step = np.argmax(aimed, axis=1)
    target = np.take_along_axis(np.asarray(rollouts.target), step[:, None], axis=1)[:, 0]
    return step, np.where(aimed.any(axis=1), target, -1)


def last_visit(visit: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Place visited last before a step, `(B,)`, -1 for none.

    Args:
      visit: `(B, T)` place that each step entered, -1 for none.
      step: `(B,)`.
    """
    before = (visit >= 0) & (np.arange(visit.shape[1]) < step[:, None])
    last = visit.shape[1] - 1 - np.argmax(before[:, ::-1], axis=1)
    return np.where(before.any(axis=1), visit[np.arange(len(visit)), last], -1)


def count_reached(arms: Mapping[str, Rollouts], num_places: int) -> Reached:
    """Counts how often the next place visited is the one aimed at."""
    counts = {}
    for arm, rollouts in arms.items():
        step, target = injected_at(rollouts)
        visit = np.asarray(rollouts.visit)
        before, after = last_visit(visit, step), next_visit(visit, step)
        for name, chosen in (("tried", target >= 0), (arm, (target >= 0) & (after == target))):
            table = np.zeros((num_places + 1, num_places), np.int32)
            np.add.at(table, (before[chosen], target[chosen]), 1)
            counts[name] = table
    return Reached(counts["tried"], counts["with"], counts["without"])


def examine_codes(
    world: World,
    model: SteeredModel,
    key: chex.PRNGKey,
    num_episodes: int,
    settings: CodeTestSettings,
) -> CodeTests:
    """Collects codes and runs both tests.

    Args:
      world: tells visits and layouts, and runs free of any task.
      model: base model and metacontroller, whose gate and decoder are used.
      key: randomness.
      num_episodes: rollouts of the source, and episodes per test and arm.
      settings: how codes are collected, and when they are injected.
    """
    source_key, start_key, *test_keys = jax.random.split(key, 4)
    play, num_places = make_play(world), world.num_places
    bank = sample_codes(world, model, source_key, num_episodes, settings, play=play)
    start = fresh_starts(world, start_key, num_episodes)
    layout = jax.jit(world.layout_fingerprint)(start[1].observation)
    moment = settings.injection_moment(world.time_limit)
    tests = {"step": ((moment, moment), another_place(num_places))}
    if hasattr(world, "unseen_transitions"):
        window = (0, world.time_limit - 1)
        tests["unseen"] = (window, from_to(num_places, world.unseen_transitions))
    reached, pairs = {}, None
    for (name, (window, allowed)), test_key in zip(tests.items(), test_keys, strict=False):
        arms = run_test(model, bank, layout, window, allowed, start=start, key=test_key, play=play)
        reached[name] = count_reached(arms, num_places)
        if name == "step" and arms["with"].place is not None:
            pairs = pairs_of(arms, injected_at(arms["with"]), world.scene(start[1].observation))
    goal = np.asarray(bank.goal)
    return CodeTests(np.bincount(goal[goal >= 0], minlength=num_places), reached, pairs)


def another_place(num_places: int) -> np.ndarray:
    """`(O + 1, O)` bool: every place but the one visited last may be aimed at."""
    return ~np.eye(num_places + 1, num_places, dtype=bool)


def from_to(num_places: int, transitions: set[tuple[int, int]]) -> np.ndarray:
    """`(O + 1, O)` bool: certain transitions alone."""
    allowed = np.zeros((num_places + 1, num_places), bool)
    for before, after in transitions:
        allowed[before, after] = True
    return allowed
