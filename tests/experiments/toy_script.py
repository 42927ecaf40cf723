"""An experiment script around the toy trainer, with `--config.pretrain.steps` as its length."""

from experiments import launch
from internal_rl.training.loop import run_stage
from tests.training.toy import make_stage


def main(config, workdir):
    if config.preset == "paper":
        launch.load_upstream(config, workdir, "pretrain", 0)
    run_stage(make_stage(config.pretrain.steps, launch.seeds_of(config, "pretrain")), workdir)


if __name__ == "__main__":
    launch.run(main)
