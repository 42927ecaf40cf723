"""A script around the toy trainer, with `--config.pretrain.steps` as its length."""

from internal_rl.stages import launch
from internal_rl.training.loop import run_stage
from tests.training.toy import make_stage


def main(settings, places):
    if settings.preset == "paper":
        places.load(settings, "pretrain", 0)
    run_stage(make_stage(settings.pretrain.steps, settings.seeds_of("pretrain")), places.workdir)


if __name__ == "__main__":
    launch.run(main)
