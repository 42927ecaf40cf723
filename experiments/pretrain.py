"""Trains the base model to predict the next action of goal-directed experts (method §3)."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from experiments import build, launch
from internal_rl.analysis.baselines import action_baselines
from internal_rl.analysis.examination import examine_base
from internal_rl.envs import World
from internal_rl.experts.collect import ExpertStream
from internal_rl.experts.references import references
from internal_rl.models import heads
from internal_rl.models.base_model import BaseModel
from internal_rl.models.reach import gradient_through
from internal_rl.training.accumulation import accumulated_gradients
from internal_rl.training.loop import run_stage
from internal_rl.training.optimiser import apply_gradients
from internal_rl.training.randomness import named_key, named_keys
from internal_rl.training.stage import Stage
from internal_rl.types import Trajectory

EVALUATION_KEY = 1_000_003  # held-out data: the same for every seed, a stream of its own


@struct.dataclass
class PretrainState:
    """Everything that changes while the base model trains."""

    params: chex.ArrayTree
    optimiser_state: optax.OptState
    stream: build.StreamPosition
    step: chex.Array


def prediction_loss(
    base: BaseModel,
    params: chex.ArrayTree,
    batch: Trajectory,
    observation_loss: float,
    tokens: chex.Array,
) -> tuple[chex.Array, dict[str, chex.Array]]:
    """`-ln p(a_t|o_{1:t}) - λ ln p(o_{t+1}|o_{1:t})`, summed over `batch`, by `tokens`, in nats."""
    output = base.apply(params, batch.observation, batch.segment)
    mask = batch.mask.astype(jnp.float32)
    log_prob = heads.action_log_prob(base.action_head, output.action, batch.action)
    loss = action_nll = -(log_prob * mask).sum() / tokens
    metrics = {"action_nll": action_nll}
    if observation_loss:
        log_prob = heads.observation_log_prob(
            base.action_head, output.observation, batch.next_observation
        )
        metrics["observation_nll"] = -(log_prob * mask).sum() / tokens
        loss = loss + observation_loss * metrics["observation_nll"]
    return loss, metrics


def make_stage(config: ConfigDict, workdir: str) -> Stage:
    """The stage as pure functions."""
    world = build.make_world(config)
    stream = build.make_stream(config, world, workdir)
    curriculum = build.make_curriculum(config, world, workdir)
    base = build.make_base_model(config, world)
    optimiser = build.make_stage_optimiser(config, "pretrain")
    rows = launch.rows_of(config, "pretrain")
    loss = functools.partial(prediction_loss, observation_loss=config.base.observation_loss)

    def init(key, frozen):
        del frozen
        keys = named_keys(key, "params", "data")
        observation = jnp.zeros((1, 2, world.observation_size), jnp.uint8)
        params = base.init(keys["params"], observation, jnp.zeros((1, 2), jnp.int32))
        position = stream.init(keys["data"], rows)
        return PretrainState(params, optimiser.init(params), position, jnp.int32(0))

    def update(state, frozen):
        if curriculum is None:
            position, batch = stream.next(state.stream, frozen["data"])
        else:
            early = state.step < config.pretrain.curriculum_steps
            position, batch = jax.lax.cond(
                early,
                lambda position: curriculum.next(position, frozen["curriculum"]),
                lambda position: stream.next(position, frozen["data"]),
                state.stream,
            )
        tokens = batch.num_targets()

        def share(base, params, part, index):
            del index
            return loss(base, params, part, tokens=tokens)

        (value, metrics), gradients = accumulated_gradients(
            gradient_through(base, share), state.params, batch, config.pretrain.num_parts
        )
        params, optimiser_state, more = apply_gradients(
            optimiser, gradients, state.optimiser_state, state.params
        )
        state = PretrainState(params, optimiser_state, position, state.step + 1)
        padding = jnp.mean(batch.segment < 0)
        return state, {"loss": value, "padding": padding, **metrics, **more}

    def evaluate(state, frozen):
        batch = held_out(stream, config.pretrain.evaluation_rows, frozen["data"])
        return loss(base, state.params, batch, tokens=batch.num_targets())[1]

    def artifacts(state, frozen):
        del frozen
        key = named_key(jax.random.key(EVALUATION_KEY), "sampling")
        return examine_base(world, base, state.params, key, config.pretrain.evaluation_episodes)

    return Stage(
        init=init,
        update=update,
        evaluate=evaluate,
        references=lambda: reference_lines(config, world, stream),
        artifacts=artifacts,
        snapshot_steps=tuple(config.pretrain.snapshot_steps),
        frozen={"data": stream.source, "curriculum": curriculum and curriculum.source},
        **launch.schedule_of(config, "pretrain"),
    )


def reference_lines(config: ConfigDict, world: World, stream: build.Stream) -> dict[str, float]:
    """Constants beside the curves: exact ones where the expert is known, else baselines."""
    key = named_key(jax.random.key(EVALUATION_KEY), "references")
    if isinstance(stream, ExpertStream):
        return references(world, stream, key, config.pretrain.reference_trajectories)
    rows = held_out(stream, config.pretrain.evaluation_rows, stream.source)
    return action_baselines(stream.source["train"], rows, key, config.pretrain.baseline_steps)


def held_out(stream: build.Stream, rows: int, source: Trajectory | None) -> Trajectory:
    """Rows of trajectories that no training stream contains; `source` is that of the stream."""
    key = named_key(jax.random.key(EVALUATION_KEY), "held out")
    return stream.evaluation_set(key, rows, source)


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the stage."""
    run_stage(make_stage(config, workdir), workdir)


if __name__ == "__main__":
    launch.run(main)
