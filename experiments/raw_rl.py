"""The baseline: finetunes the base model on raw actions with the same objective (method §6)."""

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import build, launch
from experiments.internal_rl import update_config
from internal_rl.rl.raw_action import RawActionTrainer
from internal_rl.training.loop import run_stage
from internal_rl.training.randomness import named_key
from internal_rl.training.stage import Stage


def make_trainer(config: ConfigDict) -> RawActionTrainer:
    """The trainer on the post-training task."""
    world = build.make_world(config)
    return RawActionTrainer(
        world=world,
        base=build.make_base_model(config, world),
        optimiser=build.make_stage_optimiser(config, "raw_rl"),
        task=build.rl_task(config, world, "raw_rl"),
        num_episodes=config.raw_rl.episodes_per_update,
        update_config=build.checked(update_config, "raw_rl", config.raw_rl),
    )


def make_stage(config: ConfigDict, workdir: str) -> Stage:
    """The stage as pure functions."""
    trainer = make_trainer(config)
    seeds = launch.seeds_of(config, "raw_rl")
    base, axis = build.load_params(config, workdir, "pretrain", seeds)
    evaluation_episodes = config.raw_rl.evaluation_episodes

    def update(state, frozen):
        del frozen
        return trainer.update(state)

    def evaluate(state, frozen):
        del frozen
        key = named_key(jax.random.key(1), "evaluation")
        return trainer.evaluate(state.params, key, evaluation_episodes)

    def artifacts(state, frozen):
        del frozen
        key = named_key(jax.random.key(2), "evaluation")
        play = jax.jit(
            lambda params, deterministic: trainer.evaluate(
                params, key, evaluation_episodes, deterministic
            )
        )
        result = play(state.params, False)
        return {
            **{name: np.asarray(value) for name, value in result.items()},
            "deterministic_success": np.asarray(play(state.params, True)["success"]),
        }

    return Stage(
        init=trainer.init,
        update=update,
        evaluate=evaluate,
        artifacts=artifacts,
        frozen=base,
        frozen_axes=axis,
        **launch.schedule_of(config, "raw_rl"),
    )


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the stage."""
    run_stage(make_stage(config, workdir), workdir)


if __name__ == "__main__":
    launch.run(main)
