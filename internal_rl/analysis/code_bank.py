"""Codes together with what they led to, and how they are chosen for other episodes (method §5)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.analysis.study import StudyContext, infer
from internal_rl.models.steered_model import SteeredModel
from internal_rl.types import Trajectory, World


@struct.dataclass
class CodeBank:
    """Codes with what they led to.

    Attributes:
      code: `(N, n_z)`.
      goal: `(N,)` int32 subgoal, or place; -1 for a code that is not to be used.
      layout: `(N,)` uint32 fingerprint of the layout; None in a world that tells none.
    """

    code: chex.Array
    goal: chex.Array
    layout: chex.Array | None


@jax.jit
def subgoal_reached(subgoal: chex.Array, segment: chex.Array, mask: chex.Array) -> chex.Array:
    """Steps whose action completes the current subgoal: the last of each subgoal, `(B, S)` bool."""
    goes_on = (
        (segment[:, 1:] == segment[:, :-1]) & (subgoal[:, 1:] == subgoal[:, :-1]) & mask[:, 1:]
    )
    return mask & ~jnp.pad(goes_on, ((0, 0), (0, 1)))


def select_codes(world: World, rows: Trajectory, code: chex.Array, chosen: chex.Array) -> CodeBank:
    """The codes on chosen steps, on the host.

    Args:
      world: the world.
      rows: `(B, S)` packed rows with labels.
      code: `(B, S, n_z)` codes inferred of them.
      chosen: `(B, S)` bool.
    """
    tells_layouts = hasattr(world, "layout_fingerprint")
    layout = jax.jit(world.layout_fingerprint)(rows.observation) if tells_layouts else None
    bank, chosen = CodeBank(code, rows.subgoal, layout), np.asarray(chosen)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], bank)


def collect_codes(
    world: World, model: SteeredModel, rows: Trajectory, key: chex.PRNGKey
) -> CodeBank:
    """Codes that are active on the step that reaches a subgoal.

    Args:
      world: the world.
      model: base model and metacontroller.
      rows: `(B, S)` packed rows of expert trajectories with labels.
      key: noise of the inferred codes.

    Returns:
      A bank on the host, one entry per subgoal of every trajectory.
    """
    reached = subgoal_reached(rows.subgoal, rows.segment, rows.mask)
    return select_codes(world, rows, infer(model, rows, key).code, reached)


def bank_of(context: StudyContext) -> CodeBank:
    """The bank of a stage's held-out rows."""
    key = context.examination_keys["codes"]
    return collect_codes(context.world, context.model, context.rows, key)


def choose_codes(
    bank: CodeBank, layout: chex.Array, num_goals: int, key: chex.PRNGKey
) -> tuple[chex.Array, chex.Array]:
    """Draws, for every episode and goal, a code that was collected in another layout.

    Args:
      bank: `N` codes, with their layouts.
      layout: `(B,)` fingerprints of the episodes' layouts.
      num_goals: number of goals `G`.
      key: randomness.

    Returns:
      Codes `(B, G, n_z)`, and `(B, G)` bool whether the bank had one.
    """
    score = jax.random.uniform(key, (layout.shape[0], len(bank.goal)), jnp.float32)
    score = jnp.where(layout[:, None] == bank.layout, -1.0, score)

    def choose(goal):
        candidate = jnp.where(bank.goal == goal, score, -1.0)
        best = jnp.argmax(candidate, axis=1)
        return jnp.asarray(bank.code)[best], jnp.max(candidate, axis=1) >= 0.0

    codes, found = jax.lax.map(choose, jnp.arange(num_goals))
    return jnp.moveaxis(codes, 0, 1), found.T
