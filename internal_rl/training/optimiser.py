"""The optimisers of every stage: AdamW, or Muon with AdamW for all that is no matrix."""

import chex
import jax
import optax
from optax import contrib

OPTIMISERS = ("adamw", "muon")

# Size of Muon's updates as a share of the learning rate: that of AdamW, so that a learning rate
# means the same to both (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4).
_MUON_UPDATE_SIZE = 0.2


def make_schedule(
    learning_rate: float, decay_steps: int, warmup_steps: int = 0, final_learning_rate: float = -1.0
) -> optax.Schedule:
    """Linear warm-up, then constant or cosine decay.

    Args:
      learning_rate: rate after the warm-up.
      decay_steps: calls of the optimiser until the final rate, the warm-up included.
      warmup_steps: calls over which the rate rises linearly from 0; 0 for none.
      final_learning_rate: rate after the decay; negative keeps the rate constant.

    Returns:
      A function from the number of calls done to the learning rate.
    """
    if final_learning_rate < 0.0:
        main = optax.constant_schedule(learning_rate)
    else:
        main = optax.cosine_decay_schedule(
            learning_rate,
            max(decay_steps - warmup_steps, 1),
            alpha=final_learning_rate / learning_rate,
        )
    if not warmup_steps:
        return main
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimiser(
    learning_rate: float | optax.Schedule,
    *,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    max_gradient_norm: float = 0.0,
    optimiser: str = "adamw",
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019), or Muon (Jordan et al. 2024).

    Muon orthogonalises the momentum of every matrix, also of every one in a stack of them (three
    axes: the blocks of a block-diagonal matrix, the controllers of all subgoals); all other
    parameters are left to AdamW. Both use Nesterov momentum then.

    Args:
      learning_rate: constant rate or schedule.
      weight_decay: decoupled decay, multiplied by the learning rate.
      b1: decay of AdamW's first moment; Muon's own momentum is 0.95.
      b2: decay of the second moment.
      max_gradient_norm: gradients are scaled down to this global norm; 0 for no clipping.
      optimiser: one of `OPTIMISERS`.

    Returns:
      The optax transformation.

    Raises:
      ValueError: for an unknown optimiser.
    """
    if optimiser == "adamw":
        steps = optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay)
    elif optimiser == "muon":
        steps = contrib.muon(
            learning_rate,
            adam_b1=b1,
            adam_b2=b2,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            consistent_rms=_MUON_UPDATE_SIZE,
            muon_weight_dimension_numbers=_matrices,
        )
    else:
        raise ValueError(f"optimiser is '{optimiser}', allowed are {', '.join(OPTIMISERS)}")
    if max_gradient_norm > 0.0:
        return optax.chain(optax.clip_by_global_norm(max_gradient_norm), steps)
    return steps


def _matrices(params: chex.ArrayTree) -> chex.ArrayTree:
    """Which axes of every parameter Muon takes for those of a matrix; None for none."""

    def axes(leaf):
        return contrib.MuonDimensionNumbers(-2, -1) if leaf.ndim in (2, 3) else None

    return jax.tree.map(axes, params)


def apply_gradients(
    optimiser: optax.GradientTransformation,
    gradients: chex.ArrayTree,
    optimiser_state: optax.OptState,
    params: chex.ArrayTree,
) -> tuple[chex.ArrayTree, optax.OptState, dict[str, jax.Array]]:
    """One optimiser step.

    Returns:
      New parameters, new optimiser state, and the metric `gradient_norm` (global, unclipped).
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients, params)
    updates, optimiser_state = optimiser.update(gradients, optimiser_state, params)
    metrics = {"gradient_norm": optax.global_norm(gradients)}
    return optax.apply_updates(params, updates), optimiser_state, metrics
