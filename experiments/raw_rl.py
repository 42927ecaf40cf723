"""The baseline: finetunes the base model on raw actions with the same objective (method §6)."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_stage("raw_rl")
