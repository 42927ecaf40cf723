"""Whether supervised controllers, switched in the right order, solve a new task (method §4)."""

from collections.abc import Callable, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from internal_rl.acting.controls import SupervisedControl
from internal_rl.acting.episodes import SOLVABLE, Episodes, play
from internal_rl.analysis.drawing import draw_band, legend, palette, panels, tell
from internal_rl.analysis.results import RunResults, SeedResults, standing, with_artifact
from internal_rl.analysis.study import Study, StudyContext, as_arrays, choose_slots
from internal_rl.analysis.table import Row, best_layer_rows
from internal_rl.envs.world import kept_by_first
from internal_rl.models.controllers import Controllers
from internal_rl.models.steered_model import SteeredModel
from internal_rl.training.mesh import by_all_devices
from internal_rl.types import World


@struct.dataclass
class SteeringResult:
    """What the controllers of every layer reach on the post-training task.

    Attributes:
      success: `(L + 1,)` share of completed tasks.
      colours_visited: `(L + 1,)` mean progress; None where the world does not tell.
      reached: `(L + 1, K)` share of episodes whose progress is at least 1, 2, ..., up to the most
        that any had; None likewise.
      solvable_success: `(L + 1,)` success in layouts that allow it; None in a world in which all
        do, or that does not tell.
    """

    success: chex.Array
    colours_visited: chex.Array | None
    reached: chex.Array | None
    solvable_success: chex.Array | None = None


def play_controlled(
    world: World,
    model: SteeredModel,
    controllers: Controllers,
    key: chex.PRNGKey,
    num_episodes: int,
) -> Episodes:
    """Episodes in which the controller of the next subgoal always acts.

    Args:
      world: emits subgoals.
      model: the base model, cut at the controlled layer.
      controllers: of all subgoals.
      key: randomness of starts and actions.
      num_episodes: how many episodes.
    """
    return play(
        world,
        model.alone(),
        SupervisedControl(controllers),
        key,
        num_episodes,
        keep=("reward", "progress", SOLVABLE),
        num_slots=choose_slots(num_episodes),
        shared=True,
    )


def examine_controllers(
    world: World, model: SteeredModel, layers: Sequence[Controllers], num_episodes: int
) -> SteeringResult:
    """Lets the controllers of each layer play the post-training task.

    Args:
      world: emits subgoals.
      model: the base model.
      layers: controllers of all subgoals, for each layer from 0 on.
      num_episodes: episodes for each layer.
    """
    run = _make_play(world, num_episodes)
    success, progress, solvable = [], [], []
    for layer, controllers in enumerate(layers):
        episodes = run(model.at_layer(layer), controllers, jax.random.key(layer))
        success.append(jnp.mean(episodes.success, dtype=jnp.float32))
        if episodes.solvable is not None:
            solvable.append(episodes.solvable_success)
        if episodes.progress is not None:
            progress.append(np.asarray(episodes.furthest))
    visited = reached = None
    if progress:
        steps = np.arange(max(np.max(furthest) for furthest in progress))
        visited = np.array([np.mean(furthest) for furthest in progress], np.float32)
        reached = np.stack(
            [np.mean(x[:, None] > steps, axis=0, dtype=np.float32) for x in progress]
        )
    in_solvable = jnp.stack(solvable) if solvable else None
    return SteeringResult(jnp.stack(success), visited, reached, in_solvable)


@kept_by_first(maxsize=4)
def _make_play(world: World, num_episodes: int) -> Callable:
    """Plays with the controllers of one layer, a program for each."""
    return by_all_devices(
        lambda model, controllers, key: play_controlled(
            world, model, controllers, key, num_episodes
        )
    )


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`SteeringResult`."""
    params = context.params
    layers = [Controllers(**params[f"layer_{i}"]) for i in range(len(params))]
    return as_arrays(
        examine_controllers(context.world, context.model, layers, context.num_episodes)
    )


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """The success at the best layer against input and output, for the final base model."""
    if stage != "steer":
        return []
    label = "steering success"
    found = best_layer_rows(
        seeds, "success", "steering_success", label, lambda s: s.evaluation_episodes
    )
    key = "steering_solvable_success"
    return found + best_layer_rows(seeds, "solvable_success", key, f"{label} in solvable layouts")


def figures(run: RunResults) -> dict[str, Figure | None]:
    """Success by layer."""
    seeds = with_artifact(run, "steer", "success")
    if not seeds:
        return {}
    success = np.stack([results.artifacts["success"] for results in seeds])
    figure = steering_success({f"{success.shape[1] - 1} blocks": success})
    tell(figure, f"Median and quartiles over {standing(seeds)}")
    return {"steering": figure}


def steering_success(success: Mapping[str, np.ndarray]) -> Figure:
    """Success of switched supervised controllers by controlled layer.

    Args:
      success: `(seeds, L + 1)` share of episodes, by label such as the depth of the base model.
    """
    figure, axes = panels(1, 1, (4.8, 3.6))
    panel = axes[0, 0]
    for (label, values), colour in zip(success.items(), palette(len(success)), strict=True):
        values = np.atleast_2d(values)
        draw_band(panel, np.arange(values.shape[1]), values, label=label, colour=colour)
        panel.plot(np.arange(values.shape[1]), np.median(values, axis=0), "o", color=colour)
    panel.set(xlabel="controlled layer (0: embedding)", ylabel="success on the post-training task")
    panel.set_ylim(0, 1.02)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(panel)
    figure.suptitle("Supervised linear controllers", fontsize=11)
    return figure


STUDY = Study(
    name="steering",
    stages=("steer",),
    needs=frozenset({"subgoals"}),
    measure=measure,
    rows=rows,
    figures=figures,
    title="Supervised controllers",
    captions={
        "steering": "Success of switched supervised controllers on the post-training task, by "
        "controlled layer.",
    },
)
