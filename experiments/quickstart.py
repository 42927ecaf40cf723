"""The main job in minutes: internal RL against raw-action RL on the held-out task."""

from internal_rl.stages import quickstart

if __name__ == "__main__":
    quickstart.launch_quickstart()
