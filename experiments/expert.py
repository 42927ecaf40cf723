"""Trains the ant's expert with PPO; one policy for all tasks (method §2)."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_stage("expert")
