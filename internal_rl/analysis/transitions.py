"""Which place the base model visits after which, when no task has a say (method §3).

In free-running episodes nothing of the task ends an episode. Movement and observation do not depend
on the task, so this is the same world that only records.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
from flax import struct

from internal_rl.acting.episodes import NOWHERE, Episodes, NoControl, play
from internal_rl.analysis.base_model import sampling_keys
from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.study import Study, StudyContext, as_arrays, choose_slots
from internal_rl.analysis.table import Row, make_row
from internal_rl.envs.world import kept_by_first
from internal_rl.models.steered_model import SteeredModel
from internal_rl.training.mesh import by_all_devices
from internal_rl.types import World


@struct.dataclass
class Transitions:
    """How often which transition between places is taken.

    Attributes:
      transition_counts: `(O, O)` visits of the second place next after the first one.
      unseen_transition_rate: `()` of the visits of another place that follow a place with an unseen
        transition, the share that takes it.
      unseen_transition_rate_overall: `()` the same over all transitions between different places.
      transitions: `()` number of these.
    """

    transition_counts: chex.Array
    unseen_transition_rate: chex.Array
    unseen_transition_rate_overall: chex.Array
    transitions: chex.Array


def visited_places(episodes: Episodes) -> chex.Array:
    """`(B, T)` place that each step entered, `NOWHERE` for none and behind an episode's end."""
    return jnp.where(episodes.active, episodes.visit, NOWHERE)


def transition_counts(visit: chex.Array, num_places: int, max_visits: int) -> chex.Array:
    """How often place `c'` was the next one visited after place `c`.

    Args:
      visit: `(N, T)` int32 place entered by each step, -1 for none.
      num_places: `O`.
      max_visits: only the first `max_visits` visits of an episode count. The base model has never
        seen a trajectory go on after its task, so what it does later says little about it.

    Returns:
      `(O, O)` float32 counts; entering the same place again counts on the diagonal.
    """

    def step(last, inputs):
        place, counted = inputs
        here = jax.nn.one_hot(jnp.where(counted, place, NOWHERE), num_places, dtype=jnp.float32)
        before = jax.nn.one_hot(last, num_places, dtype=jnp.float32)
        return jnp.where(place >= 0, place, last), jnp.einsum("bi,bj->ij", before, here)

    visit = jnp.asarray(visit)
    counted = jnp.cumsum(visit >= 0, axis=1) <= max_visits
    start = jnp.full(visit.shape[0], NOWHERE, visit.dtype)
    _, counts = jax.lax.scan(step, start, (visit.T, counted.T))
    return jnp.sum(counts, axis=0)


def unseen_transition_rate(counts: chex.Array, unseen: set[tuple[int, int]]) -> Transitions:
    """How often the base model takes a transition that its training data never hold.

    Args:
      counts: `(O, O)` from `transition_counts`.
      unseen: transitions `(c, c')` that only the post-training task needs.
    """
    places = jnp.arange(counts.shape[0])
    between = counts * (places[:, None] != places)
    pairs = jnp.array(sorted(unseen), jnp.int32).reshape(-1, 2)
    taken = jnp.sum(between[pairs[:, 0], pairs[:, 1]])
    from_sources = jnp.sum(between[jnp.unique(pairs[:, 0])])
    return Transitions(
        transition_counts=counts,
        unseen_transition_rate=taken / jnp.maximum(from_sources, 1.0),
        unseen_transition_rate_overall=taken / jnp.maximum(jnp.sum(between), 1.0),
        transitions=jnp.sum(between),
    )


def count_transitions(
    world: World, model: SteeredModel, key: chex.PRNGKey, num_episodes: int
) -> Transitions:
    """Lets the base model run free and counts the transitions that it takes.

    Args:
      world: the world; tells visits and transitions, and can run free of a task.
      model: the base model.
      key: randomness.
      num_episodes: how many episodes. Each counts up to the number of visits of the longest
        pretraining task.
    """
    counts = _make_count(world, num_episodes)(model.alone(), key)
    return unseen_transition_rate(counts, world.unseen_transitions)


@kept_by_first(maxsize=4)
def _make_count(world: World, num_episodes: int) -> Callable:
    """The program of `count_transitions`."""

    @by_all_devices
    def run(model, key):
        episodes = play(
            world,
            model,
            NoControl(),
            key,
            num_episodes,
            free_running=True,
            keep=("visit",),
            num_slots=choose_slots(num_episodes),
            shared=True,
        )
        visit = visited_places(episodes)
        return transition_counts(visit, world.num_places, world.num_pretraining_visits)

    return run


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`Transitions`."""
    _, key = sampling_keys()
    return as_arrays(count_transitions(context.world, context.model, key, context.num_episodes))


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """The rate of unseen transitions."""
    del stage
    name = "unseen_transition_rate"
    label = "base model, rate of the unseen transitions"
    return [make_row(f"base_{name}", label, seeds, lambda s: s.scalar(name))]


STUDY = Study(
    name="transitions",
    stages=("pretrain",),
    needs=frozenset({"visits", "transitions", "free_running"}),
    measure=measure,
    rows=rows,
    order=20,
    title="Transitions that were never seen",
)
