"""Trains the baseline CompILE: segments of trajectories, with one code each (method §6)."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_stage("compile")
