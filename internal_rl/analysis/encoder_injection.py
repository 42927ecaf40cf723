"""Do codes that the encoder found on expert data carry over? Not the paper's test of codes.

A code collected on the way to a subgoal is injected into a new episode in another layout, at its
start or after some visits, and held until the gate asks for a new one. How often the subgoal's
place is then the next one visited is compared with what the base model does alone from the same
states with the same random numbers, and with a code drawn from the prior N(0, I).

The encoder has seen where the trajectory of a code went, which makes this easier than the paper's
test (`analysis.injection`). Their figures say different things and are not to be compared.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from matplotlib.figure import Figure

from internal_rl.acting.controls import InjectedCode
from internal_rl.acting.episodes import NOWHERE, Episodes, act, start_worlds
from internal_rl.analysis.code_bank import CodeBank, bank_of, choose_codes
from internal_rl.analysis.code_stages import Captions, code_stages, of_each_stage
from internal_rl.analysis.drawing import legend, palette, panels, tell
from internal_rl.analysis.results import RunResults, SeedResults, standing, with_artifact
from internal_rl.analysis.statistics import quartiles
from internal_rl.analysis.study import LABELS, Study, StudyContext, as_arrays, choose_slots
from internal_rl.analysis.table import Row, variant_prefixes, variant_rows
from internal_rl.analysis.transitions import visited_places
from internal_rl.envs.world import kept_by_first
from internal_rl.methods.switching import SWITCH_THRESHOLD
from internal_rl.models.steered_model import SteeredModel
from internal_rl.training.mesh import by_all_devices
from internal_rl.types import World

INJECTION_MOMENTS = (0, 1)
"""Numbers of visits after which a code is injected."""

ARMS = ("injected", "prior", "uncontrolled")
"""What takes hold of the episode: a collected code, a code from N(0, I), or nothing."""
_ARM_LABELS = {"injected": "injected", "prior": "random code", "uncontrolled": "no code"}
_ENABLED = (True, True, False)

ROW_LABELS = {
    "injection_0_reach_injected": "encoder's code injected at the start, reaches its colour",
    "injection_0_reach_uncontrolled": "colour of the encoder's code reached without a code, at the"
    " start",
    "injection_0_reach_prior": "colour of the encoder's code reached with a random code, at the"
    " start",
    "injection_0_reach_gain": "encoder's code over none, at the start",
    "injection_1_reach_gain": "encoder's code over none, after one visit",
    "injection_1_reach_unseen_injected": "encoder's code injected, unseen transition taken",
    "injection_1_reach_unseen_uncontrolled": "unseen transition of the encoder's code taken without"
    " a code",
}


@struct.dataclass
class Reach:
    """How often the place aimed at is the next one visited, by arm.

    Attributes:
      reach_injected: with a collected code.
      reach_prior: with a code from the prior.
      reach_uncontrolled: without a code.
      reach_gain: injected over uncontrolled; NaN where the latter never reaches it.
      reach_unseen_injected: as `reach_injected`, where place before and place aimed at make an
        unseen transition; NaN if none did, None where the world tells no unseen transitions.
      reach_unseen_prior: likewise.
      reach_unseen_uncontrolled: likewise.
      reach_injected_episodes: of how many episodes `reach_injected` is the share.
      reach_prior_episodes: likewise.
      reach_uncontrolled_episodes: likewise.
      reach_unseen_injected_episodes: of how many episodes `reach_unseen_injected` is the share;
        None where the world tells no unseen transitions.
      reach_unseen_prior_episodes: likewise.
      reach_unseen_uncontrolled_episodes: likewise.
    """

    reach_injected: float
    reach_prior: float
    reach_uncontrolled: float
    reach_gain: float
    reach_unseen_injected: float | None = None
    reach_unseen_prior: float | None = None
    reach_unseen_uncontrolled: float | None = None
    reach_injected_episodes: int = 0
    reach_prior_episodes: int = 0
    reach_uncontrolled_episodes: int = 0
    reach_unseen_injected_episodes: int | None = None
    reach_unseen_prior_episodes: int | None = None
    reach_unseen_uncontrolled_episodes: int | None = None


def nth_visit(visit: chex.Array, n: chex.Array) -> chex.Array:
    """Place of the `n`-th visit (from 1) of each episode: `(N, T)` to `(N,)`, -1 if none."""
    is_nth = (jnp.cumsum(visit >= 0, axis=1) == n) & (visit >= 0)
    return jnp.max(jnp.where(is_nth, visit, NOWHERE), axis=1)


def inject_codes(
    world: World,
    model: SteeredModel,
    bank: CodeBank,
    key: chex.PRNGKey,
    num_episodes: int,
    *,
    after_visits: chex.Numeric = 0,
) -> dict[str, chex.Array]:
    """Where episodes go next once a code has been injected, against the two controls.

    Until the injection, and after the gate has asked for another code, the base model acts alone.
    All arms start from the same states, aim at the same targets and use the same random numbers.

    Args:
      world: tells visits, the places of its subgoals and layouts, and runs free of any task.
      model: base model and metacontroller, whose gate and decoder are used.
      bank: codes to inject, see `code_bank.collect_codes`.
      key: randomness.
      num_episodes: episodes per arm.
      after_visits: `()` number of visits after which a code is injected, 0 for the start.

    Returns:
      For each of `ARMS`, `(O + 1, G, O + 1)` float32 counts of episodes by place visited last
      before the injection, subgoal aimed at, and place visited next; index `O` stands for none.
      Episodes that never came to an injection, or had no code to inject, are left out.
    """
    start_key, code_key, prior_key, target_key, act_key = jax.random.split(key, 5)
    start = start_worlds(world, start_key, world.post_training_task, num_episodes)
    layout = world.layout_fingerprint(start[1].observation)
    codes, found = choose_codes(bank, layout, world.num_subgoals, code_key)
    preference = jax.random.uniform(target_key, found.shape, jnp.float32)
    preference = jnp.where(found, preference, -jnp.inf)
    prior = jax.random.normal(prior_key, codes.shape, codes.dtype)

    def run_arm(arm):
        arm_codes, enabled = arm
        control = InjectedCode(
            codes=arm_codes,
            preference=preference,
            first_place=jnp.asarray(world.subgoal_places),
            after_visits=after_visits,
            enabled=enabled,
            threshold=SWITCH_THRESHOLD,
            num_keys=InjectedCode.keys_for(model),
        )
        episodes = act(
            world,
            model,
            control,
            start,
            act_key,
            free_running=True,
            keep=("visit",),
            num_slots=choose_slots(num_episodes),
            shared=True,
        )
        return _count(world, visited_places(episodes), _last_target(episodes), after_visits)

    # One compiled program plays the arms one after the other.
    counts = jax.lax.map(run_arm, (jnp.stack([codes, prior, codes]), jnp.array(_ENABLED)))
    return dict(zip(ARMS, counts, strict=True))


def _last_target(episodes: Episodes) -> chex.Array:
    """Subgoal that each episode aimed at in the end, `(B,)`, -1 if it never did."""
    last = jnp.maximum(episodes.length - 1, 0)[:, None]
    return jnp.take_along_axis(episodes.record["target"], last, axis=1)[:, 0]


def _count(
    world: World, visit: chex.Array, target: chex.Array, after_visits: chex.Numeric
) -> chex.Array:
    """Episodes by place before, subgoal aimed at and place after, see `inject_codes`."""
    num_places = world.num_places
    before, after = nth_visit(visit, after_visits), nth_visit(visit, after_visits + 1)

    def indicator(index, size):
        return jax.nn.one_hot(index, size, dtype=jnp.float32)

    return jnp.einsum(
        "ni,nj,nk->ijk",
        indicator(before % (num_places + 1), num_places + 1),
        indicator(target, world.num_subgoals),
        indicator(after % (num_places + 1), num_places + 1),
    )


def injection_metrics(
    counts: Mapping[str, chex.Array],
    first_place: chex.Array,
    unseen: set[tuple[int, int]] | None = None,
) -> Reach:
    """How often the place aimed at is the next one visited.

    Args:
      counts: from `inject_codes`.
      first_place: `(G,)` place that a subgoal enters first.
      unseen: transitions that the base model's training data never hold; None if not known.
    """
    first_place = np.asarray(first_place)
    subgoals = np.arange(len(first_place))
    num_places = next(iter(counts.values())).shape[0] - 1

    def rates(name, chosen):
        found = {}
        for arm in ARMS:
            table = np.asarray(counts[arm]) * chosen[..., None]
            total = table.sum()
            hits = table[:, subgoals, first_place].sum()
            found[f"{name}_{arm}"] = float(hits / total) if total else float("nan")
            found[f"{name}_{arm}_episodes"] = int(total)
        return found

    metrics = rates("reach", np.ones((num_places + 1, len(subgoals)), bool))
    alone = metrics["reach_uncontrolled"]
    gain = metrics["reach_injected"] / alone if alone else float("nan")
    if unseen is not None:
        is_unseen = np.zeros((num_places + 1, len(subgoals)), bool)
        for before, after in unseen:
            is_unseen[before] |= first_place == after
        metrics |= rates("reach_unseen", is_unseen)
    return Reach(**metrics, reach_gain=gain)


def examine_injection(
    world: World, model: SteeredModel, bank: CodeBank, key: chex.PRNGKey, num_episodes: int
) -> dict[int, Reach]:
    """`Reach` for each of `INJECTION_MOMENTS`.

    Args:
      world: see `inject_codes`.
      model: base model and metacontroller.
      bank: codes to inject.
      key: randomness, the same at each moment.
      num_episodes: episodes per arm and moment.
    """
    inject = _make_inject(world, num_episodes)
    unseen = getattr(world, "unseen_transitions", None)
    return {
        visits: injection_metrics(inject(model, bank, key, visits), world.subgoal_places, unseen)
        for visits in INJECTION_MOMENTS
    }


@kept_by_first(maxsize=4)
def _make_inject(world: World, num_episodes: int) -> Callable:
    """One program for all moments and seeds."""

    @by_all_devices
    def inject(model, bank, key, visits):
        return inject_codes(world, model, bank, key, num_episodes, after_visits=visits)

    return inject


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`Reach` of each moment as `injection_<visits>_<field>`."""
    found = examine_injection(
        context.world,
        context.model,
        bank_of(context),
        context.examination_keys["inject"],
        context.num_episodes,
    )
    # Artifacts keep the names that finished runs have given them.
    arrays = {}
    for visits, reach in found.items():
        arrays |= as_arrays(reach, f"injection_{visits}_")
    return arrays


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """How often codes lead where they should, and of how many episodes that is the share.

    Runs of a time before their number was kept have none.
    """
    found = []
    for name, row in zip(ROW_LABELS, variant_rows(stage, seeds, "codes", ROW_LABELS), strict=True):
        episodes = tuple(int(s.artifacts.get(f"{name}_episodes", 0)) for s in seeds)
        found.append(dataclasses.replace(row, episodes=episodes if any(episodes) else ()))
    return found


@of_each_stage
def figures(run: RunResults, stage: str) -> dict[str, Figure | None]:
    """How often each arm reaches the place aimed at."""
    reach = {}
    for visits in INJECTION_MOMENTS:
        names = [f"injection_{visits}_reach_{arm}" for arm in ARMS]
        seeds = with_artifact(run, stage, names[0])
        if seeds:
            values = [
                float(quartiles(np.array([results.scalar(name) for results in seeds]))[1])
                for name in names
            ]
            reach[_moment(visits)] = dict(zip(ARMS, values, strict=True))
            counted = seeds
    if not reach:
        return {}
    figure = injected_codes(reach)
    tell(figure, f"{variant_prefixes(stage)[1]}Median over {standing(counted)}")
    return {"encoder_code_injection": figure}


def _moment(visits: int) -> str:
    return "at the start" if visits == 0 else f"after visit {visits}"


def reach_by_moment(found: Mapping[int, Reach]) -> dict[str, dict[str, float]]:
    """Rates by arm, by label of the moment, of `examine_injection`."""
    return {
        _moment(visits): {arm: getattr(reach, f"reach_{arm}") for arm in ARMS}
        for visits, reach in found.items()
    }


def injected_codes(reach: Mapping[str, Mapping[str, float]]) -> Figure:
    """How often the place aimed at is visited next, with a collected code and without.

    Args:
      reach: rate by arm (`ARMS`), by label of the moment of injection.
    """
    figure, axes = panels(1, 1, (5.2, 3.6))
    panel = axes[0, 0]
    arms = list(next(iter(reach.values())))
    width = 0.8 / len(arms)
    for i, (arm, colour) in enumerate(zip(arms, palette(len(arms)), strict=True)):
        at = np.arange(len(reach)) + (i - (len(arms) - 1) / 2) * width
        heights = [rates[arm] for rates in reach.values()]
        bars = panel.bar(at, heights, 0.92 * width, color=colour, label=_ARM_LABELS[arm])
        panel.bar_label(bars, fmt="%.2f", fontsize=8)
    panel.set_xticks(range(len(reach)), list(reach))
    panel.set(ylim=(0, 1.1), ylabel="next place is the one aimed at")
    panel.grid(False, axis="x")
    legend(panel, ncols=len(arms), loc="upper center")
    figure.suptitle("Codes that the encoder found, in other episodes", fontsize=11)
    return figure


STUDY = Study(
    name="encoder_injection",
    stages=code_stages,
    needs=frozenset({LABELS, "visits", "subgoals", "subgoal_places", "layouts", "free_running"}),
    measure=measure,
    rows=rows,
    figures=figures,
    order=30,
    title="Codes that the encoder found, injected into other episodes",
    captions=Captions(
        encoder_code_injection="How often the next place visited is the one aimed at: with a "
        "code that the encoder found on expert data, with a random code, and without a code, by "
        "the moment of injection. An easier test than that of codes out of random rollouts.",
    ),
)
