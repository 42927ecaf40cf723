"""Writes the ant's datasets with the trained expert (method §2)."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_stage("collect")
