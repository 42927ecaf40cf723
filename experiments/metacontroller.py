"""Trains the metacontroller on clean expert trajectories, without labels (method §5)."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_stage("metacontroller")
