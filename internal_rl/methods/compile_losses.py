"""What CompILE minimises: reconstruction by segments, what codes and boundaries cost (method §6).

After Kipf et al. 2019 (1812.01483), with the cross-entropy of a causal gate beside it.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.models.compile import Segments, as_discovery, may_end
from internal_rl.models.heads import action_log_prob
from internal_rl.models.metacontroller import kl_to_standard_normal
from internal_rl.models.packed import log_softmax
from internal_rl.models.recurrence import age_in_segment, starts_segment
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import SCALE, WEIGHT, Section, one_of, setting
from internal_rl.types import Trajectory

BOUNDARY_PRIORS = ("first", "each")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings(Section):
    """The part of the section `compile` that describes the loss.

    Attributes:
      code_weight: weight of the KL of codes; the paper tries {.003, .01, .03, .1, .3, 1}.
      boundary_weight: weight of the KL of boundaries, from the same.
      prior_rate: steps between two boundaries that the prior expects.
      boundary_prior: `"first"` takes the KL of the first boundary times `M`, as the original's
        program does; `"each"` that of every boundary, the prior of the i-th having i times the rate
        (open).
      min_action_std: least standard deviation of actions in the loss, where they are continuous
        (open).
    """

    code_weight: float = setting(0.1, WEIGHT)
    boundary_weight: float = setting(0.1, WEIGHT)
    prior_rate: float = setting(10.0, SCALE)
    boundary_prior: str = setting("first", one_of(BOUNDARY_PRIORS))
    min_action_std: float = setting(0.0, WEIGHT)


@struct.dataclass
class Losses:
    """Terms of the loss, sums over a batch that are divided by a number of actions; `()` each.

    Attributes:
      action_nll: `-ln p(a_t|o_{1:t}, z)` of every step under the codes of the segments, weighted by
        how much of the step belongs to each; nats.
      code_kl: KL of the codes of all `M` segments of each trajectory to `N(0, I)`, nats.
      boundary_kl: KL of boundaries to the prior, see `LossSettings.boundary_prior`, nats.
      gate_nll: cross-entropy of the causal gate on the inferred boundaries, nats.
    """

    action_nll: chex.Array
    code_kl: chex.Array
    boundary_kl: chex.Array
    gate_nll: chex.Array

    def weighted(self, settings: LossSettings, share: chex.Numeric = 1.0) -> chex.Array:
        """What is minimised, with a share of the weights of both KLs.

        The gate has parameters of its own, and so needs no weight.
        """
        kl = settings.code_weight * self.code_kl + settings.boundary_weight * self.boundary_kl
        return self.action_nll + share * kl + self.gate_nll


def boundary_log_prior(segment: chex.Array, rate: chex.Numeric) -> chex.Array:
    """Truncated Poisson over the steps of each trajectory at which a boundary may lie.

    A boundary `k` steps behind the first step has a weight `rate^k / k!`; weights are normalised
    over what the trajectory is long.

    Args:
      segment: `(B, S)` index of the packed trajectory.
      rate: mean of the Poisson distribution, in steps.

    Returns:
      `(B, S)` log-probabilities, zero where no boundary may lie.
    """
    age = age_in_segment(segment).astype(jnp.float32)
    weight = age * jnp.log(jnp.float32(rate)) - jax.lax.lgamma(age + 1.0)
    return log_softmax(weight, may_end(segment), segment)


def boundary_kl(segments: Segments, segment: chex.Array, settings: LossSettings) -> chex.Array:
    """KL of the boundaries to their prior, summed over trajectories and segments, `()` in nats."""
    allowed = may_end(segment)
    count = len(segments.log_prob) if settings.boundary_prior == "each" else 1
    kl = jnp.float32(0.0)
    for i, log_prob in enumerate(segments.log_prob[:count]):
        log_prior = boundary_log_prior(segment, (i + 1) * settings.prior_rate)
        kl += jnp.sum(jnp.where(allowed, jnp.exp(log_prob) * (log_prob - log_prior), 0.0))
    return kl if settings.boundary_prior == "each" else len(segments.weight) * kl


def code_kl(segments: Segments, segment: chex.Array) -> chex.Array:
    """KL of the codes to `N(0, I)`, summed over trajectories and segments, `()` in nats."""
    kl = kl_to_standard_normal(segments.mean, segments.log_std)
    return jnp.sum(jnp.where(starts_segment(segment) & (segment >= 0), kl, 0.0))


def action_nll(
    model: SteeredModel,
    residual: chex.Array,
    segments: Segments,
    batch: Trajectory,
    min_action_std: float = 0.0,
) -> chex.Array:
    """`Losses.action_nll` as a sum over `(B, S)` rows.

    The upper half of the base model reads every row once for each segment. With boundaries that are
    0 or 1 this is what it predicts when it acts under codes that follow each other.
    """
    code = segments.in_force()
    count, (rows, length) = len(code), batch.segment.shape
    # Controllers want as many residuals as codes.
    residual = jnp.broadcast_to(residual, (count, *residual.shape))
    controlled = model.control(residual, code).reshape(count * rows, length, -1)
    output = model.upper(controlled, jnp.tile(batch.segment, (count, 1)))
    parameters = output.action.reshape(count, rows, length, -1)
    spec = model.base.action_spec
    log_prob = action_log_prob(spec, parameters, batch.action[None], min_action_std)
    return -jnp.sum(segments.weight * log_prob * batch.mask)


def gate_nll(
    model: SteeredModel, residual: chex.Array, segments: Segments, batch: Trajectory
) -> chex.Array:
    """`Losses.gate_nll` as a sum over `(B, S)` rows; no gradient reaches anything but the gate.

    First steps have no gate: they always ask for a code.

    Args:
      model: base model and CompILE.
      residual: `(B, S, n_e)`.
      segments: with boundaries that are 0 or 1.
      batch: the rows.
    """
    found = jax.lax.stop_gradient(as_discovery(segments, batch.segment))
    residual = jax.lax.stop_gradient(residual)
    logit = apply_compile(model, "gate_logits", residual, batch.segment, found.code)
    nll = optax.sigmoid_binary_cross_entropy(logit, found.beta)
    return jnp.sum(jnp.where(may_end(batch.segment) & batch.mask, nll, 0.0))


def compile_losses(
    model: SteeredModel,
    batch: Trajectory,
    key: chex.PRNGKey,
    tokens: chex.Array,
    settings: LossSettings,
    *,
    relaxed: bool = True,
) -> tuple[Losses, Segments]:
    """All terms of the loss, summed over `batch` and divided by `tokens`.

    Args:
      model: base model and CompILE.
      batch: `(B, S)` packed rows; labels are not read.
      key: noise of boundaries and codes.
      tokens: `()` number of actions that makes the sums means.
      settings: weights and priors.
      relaxed: see `Compile.segments`; True for training.

    Returns:
      The terms, and the segments with the most probable boundaries, of which the gate learns.
    """
    segment = batch.segment
    residual = model.lower(batch.observation, segment)
    certain = segments = apply_compile(model, "segments", batch.observation, segment, key, relaxed)
    if relaxed:
        without = jax.lax.stop_gradient(model)
        certain = apply_compile(without, "segments", batch.observation, segment, key, False)
    losses = Losses(
        action_nll(model, residual, segments, batch, settings.min_action_std),
        code_kl(segments, segment),
        boundary_kl(segments, segment, settings),
        gate_nll(model, residual, certain, batch),
    )
    return jax.tree.map(lambda loss: loss / tokens, losses), certain


def apply_compile(model: SteeredModel, method: str, *inputs):
    """A method of the module that is none of every steered model."""
    return model.metacontroller.apply(model.metacontroller_params, *inputs, method=method)
