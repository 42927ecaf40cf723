"""One episode of internal RL, to be shown as an animation and as a path (method §6)."""

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from matplotlib.figure import Figure

from internal_rl.acting.episodes import Episodes
from internal_rl.analysis.drawing import tell
from internal_rl.analysis.paths import Paths, draw_paths
from internal_rl.analysis.results import RunResults, standing, with_artifact, world_of
from internal_rl.analysis.study import Animation, Study, StudyContext
from internal_rl.envs.world import capabilities
from internal_rl.errors import UserError
from internal_rl.types import World


def example_episode(world: World, episodes: Episodes) -> dict[str, np.ndarray]:
    """The first of the episodes that went furthest, or that were paid most.

    Args:
      world: the world.
      episodes: of a code policy, to choose from, with all of `SHOWN`.

    Returns:
      `episode_observation` `(T + 1, d)`, with what the last step led to, `episode_beta` `(T,)`,
      `episode_ask` `(T,)` bool, `episode_code` `(T, n_z)`; where the world tells,
      `episode_progress` `(T,)` int32 and the fields of its `Scene` as `episode_<field>`,
      `(T + 1, ...)`; cut to the steps of the episode.
    """
    merit = episodes.returns if episodes.progress is None else episodes.furthest
    arrays = {name: episodes.record[name] for name in ("beta", "ask", "code")}
    arrays |= {"observation": episodes.observation, "progress": episodes.progress}

    @jax.jit
    def best(merit, arrays):
        return jax.tree.map(lambda values: values[jnp.argmax(merit)], arrays)

    episode, length, last = best(merit, (arrays, episodes.length, episodes.last_observation))
    episode = {
        name: np.asarray(values)[:length] for name, values in episode.items() if values is not None
    }
    episode["observation"] = np.concatenate([episode["observation"], np.asarray(last)[None]])
    if hasattr(world, "scene"):
        episode |= vars(world.scene(episode["observation"]))
    return {f"episode_{name}": np.asarray(value) for name, value in episode.items()}


def measure(context: StudyContext) -> dict[str, np.ndarray]:
    """`example_episode`."""
    return example_episode(context.world, context.episodes)


def figures(run: RunResults) -> dict[str, Figure | None]:
    """The path of the episode."""
    seeds = with_artifact(run, "internal_rl", "episode_place")
    world = world_of(seeds[0]) if seeds else None
    if world is None:
        return {}
    found = {
        name: seeds[0].artifacts[f"episode_{name}"]
        for name in ("place", "colours", "walls", "code", "ask")
    }
    num_steps = len(found["ask"])
    shown = Paths(
        place=found["place"][None, :num_steps],
        last_place=found["place"][-1:],
        colours=found["colours"][:1],
        walls=found["walls"][:1],
        code=found["code"][None],
        switch=found["ask"][None],
        mask=np.ones((1, num_steps), bool),
    )
    figure = draw_paths(shown, world.grid_size)
    tell(figure, standing(seeds[:1]))
    return {"internal_rl_path": figure}


def animations(run: RunResults) -> dict[str, Animation | None]:
    """The episode in pictures with its gate and codes."""
    seeds = with_artifact(run, "internal_rl", "episode_observation")
    world = world_of(seeds[0]) if seeds else None
    if world is None or "pictures" not in capabilities(world):
        return {}
    artifacts = seeds[0].artifacts
    observations = artifacts["episode_observation"]
    # Behind the last step its gate and code are still shown.
    steps = np.minimum(np.arange(len(observations)), len(artifacts["episode_beta"]) - 1)
    log = (artifacts[name][steps] for name in ("episode_beta", "episode_code"))
    try:
        frames = world.frames(observations, *log)
    except UserError as error:
        logging.warning("no episode.gif: %s", error)
        return {}
    return {"episode": Animation(frames, world.seconds_per_frame)}


STUDY = Study(
    name="episode",
    stages=("internal_rl",),
    measure=measure,
    figures=figures,
    animations=animations,
    title="An episode of internal RL",
    captions={
        "internal_rl_path": "Path of the episode that went furthest, from above, in the colour "
        "of the active code. Disc: start, square: end, ring: a new code.",
        "episode": "The same episode step by step, with its gate and its active code beside it.",
    },
)
