"""A work directory whose stages are made up."""

import numpy as np

from internal_rl.analysis.sweeps.report import write_list
from internal_rl.training.metrics import MetricsWriter
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.stage_directory import StageDirectory

LAYERS, STEPS, SUBGOALS = 3, 10, 4
RNG = np.random.default_rng(0)


def write_stage(workdir, stage, seed, config, lines, artifacts=None, reads=None):
    directory = StageDirectory(workdir, stage, seed, reads)
    directory.begin(StageConfig(config), [seed])
    writer = MetricsWriter(directory.path, 0)
    for step, values in lines:
        writer.write(step, values, wall_time=0.0)
    writer.close()
    if artifacts:
        directory.save_artifacts(artifacts)
    directory.finish(lines[-1][0])
    directory.release()


def metacontroller_lines(nll, kl, f1):
    values = {"loss": nll + 0.3 * kl, "action_nll": nll, "kl": kl, "f1": f1}
    evaluation = {f"evaluation/{name}": value for name, value in values.items()}
    references = {"reference/bayes": 0.2, "reference/goal_given": 0.05}
    return [(10, values | evaluation | references | {"seconds": 3.0})]


def rl_config(stage):
    return {stage: {"episodes_per_update": 100, "evaluation_episodes": 500}}


def rl_lines(success):
    return [
        (step, {"success": value, "seconds": 2.0}) for step, value in enumerate(success, start=1)
    ]


def write_sweep(path, write):
    """Two finished runs of the study of rate and distortion, and one that is missing."""
    listed = []
    for alpha in (0.1, 0.3, 1.0):
        name, labels = f"frozen_alpha{alpha:g}", {"arm": "frozen", "alpha": alpha}
        listed.append({"name": name, "labels": labels, "fields": {}})
        listed[-1] |= {"stage": "metacontroller", "bases": {"0": "0"}}
        if alpha < 1:
            folder = path / "sweep" / "rate_distortion" / name
            lines = metacontroller_lines(0.05 + alpha, 0.3 - alpha / 2, 0.4)
            write("metacontroller", 0, {"metacontroller": {"alpha": alpha}}, lines, workdir=folder)
    write_list(path, "rate_distortion", listed)


def write_run(path, config_of=None):
    """A run of made-up stages, with a sweep over alpha.

    Args:
      path: its work directory.
      config_of: config of a stage by its name, on which what figures ask for is laid; None for no
        more than that.
    """

    def write(stage, seed, config, lines, artifacts=None, workdir=path):
        whole = dict(config_of(stage)) if config_of is not None else {}
        for section, fields in config.items():
            whole[section] = whole.get(section, {}) | fields
        write_stage(workdir, stage, seed, whole, lines, artifacts)

    pretrain = [
        (
            step,
            {
                "action_nll": 1 / step,
                "evaluation/action_nll": 1.1 / step,
                "reference/bayes": 0.1,
                "reference/goal_blind": 0.6,
                "seconds": 1.0,
            },
        )
        for step in (1, 2, 4)
    ]
    sampled = {"sampled_success": 0.0, "unseen_transition_rate": 0.005}
    write("pretrain", 0, {"pretrain": {"batch_size": 32}}, pretrain, sampled)
    for seed in range(2):
        probe = {
            "accuracy": np.array([0.3, 0.6, 0.5]) + 0.01 * seed,
            "accuracy_by_time": RNG.random((LAYERS, STEPS)),
            "example_beliefs": RNG.random((LAYERS, 20, SUBGOALS)),
            "example_subgoal": np.repeat([0, 3, 1, 2], 5),
            "example_segment": np.repeat([0, 1], 10),
        }
        line = [(5, {"loss": 1.0, "seconds": 1.0})]
        write("probe", seed, {"probe": {"base_step": 0}}, line, probe)
    write("steer", 0, {}, line, {"success": np.array([0.1, 0.8, 0.2])})
    codes = {
        "decoding_accuracy": np.array(0.9),
        "example_beta": RNG.random((2, STEPS)),
        "example_subgoal": np.tile(np.arange(STEPS) // 4, (2, 1)),
        "example_mask": np.ones((2, STEPS), bool),
        **{
            f"injection_{visits}_reach_{arm}": np.array(rate)
            for visits in (0, 1)
            for arm, rate in (("injected", 0.8), ("prior", 0.3), ("uncontrolled", 0.2))
        },
    }
    config = {"metacontroller": {"alpha": 0.3}}
    for seed, f1 in enumerate((0.95, 0.91, 0.5)):
        lines = metacontroller_lines(0.06, 0.2, f1)
        write("metacontroller", seed, config, lines, codes)
    lines = metacontroller_lines(0.01, 0.5, 0.2)
    write("metacontroller_forced", 0, config, lines)
    write_sweep(path, write)
    gradient = {
        f"gradient_{name}": np.arange(1.0, 6.0)
        for name in ("code", "raw", "code_score", "raw_score")
    }
    for seed in range(3):
        success = {"success": np.array(0.7 + 0.1 * seed)}
        lines = rl_lines([0.0, 0.1, 0.4, 0.6 + 0.1 * seed])
        write("internal_rl", seed, rl_config("internal_rl"), lines, success | gradient)
    write("raw_rl", 0, rl_config("raw_rl"), rl_lines([0.0, 0.0, 0.0]))
