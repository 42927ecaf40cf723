"""Codes collected from expert trajectories, and what can be read from them (method §5).

The code active on the step that reaches a subgoal is kept together with the subgoal. If codes mean
goals, a linear classifier fitted on one half of them names the subgoals of the other half.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from internal_rl.envs import World
from internal_rl.models.base_model import BaseModel
from internal_rl.models.metacontroller import Metacontroller
from internal_rl.types import Trajectory


@struct.dataclass
class CodeBank:
    """Codes with the subgoal they led to.

    Attributes:
      code: `(N, n_z)`.
      subgoal: `(N,)` int32.
      layout: `(N,)` uint32 fingerprint of the layout, see `World.layout_fingerprint`.
    """

    code: chex.Array
    subgoal: chex.Array
    layout: chex.Array


def subgoal_reached(subgoal: chex.Array, segment: chex.Array, mask: chex.Array) -> chex.Array:
    """Steps whose action completes the current subgoal: the last of each subgoal, `(B, S)` bool."""
    goes_on = (
        (segment[:, 1:] == segment[:, :-1]) & (subgoal[:, 1:] == subgoal[:, :-1]) & mask[:, 1:]
    )
    return mask & ~jnp.pad(goes_on, ((0, 0), (0, 1)))


def collect_codes(
    env: World,
    base: BaseModel,
    base_params: dict,
    metacontroller: Metacontroller,
    metacontroller_params: dict,
    layer: int,
    batch: Trajectory,
    key: chex.PRNGKey,
) -> CodeBank:
    """Codes that are active on the step that reaches a subgoal.

    Args:
      env: the world.
      base: the base model.
      base_params: its parameters.
      metacontroller: infers codes from whole trajectories.
      metacontroller_params: its parameters.
      layer: residual stream that it reads.
      batch: `(B, S)` packed rows of expert trajectories.
      key: noise of the inferred codes.

    Returns:
      A bank on the host, one entry per subgoal of every trajectory.
    """

    @jax.jit
    def infer(base_params, metacontroller_params, batch, key):
        residual = base.apply(base_params, batch.observation, batch.segment, layer, method="lower")
        discovery = metacontroller.apply(
            metacontroller_params, residual, batch.segment, key, method="discover"
        )
        return discovery.code, env.layout_fingerprint(batch.observation)

    code, layout = infer(base_params, metacontroller_params, batch, key)
    reached = np.asarray(subgoal_reached(batch.subgoal, batch.segment, batch.mask))
    bank = CodeBank(code, batch.subgoal, layout)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[reached], bank)


def decoding_accuracy(
    bank: CodeBank, num_subgoals: int, key: chex.PRNGKey, num_steps: int = 500
) -> dict[str, float]:
    """Held-out accuracy of a logistic regression from code to subgoal.

    Args:
      bank: codes and subgoals; one random half is fitted, the other tested.
      num_subgoals: number of subgoals `G`.
      key: randomness of the split.
      num_steps: full-batch Adam steps.

    Returns:
      `decoding_accuracy`, and `decoding_majority`, the accuracy of always naming the most frequent
      subgoal of the tested half.

    Raises:
      ValueError: if the bank holds fewer than two codes.
    """
    num_codes = len(bank.subgoal)
    if num_codes < 2:
        raise ValueError(f"bank holds {num_codes} codes, allowed are 2 or more")
    order = jax.random.permutation(key, num_codes)
    code, subgoal = jnp.asarray(bank.code)[order], jnp.asarray(bank.subgoal)[order]
    half = num_codes // 2
    mean, std = jnp.mean(code[:half], axis=0), jnp.std(code[:half], axis=0)
    code = jnp.pad((code - mean) / (std + 1e-6), ((0, 0), (0, 1)), constant_values=1.0)
    optimiser = optax.adam(0.1)

    def loss(weights):
        logits = code[:half] @ weights
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, subgoal[:half])
        return jnp.mean(cross_entropy) + 1e-4 * jnp.sum(weights**2)

    @jax.jit
    def fit(weights):
        def step(carry, _):
            weights, state = carry
            updates, state = optimiser.update(jax.grad(loss)(weights), state)
            return (optax.apply_updates(weights, updates), state), None

        (weights, _), _ = jax.lax.scan(step, (weights, optimiser.init(weights)), length=num_steps)
        return weights

    weights = fit(jnp.zeros((code.shape[1], num_subgoals)))
    predicted = jnp.argmax(code[half:] @ weights, axis=-1)
    shares = jnp.mean(jax.nn.one_hot(subgoal[half:], num_subgoals), axis=0)
    return {
        "decoding_accuracy": float(jnp.mean(predicted == subgoal[half:])),
        "decoding_majority": float(jnp.max(shares)),
    }
