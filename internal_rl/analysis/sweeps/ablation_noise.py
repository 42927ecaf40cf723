"""Success of supervised controllers against ε, the noise of the expert in D (method §4)."""

from typing import Any

from internal_rl.analysis.sweeps.controllers import Values, ablation


def check(settings: Any) -> None:
    """Refuses configs whose trajectories are collected beforehand: their noise is what it is.

    Raises:
      ValueError: it is such a config.
    """
    if settings.collect is not None:
        raise ValueError(
            "data.epsilon: not read where trajectories are collected beforehand; allowed is a"
            " config without `collect`"
        )


SWEEP = ablation(
    "ablation_noise",
    "data.epsilon",
    "noise ε of the expert",
    {
        "smoke": Values((0.1,), 1),
        "small": Values((0.0, 0.05, 0.1, 0.2), 3),
        "paper": Values((0.0, 0.05, 0.1, 0.2), 10, (6, 8)),
    },
    title="Supervised controllers by noise of the expert of pretraining",
    check=check,
)
