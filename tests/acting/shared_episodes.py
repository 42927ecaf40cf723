"""`python -m tests.acting.shared_episodes FILE`: episodes that all devices of the process play."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.acting.controls import InjectedCode
from internal_rl.acting.episodes import play
from internal_rl.training.mesh import by_all_devices
from tests.acting import steered

# Four devices cannot share these evenly.
EPISODES = 10


def run() -> dict[str, np.ndarray]:
    """Fields of episodes with a code of their own each."""
    world, model = steered.make_world(), steered.make_model()
    num_goals, random = world.num_subgoals, np.random.default_rng(0)
    size = model.metacontroller.config.code_size
    control = InjectedCode(
        codes=jnp.asarray(3 * random.normal(size=(EPISODES, num_goals, size)), jnp.float32),
        preference=jnp.asarray(random.random((EPISODES, num_goals)), jnp.float32),
        first_place=jnp.asarray(world.subgoal_places),
    )

    @by_all_devices
    def played(model, control, key):
        episodes = play(world, model, control, key, EPISODES, free_running=True, shared=True)
        return episodes, jnp.mean(episodes.length)

    episodes, length = played(model, control, jax.random.key(0))
    found = {"active": episodes.active, "visit": episodes.visit, "action": episodes.action}
    found |= {"mean length": length, "devices": len(jax.devices()), **episodes.record}
    return {name: np.asarray(value) for name, value in found.items()}


if __name__ == "__main__":
    np.savez(sys.argv[1], **run())
