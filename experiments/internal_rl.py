"""Reinforcement learning on the codes of a frozen metacontroller (method §6)."""

if __name__ == "internal_rl":
    # `python experiments/<script>.py` looks for packages in this folder first, and finds this file
    # where it looks for `internal_rl`: the checkout takes the folder's place.
    import importlib
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).parents[1])
    del sys.modules[__name__]
    importlib.import_module(__name__)

elif __name__ == "__main__":
    from internal_rl.stages import launch

    launch.run_stage("internal_rl")
