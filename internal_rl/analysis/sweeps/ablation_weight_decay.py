"""Success of supervised controllers against the weight decay of the base model (method §4, §7)."""

from internal_rl.analysis.sweeps.controllers import Values, ablation

SWEEP = ablation(
    "ablation_weight_decay",
    "pretrain.weight_decay",
    "weight decay",
    {
        "smoke": Values((0.03,), 1),
        "small": Values((0.0, 0.01, 0.03, 0.1, 0.3), 3),
        "ant-pinpad/small": Values((0.0, 0.03, 0.3), 2),
        "paper": Values((0.0, 0.01, 0.03, 0.1, 0.3), 10, (6, 8)),
    },
    title="Supervised controllers by weight decay of the base model",
    inputs=("collect",),
)
