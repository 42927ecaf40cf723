"""Runs a study over several runs, such as a sweep over α, and draws what it shows."""

from internal_rl.stages import sweeping

if __name__ == "__main__":
    sweeping.launch_sweep()
