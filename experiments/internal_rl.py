"""Reinforcement learning on the codes of a frozen metacontroller (method §6)."""

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import build, launch
from internal_rl.analysis.examination import examine_credit, example_episode
from internal_rl.rl.internal import InternalTrainer, rollout_metrics
from internal_rl.rl.internal_env import InternalEnv
from internal_rl.rl.update import UpdateConfig
from internal_rl.training.loop import run_stage
from internal_rl.training.randomness import named_key
from internal_rl.training.stage import Stage

# Episodes from which the variance of the gradient is estimated.
EXAMINED_EPISODES = 256


def update_config(settings: ConfigDict) -> UpdateConfig:
    """PPO settings of a reinforcement-learning section."""
    return UpdateConfig(
        clip=settings.clip,
        num_epochs=settings.num_epochs,
        num_minibatches=settings.num_minibatches,
    )


def make_trainer(config: ConfigDict) -> InternalTrainer:
    """The trainer of the config's metacontroller variant."""
    world = build.make_world(config)
    environment = InternalEnv(
        world=world,
        base=build.make_base_model(config, world),
        metacontroller=build.make_metacontroller(config),
        policy=build.make_policy(config),
        layer=config.metacontroller.layer,
        threshold=config.internal_rl.threshold,
        force_switch=config.metacontroller.variant == "forced",
    )
    return InternalTrainer(
        env=environment,
        optimiser=build.make_stage_optimiser(config, "internal_rl"),
        task=build.rl_task(config, world, "internal_rl"),
        num_episodes=config.internal_rl.episodes_per_update,
        update_config=build.checked(update_config, "internal_rl", config.internal_rl),
    )


def make_stage(config: ConfigDict, workdir: str) -> Stage:
    """The stage as pure functions."""
    trainer = make_trainer(config)
    seeds = launch.seeds_of(config, "internal_rl")
    # Each metacontroller comes with the base model that it was trained on.
    metacontroller_seeds = build.upstream_seeds(config, "metacontroller", seeds)
    metacontroller, metacontroller_axis = build.load_params(
        config, workdir, "metacontroller", seeds
    )
    base, base_axis = build.load_params(config, workdir, "pretrain", metacontroller_seeds)
    evaluation_episodes = config.internal_rl.evaluation_episodes

    def init(key, frozen):
        del frozen
        return trainer.init(key)

    def update(state, frozen):
        return trainer.update(state, frozen)

    def evaluate(state, frozen):
        key = named_key(jax.random.key(1), "evaluation")
        return trainer.evaluate(state.params, frozen, key, evaluation_episodes)

    def artifacts(state, frozen):
        key = named_key(jax.random.key(2), "evaluation")
        params = {**frozen, "policy": state.params}
        play = jax.jit(
            lambda params, deterministic: trainer.env.rollout(
                params, key, trainer.task, evaluation_episodes, deterministic
            )
        )
        # First, so that never two rollouts are held at a time.
        deterministic_success = np.mean(play(params, True).success)
        rollout = play(params, False)
        some = jax.tree.map(lambda leaf: leaf[:EXAMINED_EPISODES], rollout)
        return {
            **{name: np.asarray(value) for name, value in rollout_metrics(rollout).items()},
            "deterministic_success": deterministic_success,
            **examine_credit(trainer.env, params, some),
            **example_episode(trainer.env.world, rollout),
        }

    return Stage(
        init=init,
        update=update,
        evaluate=evaluate,
        artifacts=artifacts,
        frozen={"base": base, "metacontroller": metacontroller},
        frozen_axes={"base": base_axis, "metacontroller": metacontroller_axis},
        **launch.schedule_of(config, "internal_rl"),
    )


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the stage."""
    run_stage(make_stage(config, workdir), workdir)


if __name__ == "__main__":
    launch.run(main)
