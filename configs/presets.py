"""Presets, and the parts that the sections of every config are built from."""

from collections.abc import Callable

from ml_collections import ConfigDict

PRESETS = ("smoke", "small", "paper")


def at_preset(
    preset: str, paper: Callable[[], ConfigDict], changes: dict[str, Callable[[], dict]]
) -> ConfigDict:
    """The settings of `paper`, with what `changes` has for the preset.

    Raises:
      ValueError: for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"config: preset '{preset}' is unknown, allowed are {', '.join(PRESETS)}")
    config = paper()
    config.preset = preset
    if preset in changes:
        config.update(changes[preset]())
    return config


def optimiser(learning_rate: float = 3e-4, weight_decay: float = 0.03) -> dict:
    """AdamW of the paper.

    A final learning rate below 0 keeps the rate constant; a maximal gradient norm of 0 never clips.
    """
    return {
        "optimiser": "adamw",
        "learning_rate": learning_rate,
        "warmup_steps": 0,
        "final_learning_rate": -1.0,
        "weight_decay": weight_decay,
        "b1": 0.9,
        "b2": 0.999,
        "max_gradient_norm": 0.0,
    }


def schedule(steps: int, log_every: int, checkpoint_every: int, steps_per_call: int) -> dict:
    """How long a stage trains and how often it reports and saves, all in updates.

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
