"""Trains the base model to predict the next action of goal-directed experts (method §3)."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_stage("pretrain")
