"""One policy update: a few passes of gradient steps over a batch of episodes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.backend import LANES, backend, on_cpu
from internal_rl.batching import largest
from internal_rl.methods.reinforcement.objective import ObjectiveSums
from internal_rl.methods.reinforcement.packing import sum_over_rows
from internal_rl.training.mesh import num_shares, seeds_side_by_side, total

CPU_TOKENS = 1024
"""Decisions per part on a CPU, padding included."""
ACCELERATOR_TOKENS = 2**13
"""The same on an accelerator, of all seeds that it trains side by side."""
# What a batch may hold makes so many parts at least: episodes hold far fewer decisions as a rule,
# and the last part is filled up with padding.
_MIN_PARTS = 8
# The longest rows of several episodes: attention costs more the longer they are.
_LONGEST_ROW = 512
_WELL_FILLED = 0.9

_METRICS = ("loss", "clip_fraction", "divergence", "gradient_norm")


@dataclasses.dataclass(frozen=True)
class UpdateSettings:
    """How a batch of episodes is learnt from; the paper leaves open what is not the optimiser.

    Attributes:
      optimiser: gradient transformation.
      num_epochs: passes over the batch.
      num_minibatches: gradient steps per pass; each uses another part of the episodes.
      tokens: decisions per part when a gradient is accumulated, padding included; no influence on
        the result, bounds the memory. None for what suits the backend.

    Raises:
      ValueError: a number is below 1.
    """

    optimiser: optax.GradientTransformation
    num_epochs: int = 4
    num_minibatches: int = 1
    tokens: int | None = None

    def __post_init__(self):
        for name in ("num_epochs", "num_minibatches", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} given, allowed is 1 or more")

    def part_shape(self, num_episodes: int, max_decisions: int) -> tuple[int, int]:
        """Rows of a part, and decisions of a row.

        Args:
          num_episodes: of the batch.
          max_decisions: that one of them may hold.
        """
        length = _row_length(max_decisions)
        tokens = self.tokens
        if tokens is None:
            most = ACCELERATOR_TOKENS // seeds_side_by_side()
            most = min(most, num_episodes * max_decisions // _MIN_PARTS)
            tokens = CPU_TOKENS if on_cpu() else max(most, CPU_TOKENS)
        return min(max(tokens // length, 1), num_episodes), length


def _row_length(max_decisions: int) -> int:
    """Decisions of a row: as few as hold any episode; on TPUs what suits the kernels.

    These want multiples of 128: the first that episodes of full length fill well.
    """
    if backend() != "tpu":
        return max_decisions
    least = -(-max_decisions // LANES) * LANES
    lengths = range(least, max(least, _LONGEST_ROW) + 1, LANES)

    def filled(length):
        return length // max_decisions * max_decisions / length

    well = (length for length in lengths if filled(length) >= _WELL_FILLED)
    return next(well, max(lengths, key=filled))


@struct.dataclass
class PolicyState:
    """Everything that changes while a policy is trained.

    Attributes:
      params: parameters of the policy.
      optimiser_state: state of the optimiser.
      key: random key.
      episodes: `()` int32 episodes run so far.
    """

    params: Any
    optimiser_state: optax.OptState
    key: chex.PRNGKey
    episodes: chex.Array


@struct.dataclass
class Lesson:
    """What a batch of `B` episodes has to teach.

    Attributes:
      advantage: `(B,)` advantage of each episode.
      num_decisions: `(B,)` int32 decisions in each episode.
      max_decisions: upper bound of `num_decisions`.
    """

    advantage: chex.Array
    num_decisions: chex.Array
    max_decisions: int = struct.field(pytree_node=False)


def update_policy(
    part_sums: Callable[..., ObjectiveSums],
    settings: UpdateSettings,
    state: PolicyState,
    lesson: Lesson,
    key: chex.PRNGKey,
) -> tuple[PolicyState, dict[str, chex.Array]]:
    """Takes `num_epochs * num_minibatches` gradient steps.

    A batch whose advantages are all zero, as without a success, leaves parameters and optimiser as
    they are, and its gradient is not computed. Otherwise momentum would go on with what the last
    success taught, and Adam, whose second moment forgets meanwhile, would take far too large a step
    at the next one. Of several devices each learns from its own episodes, and their gradients are
    summed.

    Args:
      part_sums: `part_sums(params, advantage, episode, index, segment)` sums the objective over the
        decisions `index` of the episodes `episode`, packed as in `packing.row_contents`.
      settings: optimiser and passes.
      state: its parameters and the state of its optimiser are renewed.
      lesson: advantages and numbers of decisions.
      key: draws the minibatches.

    Returns:
      The new state, and metrics averaged over the gradient steps: `loss`, `clip_fraction`,
      `divergence` (of the acting policy from the current one, nats) and `gradient_norm`; all zero
      where there is nothing to learn.

    Raises:
      ValueError: the episodes cannot be shared out evenly among the minibatches.
    """
    advantage, num_decisions = lesson.advantage, lesson.num_decisions
    num_episodes = num_decisions.shape[0]
    rows, row_length = settings.part_shape(num_episodes, lesson.max_decisions)
    if num_shares() == 1 and num_episodes % settings.num_minibatches:
        raise ValueError(
            f"num_minibatches: {settings.num_minibatches} given, allowed are divisors of the"
            f" {num_episodes} episodes"
        )

    def gradient_step(carry, minibatch):
        params, optimiser_state = carry
        lengths = jnp.where(minibatch, num_decisions, 0)

        def gradient_of_part(*contents):
            def loss(params):
                sums = part_sums(params, advantage, *contents)
                return sums.loss, sums

            return jax.grad(loss, has_aux=True)(params)

        own = sum_over_rows(gradient_of_part, lengths, row_length, rows)
        gradient, sums = total(own)
        gradient, sums = jax.tree.map(lambda x: x / sums.decisions, (gradient, sums))
        norm = optax.global_norm(gradient)
        updates, next_state = settings.optimiser.update(gradient, optimiser_state, params)
        moved = optax.apply_updates(params, updates), next_state
        # For a copy under `vmap` with nothing to learn beside others that have. Not `norm > 0`: a
        # gradient that is not a number has to show in the parameters.
        carry = jax.tree.map(lambda new, old: jnp.where(norm == 0, old, new), moved, carry)
        metrics = sums.loss, sums.clipped, sums.divergence, norm
        return carry, dict(zip(_METRICS, metrics, strict=True))

    def epoch(carry, key):
        group = jax.random.permutation(key, num_episodes) % settings.num_minibatches
        minibatches = group == jnp.arange(settings.num_minibatches)[:, None]
        return jax.lax.scan(gradient_step, carry, minibatches)

    def learn():
        carry, metrics = jax.lax.scan(
            epoch, (state.params, state.optimiser_state), jax.random.split(key, settings.num_epochs)
        )
        return *carry, jax.tree.map(lambda x: jnp.mean(x).astype(jnp.float32), metrics)

    def nothing_to_learn():
        metrics = dict.fromkeys(_METRICS, jnp.zeros((), jnp.float32))
        return state.params, state.optimiser_state, metrics

    params, optimiser_state, metrics = jax.lax.cond(
        largest(total(jnp.sum(advantage != 0)) > 0), learn, nothing_to_learn
    )
    return state.replace(params=params, optimiser_state=optimiser_state), metrics
