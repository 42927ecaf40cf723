"""Runs all stages of a config in order: data to figures, baselines and controls included."""

from absl import logging
from ml_collections import ConfigDict

from experiments import internal_rl, launch, metacontroller, pretrain, probe, raw_rl, report, steer

VARIANTS = ("discovered", "forced", "unaligned")


def with_variant(config: ConfigDict, variant: str) -> ConfigDict:
    """A copy of the config for another variant of the metacontroller."""
    copy = ConfigDict(config.to_dict())
    copy.metacontroller.variant = variant
    return copy


def at_age(config: ConfigDict, step: int) -> ConfigDict:
    """A copy of the config that probes the base model after `step` updates, 0 for the last one."""
    copy = ConfigDict(config.to_dict())
    copy.probe.base_step = step
    return copy


def main(config: ConfigDict, workdir: str) -> None:
    """Runs every stage; finished ones are skipped, an interrupted one goes on."""
    if "collect" in config:
        # brax takes seconds to import, for worlds that do without it.
        from experiments import collect, expert

        logging.info("stages expert and collect")
        expert.main(config, workdir)
        collect.main(config, workdir)
    logging.info("stage pretrain")
    pretrain.main(config, workdir)
    for step in (*config.pretrain.snapshot_steps, 0):
        logging.info("stage probe, after %s updates", step or config.pretrain.steps)
        probe.main(at_age(config, step), workdir)
    logging.info("stage steer")
    steer.main(config, workdir)
    for variant in VARIANTS:
        chosen = with_variant(config, variant)
        logging.info("stages metacontroller and internal_rl, %s", variant)
        metacontroller.main(chosen, workdir)
        internal_rl.main(chosen, workdir)
    logging.info("stage raw_rl")
    raw_rl.main(config, workdir)
    report.main(config, workdir)


if __name__ == "__main__":
    launch.run(main)
