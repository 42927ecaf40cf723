"""Trains supervised linear controllers at every layer of the frozen base model (method §4)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from experiments import build, launch
from internal_rl.analysis import steering
from internal_rl.training.loop import run_stage
from internal_rl.training.randomness import named_keys
from internal_rl.training.stage import Stage


@struct.dataclass
class SteerStageState:
    """Everything that changes while the controllers train; one entry per layer."""

    layers: tuple[steering.SteeringState, ...]
    stream: build.StreamPosition

    @property
    def params(self) -> dict[str, chex.ArrayTree]:
        """What later stages read: controllers by layer."""
        return {
            f"layer_{i}": {"read": x.controllers.read, "write": x.controllers.write}
            for i, x in enumerate(self.layers)
        }


def make_stage(config: ConfigDict, workdir: str) -> Stage:
    """The stage as pure functions."""
    world = build.make_world(config)
    stream = build.make_stream(config, world, workdir, clean=True)
    base = build.make_base_model(config, world)
    optimiser = build.make_stage_optimiser(config, "steer")
    rows = launch.rows_of(config, "steer")
    task = np.asarray(world.post_training_task)
    seeds = launch.seeds_of(config, "steer")
    base_params, axis = build.load_params(config, workdir, "pretrain", seeds)

    def init(key, frozen):
        del frozen
        keys = named_keys(key, "params", "data")
        layers = tuple(
            build.checked(
                steering.init,
                "steer.rank",
                jax.random.fold_in(keys["params"], layer),
                world.task_set.num_subgoals,
                base.width,
                config.steer.rank,
                optimiser,
            )
            for layer in range(base.depth + 1)
        )
        return SteerStageState(layers, stream.init(keys["data"], rows))

    def update(state, frozen):
        position, batch = stream.next(state.stream, frozen["data"])
        layers, losses = [], []
        for layer, controllers in enumerate(state.layers):
            controllers, metrics = steering.update(
                controllers, batch, base=base, base_params=frozen["base"], layer=layer,
                optimiser=optimiser, num_parts=config.steer.num_parts,
                min_action_std=config.steer.min_action_std,
            )  # fmt: skip
            layers.append(controllers)
            losses.append(metrics["action_nll"])
        metrics = {f"action_nll_layer_{i}": loss for i, loss in enumerate(losses)}
        return SteerStageState(tuple(layers), position), {
            "loss": jnp.stack(losses).mean(),
            **metrics,
        }

    def artifacts(state, frozen):
        results = [
            steering.evaluate(
                world, base, frozen["base"], controllers.controllers, layer,
                jax.random.key(layer), task, config.steer.evaluation_episodes,
            )
            for layer, controllers in enumerate(state.layers)
        ]  # fmt: skip
        return {name: np.stack([np.asarray(r[name]) for r in results]) for name in results[0]}

    return Stage(
        init=init,
        update=update,
        artifacts=artifacts,
        frozen={"base": base_params, "data": stream.source},
        frozen_axes={"base": axis, "data": None},
        **launch.schedule_of(config, "steer"),
    )


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the stage."""
    run_stage(make_stage(config, workdir), workdir)


if __name__ == "__main__":
    launch.run(main)
