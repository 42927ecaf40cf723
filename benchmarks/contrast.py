"""A world in which random models succeed now and then."""

from internal_rl.types import World


def with_contrast(world: World) -> World:
    """The same world, but what earns the reward is an episode of an even number of steps.

    Models with random parameters never complete a task, and a batch without contrast between its
    rewards is no work for an update, see `methods.reinforcement.update`.
    """

    class Contrast(type(world)):
        def step(self, state, action):
            new, timestep = super().step(state, action)
            even = timestep.done & ~state.done & (new.time % 2 == 0)
            return new, timestep.replace(reward=even.astype(timestep.reward.dtype))

    return Contrast(world.config)
