"""What can be read from codes on expert trajectories (method §5).

If codes mean goals, a linear classifier fitted on one half of a bank of them names the subgoals of
the other half.
"""

import math
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.analysis.code_bank import CodeBank, bank_of
from internal_rl.analysis.code_stages import code_stages
from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.study import LABELS, Study, StudyContext, as_arrays
from internal_rl.analysis.table import Row, variant_rows
from internal_rl.methods.switching import subgoal_changes
from internal_rl.types import Trajectory

# A latent dimension with less variance of its posterior mean carries nothing.
ACTIVE_VARIANCE = 0.01

# One that is fitted and one that is tested.
MIN_CODES = 2

ROW_LABELS = {
    "active_units": "dimensions of the code in use",
    "decoding_accuracy": "subgoal decoded from code, accuracy",
}


@struct.dataclass
class Decoding:
    """How well a linear classifier names the subgoals of codes that it was not fitted to.

    Attributes:
      decoding_accuracy: share of codes.
      decoding_majority: share if it always named the most frequent subgoal of the tested half.
    """

    decoding_accuracy: float
    decoding_majority: float


@struct.dataclass
class ActiveUnits:
    """Dimensions of the code that tell one goal from another (Burda et al. 2016, section 5.2).

    Attributes:
      code_variance: `(n_z,)` variance of the posterior mean over the steps at which a goal begins.
      active_units: `()` how many dimensions exceed `ACTIVE_VARIANCE`.
    """

    code_variance: chex.Array
    active_units: chex.Array


def goal_places(
    subgoal: chex.Array, segment: chex.Array, mask: chex.Array
) -> dict[str, chex.Array]:
    """First steps of trajectories, changes of subgoal and the rest, each `(B, S)` bool."""
    continues = jnp.pad(segment[:, 1:] == segment[:, :-1], ((0, 0), (1, 0)))
    change = subgoal_changes(subgoal, segment, mask)
    return {
        "first": mask & ~continues,
        "changes": change,
        "elsewhere": mask & continues & ~change,
    }


def decoding_accuracy(
    bank: CodeBank, num_subgoals: int, key: chex.PRNGKey, num_steps: int = 500
) -> Decoding:
    """Held-out accuracy of a logistic regression from code to subgoal.

    Args:
      bank: codes and subgoals; one random half is fitted, the other tested.
      num_subgoals: number of subgoals `G`.
      key: randomness of the split.
      num_steps: full-batch Adam steps.

    Raises:
      ValueError: if the bank holds fewer than two codes.
    """
    num_codes = len(bank.goal)
    if num_codes < MIN_CODES:
        raise ValueError(f"bank holds {num_codes} codes, allowed are {MIN_CODES} or more")
    half, optimiser = num_codes // 2, optax.adam(0.1)

    @jax.jit
    def fit_and_test(code, subgoal):
        order = jax.random.permutation(key, num_codes)
        code, subgoal = code[order], subgoal[order]
        mean, std = jnp.mean(code[:half], axis=0), jnp.std(code[:half], axis=0)
        code = jnp.pad((code - mean) / (std + 1e-6), ((0, 0), (0, 1)), constant_values=1.0)

        def loss(weights):
            logits = code[:half] @ weights
            cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, subgoal[:half])
            return jnp.mean(cross_entropy) + 1e-4 * jnp.sum(weights**2)

        def step(carry, _):
            weights, state = carry
            updates, state = optimiser.update(jax.grad(loss)(weights), state)
            return (optax.apply_updates(weights, updates), state), None

        weights = jnp.zeros((code.shape[1], num_subgoals), code.dtype)
        (weights, _), _ = jax.lax.scan(step, (weights, optimiser.init(weights)), length=num_steps)
        predicted = jnp.argmax(code[half:] @ weights, axis=-1)
        shares = jnp.mean(jax.nn.one_hot(subgoal[half:], num_subgoals, dtype=code.dtype), axis=0)
        return jnp.mean(predicted == subgoal[half:]), jnp.max(shares)

    accuracy, majority = fit_and_test(bank.code, bank.goal)
    return Decoding(decoding_accuracy=float(accuracy), decoding_majority=float(majority))


@jax.jit
def active_units(mean: chex.Array, rows: Trajectory) -> ActiveUnits:
    """Which dimensions of the code tell goals apart.

    A collapsed posterior squeezes several goals into few dimensions, where neighbours are confused.

    Args:
      mean: `(B, S, n_z)` posterior means.
      rows: `(B, S)` packed rows with labels.
    """
    places = goal_places(rows.subgoal, rows.segment, rows.mask)
    begins = (places["first"] | places["changes"])[..., None]
    count = jnp.maximum(jnp.sum(begins), 1)
    centre = jnp.sum(mean * begins, axis=(0, 1)) / count
    variance = jnp.sum(jnp.square(mean - centre) * begins, axis=(0, 1)) / count
    return ActiveUnits(variance, jnp.sum(variance > ACTIVE_VARIANCE))


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`ActiveUnits` and `Decoding`, NaN where too little is held out for the latter."""
    key, bank = context.examination_keys["split"], bank_of(context)
    decoding = Decoding(math.nan, math.nan)
    if len(bank.goal) >= MIN_CODES:
        decoding = decoding_accuracy(bank, context.world.num_subgoals, key)
    units = active_units(context.discovery.mean, context.rows)
    return as_arrays(units) | as_arrays(decoding)


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """Dimensions in use, and the accuracy of decoding."""
    return variant_rows(stage, seeds, "codes", ROW_LABELS)


STUDY = Study(
    name="codes",
    stages=code_stages,
    needs=frozenset({LABELS, "subgoals"}),
    measure=measure,
    rows=rows,
    order=20,
    title="What codes mean",
)
