"""Runs all stages of a config in order: data to figures, baselines and controls included."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_reproduce()
