"""Reinforcement learning on the codes of a frozen metacontroller (method §6)."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_stage("internal_rl")
