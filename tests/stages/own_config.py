"""A config file from outside: a world, its stages and its presets, for `--config`."""

from internal_rl.stages.catalogue import register_stage
from internal_rl.stages.settings import make_config
from tests.stages import toy_run

toy_run.register()
for spec in toy_run.STAGES:
    register_stage(spec)


def get_config(preset="only"):
    """The toy world; `late` moves further than `early`."""
    return make_config(toy_run.WORLD, preset, {"only": {"late": {"target": 2.0}}})
