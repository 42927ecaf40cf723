"""Success of supervised controllers against λ, the weight of the observation loss (method §4)."""

from internal_rl.analysis.sweeps.controllers import Values, ablation

SWEEP = ablation(
    "ablation_observation_loss",
    "base.observation_loss",
    "observation loss λ",
    {
        "smoke": Values((0.01,), 1),
        "small": Values((0.0, 0.001, 0.01, 0.1), 3),
        # Around the ant's weight of 0.1.
        "ant-pinpad/small": Values((0.01, 0.1, 1.0), 2),
        "paper": Values((0.0, 0.001, 0.01, 0.1), 10, (6, 8)),
        # Around the ant's weight of 10.
        "ant-pinpad/paper": Values((0.0, 0.1, 1.0, 10.0), 10, (6, 8)),
    },
    title="Supervised controllers by observation loss of the base model",
    inputs=("collect",),
)
