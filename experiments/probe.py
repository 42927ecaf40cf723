"""Trains a linear probe of the subgoal at every layer of the frozen base model (method §4)."""

import chex
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from experiments import build, launch
from experiments.pretrain import held_out
from internal_rl.analysis import probing
from internal_rl.training.loop import run_stage
from internal_rl.training.randomness import named_keys
from internal_rl.training.stage import Stage


@struct.dataclass
class ProbeStageState:
    """Everything that changes while the probes train."""

    probe: probing.ProbeState
    stream: build.StreamPosition

    @property
    def params(self) -> chex.Array:
        """What later stages read."""
        return {"weights": self.probe.weights}


def make_stage(config: ConfigDict, workdir: str) -> Stage:
    """The stage as pure functions."""
    world = build.make_world(config)
    stream = build.make_stream(config, world, workdir)
    base = build.make_base_model(config, world)
    optimiser = build.make_stage_optimiser(config, "probe")
    rows = launch.rows_of(config, "probe")
    step = config.probe.base_step or None
    seeds = launch.seeds_of(config, "probe")
    base_params, axis = build.load_params(config, workdir, "pretrain", seeds, step)

    def init(key, frozen):
        del frozen
        probe = probing.init(base.depth + 1, base.width, world.task_set.num_subgoals, optimiser)
        return ProbeStageState(probe, stream.init(named_keys(key, "data")["data"], rows))

    def update(state, frozen):
        position, batch = stream.next(state.stream, frozen["data"])
        residuals = probing.residual_streams(base, frozen["base"], batch)
        probe, metrics = probing.update(
            state.probe, residuals, batch.subgoal, batch.mask, optimiser
        )
        losses = jnp.stack([v for k, v in metrics.items() if k.startswith("probe_loss")])
        return ProbeStageState(probe, position), {"loss": losses.mean(), **metrics}

    def evaluate(state, frozen):
        batch = held_out(stream, config.probe.evaluation_rows, frozen["data"])
        residuals = probing.residual_streams(base, frozen["base"], batch)
        counts = probing.count_correct(
            state.probe.weights, residuals, batch.subgoal, batch.segment, batch.mask,
            world.time_limit,
        )  # fmt: skip
        metrics = probing.probe_metrics(counts)
        accuracy = metrics["accuracy"]
        return {f"accuracy_layer_{i}": accuracy[i] for i in range(accuracy.shape[0])}

    def artifacts(state, frozen):
        batch = held_out(stream, config.probe.evaluation_rows, frozen["data"])
        residuals = probing.residual_streams(base, frozen["base"], batch)
        counts = probing.count_correct(
            state.probe.weights, residuals, batch.subgoal, batch.segment, batch.mask,
            world.time_limit,
        )  # fmt: skip
        arrays = {k: np.asarray(v) for k, v in probing.probe_metrics(counts).items()}
        row = probing.beliefs(state.probe.weights, residuals[:, :1])[:, 0]
        return arrays | {
            "example_beliefs": np.asarray(row),
            "example_subgoal": np.asarray(batch.subgoal[0]),
            "example_segment": np.asarray(batch.segment[0]),
        }

    return Stage(
        init=init,
        update=update,
        evaluate=evaluate,
        artifacts=artifacts,
        frozen={"base": base_params, "data": stream.source},
        frozen_axes={"base": axis, "data": None},
        **launch.schedule_of(config, "probe"),
    )


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the stage."""
    run_stage(make_stage(config, workdir), workdir)


if __name__ == "__main__":
    launch.run(main)
