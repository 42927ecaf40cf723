"""Load a shipped model, let it act, read its residual stream, find its codes, steer it with one."""

import jax

import internal_rl as irl

agent = irl.load("gridworld-pinpad/small")
episodes = agent.rollout(num_episodes=256, key=jax.random.key(0))
residual = agent.residuals(episodes, layer=2)
found = agent.discover(episodes)
irl.studies.gates(found).savefig("gates.png")
steered = agent.rollout(num_episodes=256, key=jax.random.key(0), inject=found.code[0, 5])
other = (steered.visit != episodes.visit).any(axis=1).mean()
print(f"residual stream {residual.shape}; {other:.0%} of the episodes go elsewhere under the code")
