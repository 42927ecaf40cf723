"""Trains the metacontroller on clean expert trajectories, without labels (method §5)."""

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from experiments import build, launch
from experiments.pretrain import EVALUATION_KEY, held_out, reference_lines
from internal_rl.analysis.examination import examine_metacontroller
from internal_rl.analysis.switching import count_switches, switching_metrics
from internal_rl.models import heads
from internal_rl.models.base_model import BaseModel
from internal_rl.models.metacontroller import Discovery, Metacontroller
from internal_rl.models.reach import gradient_through
from internal_rl.training.accumulation import accumulated_gradients
from internal_rl.training.loop import run_stage
from internal_rl.training.optimiser import apply_gradients
from internal_rl.training.randomness import named_key, named_keys
from internal_rl.training.stage import Stage
from internal_rl.types import Trajectory


@struct.dataclass
class MetacontrollerState:
    """Everything that changes while the metacontroller trains."""

    params: chex.ArrayTree
    optimiser_state: optax.OptState
    stream: build.StreamPosition
    key: chex.PRNGKey
    step: chex.Array


def discovery_losses(
    base: BaseModel,
    base_params: chex.ArrayTree,
    metacontroller: Metacontroller,
    params: chex.ArrayTree,
    layer: int,
    batch: Trajectory,
    key: chex.PRNGKey,
    tokens: chex.Array,
    gate_floor: chex.Numeric = 0.0,
    min_action_std: float = 0.0,
) -> tuple[chex.Array, chex.Array, Discovery]:
    """Both terms of the loss, summed over `batch` and divided by `tokens`, and what was inferred.

    Returns:
      `-ln p(a_t|o_{1:t}, z_{1:t})` in nats, the unweighted KL in nats, and the `Discovery`.
    """
    residual = base.apply(base_params, batch.observation, batch.segment, layer, method="lower")
    discovery, controlled = metacontroller.apply(params, residual, batch.segment, key, gate_floor)
    output = base.apply(base_params, controlled, batch.segment, layer, method="upper")
    log_prob = heads.action_log_prob(base.action_head, output.action, batch.action, min_action_std)
    mask = batch.mask.astype(jnp.float32)
    return -(log_prob * mask).sum() / tokens, (discovery.kl * mask).sum() / tokens, discovery


def alpha_schedule(config: ConfigDict, step: chex.Array) -> chex.Array:
    """Weight α of the KL: zero, then rising from `alpha_start` to `alpha`, then constant.

    The rise is geometric, so that the rate is squeezed out gradually; with `alpha_start = 0` it is
    linear.
    """
    meta = config.metacontroller
    progress = (step - meta.alpha_free_steps) / max(meta.alpha_ramp_steps, 1)
    share = jnp.clip(progress, 0.0, 1.0)
    if meta.alpha_start > 0:
        rising = meta.alpha * (meta.alpha_start / meta.alpha) ** (1.0 - share)
    else:
        rising = meta.alpha * share
    return jnp.where(progress < 0, 0.0, rising)


def gate_floor_schedule(config: ConfigDict, step: chex.Array) -> chex.Array:
    """The least that gates are open: 1 at first, falling linearly at the end, then 0.

    Where subgoals are long, gates that are free from the start shut before the codes mean anything:
    a new code is then nothing but new noise.
    """
    meta = config.metacontroller
    left = meta.gate_open_steps + meta.gate_release_steps - step
    return jnp.clip(left / max(meta.gate_release_steps, 1), 0.0, 1.0)


def make_stage(config: ConfigDict, workdir: str) -> Stage:
    """The stage as pure functions."""
    world = build.make_world(config)
    stream = build.make_stream(config, world, workdir, clean=True, include_terminal=True)
    base = build.make_base_model(config, world)
    metacontroller = build.make_metacontroller(config)
    optimiser = build.make_stage_optimiser(config, "metacontroller")
    rows = launch.rows_of(config, "metacontroller")
    layer = config.metacontroller.layer
    seeds = launch.seeds_of(config, "metacontroller")
    base_params, axis = build.load_params(config, workdir, "pretrain", seeds)

    def init(key, frozen):
        del frozen
        keys = named_keys(key, "params", "data", "noise")
        residual = jnp.zeros((1, 2, base.width))
        segment = jnp.zeros((1, 2), jnp.int32)
        params = metacontroller.init(keys["params"], residual, segment, keys["params"])
        return MetacontrollerState(
            params,
            optimiser.init(params),
            stream.init(keys["data"], rows),
            keys["noise"],
            jnp.int32(0),
        )

    def losses(base, params, frozen, batch, key, tokens, gate_floor=0.0):
        return discovery_losses(
            base, frozen["base"], metacontroller, params, layer, batch, key, tokens, gate_floor,
            config.metacontroller.min_action_std,
        )  # fmt: skip

    def update(state, frozen):
        position, batch = stream.next(state.stream, frozen["data"])
        alpha = alpha_schedule(config, state.step)
        floor = gate_floor_schedule(config, state.step)

        key = jax.random.fold_in(state.key, state.step)
        tokens = batch.num_targets()

        def share(base, params, part, index):
            part_key = jax.random.fold_in(key, index)
            nll, kl, _ = losses(base, params, frozen, part, part_key, tokens, floor)
            return nll + alpha * kl, (nll, kl)

        (value, (nll, kl)), gradients = accumulated_gradients(
            gradient_through(base, share), state.params, batch, config.metacontroller.num_parts
        )
        params, optimiser_state, more = apply_gradients(
            optimiser, gradients, state.optimiser_state, state.params
        )
        state = MetacontrollerState(params, optimiser_state, position, state.key, state.step + 1)
        return state, {"loss": value, "action_nll": nll, "kl": kl, "alpha": alpha, **more}

    def evaluate(state, frozen):
        batch = held_out(stream, config.metacontroller.evaluation_rows, frozen["data"])
        tokens = batch.num_targets()
        nll, kl, discovery = losses(base, state.params, frozen, batch, jax.random.key(0), tokens)
        counts = count_switches(
            discovery.beta, batch.subgoal, batch.segment, batch.mask,
            tolerance=world.switch_tolerance,
        )  # fmt: skip
        loss = nll + config.metacontroller.alpha * kl
        return {"loss": loss, "action_nll": nll, "kl": kl, **switching_metrics(counts)}

    def artifacts(state, frozen):
        return examine_metacontroller(
            world, base, frozen["base"], metacontroller, state.params, layer,
            held_out(stream, config.metacontroller.evaluation_rows, frozen["data"]),
            named_key(jax.random.key(EVALUATION_KEY), "examination"),
            config.metacontroller.evaluation_episodes,
        )  # fmt: skip

    return Stage(
        init=init,
        update=update,
        evaluate=evaluate,
        artifacts=artifacts,
        references=lambda: reference_lines(config, world, stream),
        frozen={"base": base_params, "data": stream.source},
        frozen_axes={"base": axis, "data": None},
        **launch.schedule_of(config, "metacontroller"),
    )


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the stage."""
    run_stage(make_stage(config, workdir), workdir)


if __name__ == "__main__":
    launch.run(main)
