"""Linear probes: is the current subgoal readable from the residual stream? (method §4)

One probe per layer, `softmax(W_l e_{t,l})`, predicts the ground-truth subgoal `g_t`. The probes of
all layers are trained at once by mapping the loss of one over the layer axis; they share nothing,
so this equals training each alone.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.methods.batches import next_rows, num_targets
from internal_rl.methods.evaluation import held_out, require_fitting, require_labels
from internal_rl.methods.method import Metrics
from internal_rl.models.steered_model import SteeredModel
from internal_rl.section import RATE, WEIGHT, at_least, setting
from internal_rl.training.mesh import total
from internal_rl.training.randomness import named_keys
from internal_rl.training.settings import SeedsPerInput, TrainingSettings
from internal_rl.types import DataSource, Trajectory, num_rows

# Fewer tokens than this say nothing about the accuracy at one time step.
MIN_TOKENS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainingSettings, SeedsPerInput):
    """Section `probe`.

    Attributes:
      batch_size: trajectories of an update, in the mean.
      evaluation_rows: rows of held-out data in an evaluation (open).
      base_step: training age of the base model, one of its snapshots; 0 for the final parameters.
    """

    batch_size: int = setting(512, at_least(1))
    evaluation_rows: int = setting(64, at_least(1))
    base_step: int = setting(0, at_least(0))
    learning_rate: float = setting(1e-3, RATE)
    weight_decay: float = setting(0.0, WEIGHT)
    steps: int = setting(8_000, at_least(1))
    log_every: int = setting(100, at_least(1))
    evaluate_every: int = setting(1_000, at_least(0))
    checkpoint_every: int = setting(1_000, at_least(1))


@struct.dataclass
class ProbeState:
    """State of the probes.

    Attributes:
      weights: `(L + 1, n_e, G)` one matrix `W_l` per layer, index 0 reads the embedding.
      optimiser_state: state of the optimiser.
    """

    weights: chex.Array
    optimiser_state: optax.OptState


@struct.dataclass
class State:
    """Everything that changes while the probes train.

    Attributes:
      probe: the probes.
      stream: position in the data.
    """

    probe: ProbeState
    stream: Any


@struct.dataclass
class ProbeCounts:
    """Sums over held-out tokens, to be added over batches.

    Attributes:
      correct: `(L + 1,)` tokens whose most probable subgoal is the true one.
      log_prob: `(L + 1,)` summed log-probability of the true subgoal, nats.
      tokens: `()` tokens counted.
      correct_by_time: `(L + 1, T)` correct tokens by time step within the trajectory.
      tokens_by_time: `(T,)`.
      correct_by_age: `(L + 1, T)` correct tokens by steps since the subgoal last changed.
      tokens_by_age: `(T,)`.
    """

    correct: chex.Array
    log_prob: chex.Array
    tokens: chex.Array
    correct_by_time: chex.Array
    tokens_by_time: chex.Array
    correct_by_age: chex.Array
    tokens_by_age: chex.Array

    def __add__(self, other: "ProbeCounts") -> "ProbeCounts":
        return jax.tree.map(jnp.add, self, other)


def initial_probes(
    num_layers: int, width: int, num_subgoals: int, optimiser: optax.GradientTransformation
) -> ProbeState:
    """Probes that know nothing: all weights zero, which is a fine start for a convex loss.

    Args:
      num_layers: residual streams to read, `L + 1`.
      width: size `n_e` of the residual stream.
      num_subgoals: number of subgoals `G`.
      optimiser: takes the gradient to an update.
    """
    weights = jnp.zeros((num_layers, width, num_subgoals), jnp.float32)
    return ProbeState(weights, optimiser.init(weights))


def _layer_log_probs(weights: chex.Array, residual: chex.Array) -> chex.Array:
    """One layer: `(n_e, G)` and `(B, S, n_e)` to `(B, S, G)` log-probabilities."""
    return jax.nn.log_softmax(residual @ weights)


def _layer_loss(
    weights: chex.Array,
    residual: chex.Array,
    subgoal: chex.Array,
    mask: chex.Array,
    tokens: chex.Array,
) -> chex.Array:
    """Cross-entropy of one layer's probe, summed over the tokens in `mask`, by `tokens`, nats."""
    log_probs = _layer_log_probs(weights, residual)
    picked = jnp.take_along_axis(log_probs, jnp.maximum(subgoal, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(picked * mask) / tokens


def residual_streams(model: SteeredModel, batch: Trajectory) -> chex.Array:
    """Residual streams of the frozen base model on packed rows, `(L + 1, B, S, n_e)`."""
    return model.residuals(batch.observation, batch.segment)


def update_probes(
    state: ProbeState,
    residuals: chex.Array,
    batch: Trajectory,
    optimiser: optax.GradientTransformation,
) -> tuple[ProbeState, Metrics]:
    """One gradient step of every layer's probe.

    Args:
      state: of the probes.
      residuals: `(L + 1, B, S, n_e)`, see `residual_streams`.
      batch: `(B, S)` rows, of which subgoal and mask are read.
      optimiser: the transformation given to `initial_probes`.

    Returns:
      The new state, and `probe_loss_layer_<l>` per layer in nats.
    """

    def total_loss(weights):
        losses = jax.vmap(_layer_loss, in_axes=(0, 0, None, None, None))(
            weights, residuals, batch.subgoal, batch.mask, tokens
        )
        return jnp.sum(losses), losses

    tokens = num_targets(batch)
    gradient, losses = total(jax.grad(total_loss, has_aux=True)(state.weights))
    updates, optimiser_state = optimiser.update(gradient, state.optimiser_state, state.weights)
    metrics = {f"probe_loss_layer_{i}": loss for i, loss in enumerate(losses)}
    return ProbeState(optax.apply_updates(state.weights, updates), optimiser_state), metrics


def beliefs(weights: chex.Array, residuals: chex.Array) -> chex.Array:
    """Probability every layer's probe gives to every subgoal, `(L + 1, B, S, G)`."""
    return jnp.exp(jax.vmap(_layer_log_probs)(weights, residuals))


def time_in_trajectory(segment: chex.Array) -> chex.Array:
    """Steps since the start of the packed trajectory, `(B, S)` int32."""
    return _steps_since(segment[:, 1:] != segment[:, :-1])


def time_in_subgoal(segment: chex.Array, subgoal: chex.Array) -> chex.Array:
    """Steps since the current subgoal began, `(B, S)` int32."""
    starts = (segment[:, 1:] != segment[:, :-1]) | (subgoal[:, 1:] != subgoal[:, :-1])
    return _steps_since(starts)


def _steps_since(starts: chex.Array) -> chex.Array:
    """`(B, S - 1)` flags "something starts at token 1, 2, .." to `(B, S)` ages."""
    index = jnp.arange(starts.shape[1] + 1, dtype=jnp.int32)
    starts = jnp.pad(starts, ((0, 0), (1, 0)), constant_values=True)
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def count_correct(
    weights: chex.Array, residuals: chex.Array, batch: Trajectory, max_time: int
) -> ProbeCounts:
    """Counts correct predictions on held-out rows, per layer, time and age of the subgoal.

    Args:
      weights: `(L + 1, n_e, G)`.
      residuals: `(L + 1, B, S, n_e)`.
      batch: `(B, S)` rows, of which subgoal, segment and mask are read.
      max_time: number `T` of time bins; later steps are left out of the two tables.
    """
    subgoal, segment, mask = batch.subgoal, batch.segment, batch.mask
    belief = beliefs(weights, residuals)
    correct = ((jnp.argmax(belief, axis=-1) == subgoal) & mask).astype(jnp.float32)
    true_belief = jnp.take_along_axis(belief, jnp.maximum(subgoal, 0)[None, ..., None], axis=-1)
    log_prob = jnp.where(mask, jnp.log(jnp.maximum(true_belief[..., 0], 1e-30)), 0.0)
    tables = []
    for time in (time_in_trajectory(segment), time_in_subgoal(segment, subgoal)):
        bins = jax.nn.one_hot(time, max_time, dtype=jnp.float32) * mask[..., None]
        tables += [jnp.einsum("lbs,bst->lt", correct, bins), jnp.sum(bins, axis=(0, 1))]
    return ProbeCounts(
        jnp.sum(correct, axis=(1, 2)),
        jnp.sum(log_prob, axis=(1, 2)),
        jnp.sum(mask, dtype=jnp.float32),
        *tables,
    )


def probe_metrics(counts: ProbeCounts) -> Metrics:
    """Accuracies from counts.

    Returns:
      `accuracy` `(L + 1,)`, `cross_entropy` `(L + 1,)` nats, `accuracy_by_time` and
      `accuracy_by_age` `(L + 1, T)`; NaN where a bin holds fewer than `MIN_TOKENS` tokens.
    """

    def share(correct, tokens):
        return jnp.where(tokens >= MIN_TOKENS, correct / jnp.maximum(tokens, 1), jnp.nan)

    return {
        "accuracy": counts.correct / counts.tokens,
        "cross_entropy": -counts.log_prob / counts.tokens,
        "accuracy_by_time": share(counts.correct_by_time, counts.tokens_by_time),
        "accuracy_by_age": share(counts.correct_by_age, counts.tokens_by_age),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Probing:
    """Trains a probe at every layer of a frozen base model.

    Attributes:
      config: how it trains.
      model: whose base model is read.
      source: what the probes are trained and evaluated on, with labels.
      num_subgoals: number of subgoals `G`.
      max_time: time bins `T` of an evaluation, the length of the longest trajectory.

    Raises:
      ValueError: the source has no labels, or a dataset holds other trajectories than the model
        reads or other subgoals.
    """

    config: Config
    model: SteeredModel
    source: DataSource
    num_subgoals: int
    max_time: int

    def __post_init__(self):
        require_labels(self.source, "probing")
        require_fitting(self.source, self.model.base, num_subgoals=self.num_subgoals)

    @property
    def frozen(self) -> dict[str, Any]:
        """What stays as it is: the base model and the arrays of the data."""
        return {"model": self.model.alone(), "data": self.source.arrays}

    def init(self, key: chex.PRNGKey, frozen: dict) -> State:
        """Probes that know nothing, and the beginning of the data."""
        del frozen
        base = self.model.base
        probe = initial_probes(
            base.depth + 1, base.width, self.num_subgoals, self.config.make_optimiser()
        )
        rows = num_rows(self.source, self.config.batch_size)
        return State(probe, self.source.init(named_keys(key, "data")["data"], rows))

    def update(self, state: State, frozen: dict) -> tuple[State, Metrics]:
        """One gradient step of every layer's probe.

        Returns:
          The new state, and `probe_loss_layer_<l>` and their mean `loss` in nats.
        """
        position, batch = next_rows(self.source, state.stream, frozen["data"])
        residuals = residual_streams(frozen["model"], batch)
        probe, metrics = update_probes(state.probe, residuals, batch, self.config.make_optimiser())
        losses = jnp.stack(list(metrics.values()))
        return State(probe, position), {"loss": losses.mean(), **metrics}

    def evaluate(self, state: State, frozen: dict) -> Metrics:
        """`accuracy_layer_<l>` on held-out rows."""
        batch = held_out(self.source, self.config.evaluation_rows, frozen["data"])
        residuals = residual_streams(frozen["model"], batch)
        counts = count_correct(state.probe.weights, residuals, batch, self.max_time)
        accuracy = probe_metrics(counts)["accuracy"]
        return {f"accuracy_layer_{i}": accuracy[i] for i in range(accuracy.shape[0])}

    def params(self, state: State) -> chex.ArrayTree:
        """`weights` `(L + 1, n_e, G)`."""
        return {"weights": state.probe.weights}
