"""How well the base model predicts, and whether it can solve the task alone (method §3)."""

import math
from collections.abc import Callable, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from internal_rl.acting.episodes import SOLVABLE, NoControl, play
from internal_rl.analysis.drawing import (
    REFERENCE_STYLES,
    draw_band,
    draw_references,
    legend,
    panels,
    tell,
)
from internal_rl.analysis.results import (
    RunResults,
    SeedResults,
    stacked_curves,
    standing,
    with_curve,
)
from internal_rl.analysis.study import Study, StudyContext, as_arrays, choose_slots
from internal_rl.analysis.table import Row, make_row
from internal_rl.colours import OKABE_ITO
from internal_rl.envs.world import kept_by_first
from internal_rl.methods.evaluation import evaluation_key
from internal_rl.models.steered_model import SteeredModel
from internal_rl.training.mesh import by_all_devices
from internal_rl.types import World


@struct.dataclass
class SampledSuccess:
    """What the base model alone reaches on the post-training task.

    Attributes:
      sampled_success: `()` share of episodes.
      sampled_episodes: how many there were.
      sampled_solvable: `()` of these, those that could have succeeded; None in a world in which
        all could, or that does not tell.
      sampled_solvable_success: `()` share of these; None likewise.
    """

    sampled_success: chex.Array
    sampled_episodes: int
    sampled_solvable: chex.Array | None = None
    sampled_solvable_success: chex.Array | None = None


def sampling_keys() -> tuple[chex.PRNGKey, chex.PRNGKey]:
    """Keys of episodes on the task, and of those that run free of it."""
    ruled, free = jax.random.split(evaluation_key("sampling"))
    return ruled, free


def sample_success(
    world: World, model: SteeredModel, key: chex.PRNGKey, num_episodes: int
) -> SampledSuccess:
    """Lets the base model play the post-training task, which it has never seen.

    Args:
      world: the world.
      model: the base model.
      key: randomness.
      num_episodes: how many episodes.
    """
    return _make_sample(world, num_episodes)(model.alone(), key)


@kept_by_first(maxsize=4)
def _make_sample(world: World, num_episodes: int) -> Callable:
    """The program of `sample_success`."""

    @by_all_devices
    def run(model, key):
        episodes = play(
            world,
            model,
            NoControl(),
            key,
            num_episodes,
            keep=("reward", SOLVABLE),
            num_slots=choose_slots(num_episodes),
            shared=True,
        )
        found = SampledSuccess(jnp.mean(episodes.success, dtype=jnp.float32), num_episodes)
        if episodes.solvable is None:
            return found
        count = jnp.sum(episodes.solvable, dtype=jnp.int32)
        return found.replace(
            sampled_solvable=count, sampled_solvable_success=episodes.solvable_success
        )

    return run


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`SampledSuccess`."""
    key, _ = sampling_keys()
    return as_arrays(sample_success(context.world, context.model, key, context.num_episodes))


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """Cross-entropy, its references, and the sampled success."""
    del stage
    cross_entropy, bayes = "evaluation/action_nll", "reference/bayes"
    label = "base model, held-out cross-entropy (nats)"
    found = [
        make_row("pretrain_cross_entropy", label, seeds, lambda s: s.last(cross_entropy)),
        make_row(
            "pretrain_excess",
            "base model, cross-entropy above the Bayes reference (nats)",
            seeds,
            lambda s: s.last(cross_entropy) - s.last(bayes),
        ),
    ]
    for name in ("bayes", "goal_blind", "goal_given", "constant", "one_step"):
        label = f"reference {name.replace('_', '-')} (nats)"
        key = f"reference/{name}"
        found.append(make_row(f"reference_{name}", label, seeds, lambda s, key=key: s.last(key)))
    name = "sampled_success"
    label = "base model sampled on the post-training task, success"

    def episodes(s):
        return int(s.artifacts.get("sampled_episodes", 0))

    sampled = make_row(f"base_{name}", label, seeds, lambda s: s.scalar(name), episodes)
    in_solvable = make_row(
        "base_sampled_solvable_success",
        f"{label} where the layout allows it",
        seeds,
        lambda s: s.scalar("sampled_solvable_success"),
        lambda s: int(s.artifacts.get("sampled_solvable", 0)),
    )
    return [*found, sampled, in_solvable]


def known_references(results: SeedResults) -> dict[str, float]:
    """References that stand beside the curves of a seed, in nats per action."""
    values = {name: results.last(f"reference/{name}") for name in REFERENCE_STYLES}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def figures(run: RunResults) -> dict[str, Figure | None]:
    """The curve of pretraining."""
    seeds = run.get("pretrain", ())
    steps, values = stacked_curves(seeds, "action_nll")
    if not len(steps):
        return {}
    batch_size = seeds[0].config["pretrain"]["batch_size"]
    held_steps, held_out = stacked_curves(seeds, "evaluation/action_nll")
    figure = pretraining_curve(
        steps * batch_size,
        values,
        known_references(seeds[0]),
        (held_steps * batch_size, held_out) if len(held_steps) else None,
    )
    drawn = standing(with_curve(seeds, "action_nll"))
    tell(figure, f"Median and quartiles over {drawn}; references of the first seed")
    return {"pretraining": figure}


def pretraining_curve(
    trajectories: np.ndarray,
    cross_entropy: np.ndarray,
    references: Mapping[str, float],
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Next-action NLL of the base model beside exact references, or baselines.

    Args:
      trajectories: `(N,)` expert trajectories seen.
      cross_entropy: `(seeds, N)` on the training stream, nats per action.
      references: value by name, see `drawing.REFERENCE_STYLES`.
      held_out: trajectories `(M,)` and cross-entropy `(seeds, M)` on held-out data.
    """
    figure, axes = panels(1, 2, (9.0, 3.6))
    for panel, scale in zip(axes[0], ("linear", "log"), strict=True):
        draw_band(panel, trajectories, cross_entropy, label="training data", colour=OKABE_ITO[0])
        if held_out is not None:
            draw_band(panel, *held_out, label="held-out data", colour=OKABE_ITO[1])
        draw_references(panel, references)
        panel.set(xlabel="expert trajectories", xscale=scale)
        if scale == "linear":
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0, 0].set_ylabel("NLL of the next action (nats)")
    legend(axes[0, 0])
    figure.suptitle("Pretraining of the base model", fontsize=11)
    return figure


STUDY = Study(
    name="base_model",
    stages=("pretrain",),
    measure=measure,
    rows=rows,
    figures=figures,
    order=10,
    title="The base model",
    captions={
        "pretraining": "Cross-entropy of the next action against the number of expert "
        "trajectories seen, on a linear and on a logarithmic axis, for training data and "
        "held-out data, beside the references that are known.",
    },
)
