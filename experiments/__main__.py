"""Any stage by name, also one from outside: `python -m experiments --stage=NAME`."""

import argparse

from absl import flags

from internal_rl.stages import launch

if __name__ == "__main__":
    flags.DEFINE_string("stage", None, "Name of the stage.", required=True)
    # Before any flag is read: those of a stage are defined by its name.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--stage", "-stage", default="")
    launch.run_stage(parser.parse_known_args()[0].stage)
