"""Success of supervised controllers against ε, the noise of the expert in D (method §4)."""

from typing import Any

from internal_rl.analysis.sweeps.controllers import Values, ablation

WORLD = "gridworld-pinpad"
"""The world whose data are made with `data.epsilon`; those of others have the noise they have."""


def check(settings: Any) -> None:
    """Refuses worlds whose data do not read the noise: all runs would be the same one.

    Raises:
      ValueError: it is such a world.
    """
    if (name := settings.environment["name"]) != WORLD:
        raise ValueError(
            f"data.epsilon: not read by the data of '{name}', allowed is the world '{WORLD}'"
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
