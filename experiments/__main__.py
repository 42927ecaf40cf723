"""Any stage by name, also one from outside: `python -m experiments --stage=NAME`."""

from absl import flags

from internal_rl.stages import launch, running

if __name__ == "__main__":
    name = flags.DEFINE_string("stage", None, "Name of the stage.", required=True)
    launch.run(lambda settings, places: running.run(settings, name.value, places))
