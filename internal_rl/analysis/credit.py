"""Why acting in code space helps: variance of two policy-gradient estimates (method §6).

Both estimate the gradient of the expected return with respect to the same parameter, the bias `b`
of the policy's mean (`z_k = mean_k + b + std_k * noise_k` at decision k), from the same rollouts:

- *code actions*: the codes are the random actions; a decision contributes
  `A d ln pi(z_k) / db = A (z_k - mean_k) / std_k^2`.
- *raw actions*: given the noise, the codes are a function of `b` (reparametrised) and the base
  model's actions are the random ones; a raw step contributes
  `A d ln p(a_t | o_{1:t}, z_{1:t}) / db`, differentiated through controller and base model.

`A` is the trajectory's advantage. The first sum has a term per switch, the second one per raw step.
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from internal_rl.acting.code_policy import CodePolicyControl
from internal_rl.acting.decisions import decision_steps, num_decisions
from internal_rl.acting.episodes import Episodes
from internal_rl.analysis.drawing import draw_band, legend, palette, panels, tell
from internal_rl.analysis.results import RunResults, standing, with_artifact
from internal_rl.analysis.study import Study, StudyContext, as_arrays
from internal_rl.backend import without_kernels
from internal_rl.methods.reinforcement.objective import trajectory_advantage
from internal_rl.models.heads import action_log_prob
from internal_rl.models.steered_model import SteeredModel

# Episodes from which the variance of the gradient is estimated.
EXAMINED_EPISODES = 256
# Episodes whose scores are computed at a time: full-rank controllers are matrices of every step.
_EPISODES_AT_A_TIME = 16


@struct.dataclass
class GradientVariance:
    """Total variance (trace of the covariance) of one episode's gradient estimate.

    Entry `n - 1` uses the first `n` raw steps of the episodes that last at least `n`; it is NaN
    where there are fewer than two of them.

    Attributes:
      code: `(T,)` with code actions.
      raw: `(T,)` with raw actions.
      code_score: `(T,)` with code actions and `A = 1`: the variance without the return's share.
      raw_score: `(T,)` with raw actions and `A = 1`.
      episodes: `(T,)` episodes used.
    """

    code: chex.Array
    raw: chex.Array
    code_score: chex.Array
    raw_score: chex.Array
    episodes: chex.Array


def code_scores(control: CodePolicyControl, episodes: Episodes) -> chex.Array:
    """`d ln pi(z_k) / db` at the raw steps that made decision k, zero elsewhere, `(B, T, n_z)`.

    Args:
      control: the policy that acted.
      episodes: what it recorded.
    """
    record = episodes.record
    ask, residual = record["ask"], record["residual"]
    steps = decision_steps(ask)
    episode = jnp.arange(steps.shape[0])[:, None]
    mask = jnp.arange(steps.shape[1]) < num_decisions(episodes)[:, None]
    mean, log_std = control.policy.apply(control.params, residual[episode, steps], mask)
    decision = jnp.maximum(jnp.cumsum(ask, axis=1) - 1, 0)
    mean, log_std = mean[episode, decision], log_std[episode, decision]
    score = (record["code"] - mean) * jnp.exp(-2 * log_std)
    return jnp.where(ask[..., None], score, 0.0)


def raw_scores(model: SteeredModel, episodes: Episodes) -> chex.Array:
    """`d ln p(a_t | o_{1:t}, z_{1:t}) / db` of every raw step, zero after the end, `(B, T, n_z)`.

    Forward-mode derivatives, one per code dimension, give all steps at once. The switches of the
    episodes are kept: they are events, not functions of `b`.

    Args:
      model: base model and metacontroller.
      episodes: what a code policy recorded.
    """
    residual, code = episodes.record["residual"], episodes.record["code"]
    segment = jnp.where(episodes.active, 0, -1)

    def log_probs(bias):
        output = model.upper(model.control(residual, code + bias), segment)
        return action_log_prob(model.base.action_spec, output.action, episodes.action)

    bias = jnp.zeros(code.shape[-1], code.dtype)
    with without_kernels():
        tangents = jax.lax.map(
            lambda direction: jax.jvp(log_probs, (bias,), (direction,))[1],
            jnp.eye(len(bias), dtype=bias.dtype),
        )
    return jnp.where(episodes.active[..., None], jnp.moveaxis(tangents, 0, -1), 0.0)


def _total_variance(gradient: chex.Array, chosen: chex.Array) -> chex.Array:
    """Trace of the covariance over chosen episodes: `(B, T, n_z)` and `(B, T)` to `(T,)`."""
    count = jnp.sum(chosen, axis=0)
    weight = chosen[..., None] / jnp.maximum(count, 1)[:, None]
    centred = gradient - jnp.sum(weight * gradient, axis=0)
    variance = jnp.sum(weight * centred**2, axis=(0, 2)) * count / jnp.maximum(count - 1, 1)
    return jnp.where(count >= 2, variance, jnp.nan)


def gradient_variance(
    model: SteeredModel, control: CodePolicyControl, episodes: Episodes
) -> GradientVariance:
    """Variance of both estimates as a function of the number of raw steps.

    Args:
      model: base model and metacontroller.
      control: the policy that acted.
      episodes: `B` of its episodes with sampled codes and actions. If all returns are equal the
        advantage is zero and only the two `_score` curves say anything.
    """
    advantage = trajectory_advantage(episodes.returns)[:, None, None]

    def scores(episode):
        alone = jax.tree.map(lambda leaf: leaf[None], episode)
        return code_scores(control, alone)[0], raw_scores(model, alone)[0]

    code, raw = (
        jnp.cumsum(score, axis=1)
        for score in jax.lax.map(scores, episodes, batch_size=_EPISODES_AT_A_TIME)
    )
    return GradientVariance(
        code=_total_variance(advantage * code, episodes.active),
        raw=_total_variance(advantage * raw, episodes.active),
        code_score=_total_variance(code, episodes.active),
        raw_score=_total_variance(raw, episodes.active),
        episodes=jnp.sum(episodes.active, axis=0),
    )


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`GradientVariance` as `gradient_<field>`."""
    model, control = context.method.actor(context.params, context.frozen)
    some = jax.tree.map(lambda leaf: leaf[:EXAMINED_EPISODES], context.episodes)
    return as_arrays(jax.jit(gradient_variance)(model, control, some), "gradient_")


def figures(run: RunResults) -> dict[str, Figure | None]:
    """Variance against the number of raw steps, over runs."""
    seeds = with_artifact(run, "internal_rl", "gradient_code_score")
    if not seeds:
        return {}
    # Without a single success the advantage is zero and so are both estimates.
    learnt = [x for x in seeds if np.nanmax(x.artifacts["gradient_code"]) > 0]
    suffix, note = ("", "") if learnt else ("_score", ", A = 1")
    shown = learnt or seeds
    length = min(len(x.artifacts["gradient_code"]) for x in shown)
    curves = {
        f"{what} actions{note}": np.stack(
            [x.artifacts[f"gradient_{what}{suffix}"][:length] for x in shown]
        )
        for what in ("code", "raw")
    }
    figure = draw_variance(curves)
    left_out = len(seeds) - len(shown)
    without = f"; {left_out} without a success left out" if left_out else ""
    tell(figure, f"Median and quartiles over {standing(shown)}{without}")
    return {"gradient_variance": figure}


def draw_variance(curves: Mapping[str, np.ndarray]) -> Figure:
    """Variance of the policy gradient against the number of raw steps, and how much it grows.

    Levels depend on the width of the policy: the score of a code is divided by its variance. The
    growth with the number of raw steps, right, is what code actions save (method §6).

    Args:
      curves: `(runs, T)` total variance by label, NaN where unknown; entry `n - 1` of a run uses
        `n` raw steps.
    """
    figure, axes = panels(1, 2, (7.2, 3.4))
    for (label, values), colour in zip(curves.items(), palette(len(curves)), strict=True):
        steps = np.arange(1, values.shape[1] + 1)
        start = np.where(values[:, :1] > 0, values[:, :1], np.nan)
        draw_band(axes[0, 0], steps, values, label=label, colour=colour)
        draw_band(axes[0, 1], steps, values / start, label=label, colour=colour)
    for panel, of in zip(axes[0], ("variance", "variance over that of one step"), strict=True):
        panel.set(xlabel="raw steps", ylabel=of, yscale="log")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        legend(panel)
    figure.suptitle("Variance of the policy gradient of one episode", fontsize=11)
    return figure


STUDY = Study(
    name="credit",
    stages=("internal_rl",),
    measure=measure,
    figures=figures,
    title="Variance of the policy gradient",
    captions={
        "gradient_variance": "Total variance of the gradient estimate of one episode against "
        "its raw steps, with codes and with raw actions as the random choices: as it is, and "
        "as a multiple of that of one step. Medians over runs as lines, quartiles as bands.",
    },
)
