"""Sizes of models and lengths of their training, for any world: what its presets begin with.

`small` is real science for one seed on two CPU cores, of a world whose observations tell where
things are; `smoke` shows with a few updates that the mechanics work. Without either, the defaults
of the sections hold, which are the paper's.
"""

from collections.abc import Mapping
from typing import Any

Overlay = Mapping[str, Mapping[str, Any]]


def schedule(steps: int, log_every: int, checkpoint_every: int, steps_per_call: int) -> dict:
    """Fields of `training.settings.TrainingSettings`, all in updates.

    One line of metrics is the mean over `log_every` updates; `checkpoint_every` and
    `evaluate_every` are multiples of it; `steps_per_call` updates run inside one compiled call.
    """
    return {
        "steps": steps,
        "log_every": log_every,
        "evaluate_every": 10 * log_every,
        "checkpoint_every": checkpoint_every,
        "steps_per_call": steps_per_call,
    }


_SMALL: Overlay = {
    "base": {
        "width": 64,
        "depth": 4,
        "num_heads": 2,
        "head_size": 32,
        "mlp_size": 128,
        "init_scale": 1.0,
        "observation_loss": 0.0,
    },
    "pretrain": {
        "num_seeds": 1,
        "batch_size": 88,
        "num_parts": 1,
        "evaluation_rows": 128,
        "snapshot_steps": (),
        "optimiser": "muon",
        "learning_rate": 4e-3,
        "warmup_steps": 200,
        "final_learning_rate": 1.2e-4,
        **schedule(6_000, 50, 500, 50),
    },
    "probe": {
        "batch_size": 88,
        "evaluation_rows": 64,
        "learning_rate": 1e-2,
        **schedule(500, 50, 250, 50),
    },
    "steer": {
        "batch_size": 88,
        "num_parts": 1,
        "rank": 8,
        "evaluation_episodes": 2048,
        "learning_rate": 1e-2,
        "final_learning_rate": 1e-3,
        **schedule(1_000, 50, 250, 50),
    },
    "metacontroller": {
        "seeds_per_input": 1,
        "layer": 2,
        "rank": 8,
        "alpha": 0.1,
        "alpha_start": 0.01,
        "alpha_free_steps": 500,
        "alpha_ramp_steps": 700,
        "batch_size": 88,
        "num_parts": 1,
        "evaluation_rows": 128,
        "learning_rate": 4e-3,
        "warmup_steps": 50,
        "final_learning_rate": 4e-4,
        "max_gradient_norm": 1.0,
        **schedule(2_500, 50, 250, 50),
    },
    "compile": {
        "seeds_per_input": 1,
        "layer": 2,
        "rank": 8,
        "weight_free_steps": 500,
        "weight_ramp_steps": 700,
        "batch_size": 88,
        "num_parts": 1,
        "evaluation_rows": 128,
        "warmup_steps": 50,
        "final_learning_rate": 1e-4,
        "max_gradient_norm": 1.0,
        **schedule(2_500, 50, 250, 50),
    },
    "internal_rl": {
        "policy_width": 64,
        # Codes spread wider than the prior at this alpha: a random one then takes an unseen
        # transition more often, and the first successes come sooner.
        "initial_std": 2.0,
        "learning_rate": 1e-3,
        **schedule(400, 10, 50, 5),
    },
    "raw_rl": {
        "seeds_per_input": 1,
        "learning_rate": 1e-4,
        **schedule(400, 10, 50, 5),
    },
}

_TINY = schedule(8, 2, 4, 2)
_ROWS = {"batch_size": 16, "evaluation_rows": 4}
_SMOKE: Overlay = {
    "base": {
        "width": 16,
        "depth": 2,
        "num_heads": 2,
        "head_size": 8,
        "mlp_size": 32,
        "init_scale": 1.0,
    },
    "pretrain": {
        "num_seeds": 1,
        "evaluation_episodes": 16,
        "snapshot_steps": (4,),
        "optimiser": "muon",
        "num_parts": 2,
        **_ROWS,
        **_TINY,
    },
    "probe": _ROWS | _TINY,
    "steer": {"batch_size": 16, "rank": 4, "evaluation_episodes": 16, "num_parts": 2, **_TINY},
    "metacontroller": {
        "seeds_per_input": 1,
        "layer": 1,
        "rank": 4,
        "alpha_free_steps": 2,
        "alpha_ramp_steps": 2,
        "evaluation_episodes": 16,
        "num_parts": 2,
        **_ROWS,
        **_TINY,
    },
    "compile": {
        "seeds_per_input": 1,
        "layer": 1,
        "rank": 4,
        "num_segments": 3,
        "weight_free_steps": 2,
        "weight_ramp_steps": 2,
        "evaluation_episodes": 16,
        "num_parts": 2,
        **_ROWS,
        **_TINY,
    },
    "internal_rl": {
        "policy_width": 16,
        "episodes_per_update": 16,
        "evaluation_episodes": 16,
        **_TINY,
    },
    "raw_rl": {"seeds_per_input": 1, "episodes_per_update": 16, "evaluation_episodes": 16, **_TINY},
}

SIZES: Mapping[str, Overlay] = {"paper": {}, "small": _SMALL, "smoke": _SMOKE}
"""Overlays by name; `paper` changes nothing."""
