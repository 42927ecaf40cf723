"""Trains a linear probe of the subgoal at every layer of the frozen base model (method §4)."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_stage("probe")
