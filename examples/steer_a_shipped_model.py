"""Load a shipped model, let it act, read its residual stream, find its codes, steer it with one."""

import jax
import jax.numpy as jnp

import internal_rl as irl


def first_visit(episodes):
    """The colour that each episode visits first, -1 for none."""
    visited = (episodes.visit >= 0) & episodes.active
    step = jnp.argmax(visited, axis=1)
    colour = jnp.take_along_axis(episodes.visit, step[:, None], axis=1)[:, 0]
    return jnp.where(visited.any(axis=1), colour, -1)


agent = irl.load("gridworld-pinpad/small")
episodes = agent.rollout(num_episodes=256, key=jax.random.key(0))
residual = agent.residuals(episodes, layer=2)
found = agent.discover(episodes)
irl.studies.gates(found).savefig("gates.png")
steered = agent.rollout(num_episodes=256, key=jax.random.key(0), inject=found.code[0, 0])
other = (first_visit(steered) != first_visit(episodes)).mean()
print(f"residual stream {residual.shape}")
print(f"{other:.0%} of the episodes visit another colour first under the code")
