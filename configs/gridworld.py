"""Settings of every stage on the grid world: presets `smoke`, `small` and `paper`.

`smoke` shows with a few updates that the mechanics work, `small` is real science on two CPU cores,
`paper` holds the tables of the paper. Choose with `--config=configs/gridworld.py:small`, change
single fields with `--config.pretrain.steps=100`. Here stands only what differs from the defaults of
the sections, which document their fields and are the paper's tables for this world, and from the
sizes of models in `internal_rl.stages.sizes`; the world itself is a preset of
`internal_rl.envs.gridworld`.
"""

from ml_collections import ConfigDict

from internal_rl.stages.settings import make_config


def get_config(preset: str = "small") -> ConfigDict:
    """All settings of one preset.

    Raises:
      ValueError: for an unknown preset.
    """
    overlays = {"paper": _PAPER, "small": _SMALL, "smoke": _SMOKE}
    return make_config("gridworld-pinpad", preset, overlays, size=preset)


_PAPER = {
    # Fields that the quickstart changes, to end within minutes.
    "quickstart": {"internal_rl": {"steps": 100_000}, "raw_rl": {"steps": 100_000}},
}

# Real science on two CPU cores: three base models, three metacontrollers on each, a policy on each
# of these.
_SMALL = {
    "data": {
        "sequence_length": 128,
        "trajectories_per_row": 5.5,
        "ties": "axis",
        "clean_ties": "axis",
    },
    "pretrain": {
        "num_seeds": 3,
        "evaluation_episodes": 40_000,
        # The cycle that runs backwards through the colours, in which every goal but the first
        # is certain.
        "curriculum_tasks": "0432,1043,2104,3210,4321",
        "curriculum_steps": 2_500,
        "snapshot_steps": (500, 2_500, 4_000),
    },
    "metacontroller": {
        "seeds_per_input": 3,
        # As often as subgoals change.
        "switch_rate": 0.17,
        "alpha": 0.05,
        # Noise makes gates binary; from the start it makes them open too often.
        "gate": "gumbel",
        "gate_noise_free_steps": 1_200,
        "gate_noise_ramp_steps": 800,
    },
    # As long as subgoals last.
    "compile": {"seeds_per_input": 3, "prior_rate": 6.0},
    "raw_rl": {"seeds_per_input": 3},
    "quickstart": {
        "internal_rl": {"steps": 200},
        "raw_rl": {"steps": 30},
    },
}

# Mechanics only.
_SMOKE = {
    "data": {"sequence_length": 64, "trajectories_per_row": 5.0, "clean_ties": "fork"},
    "pretrain": {
        "reference_trajectories": 64,
        "curriculum_tasks": "032,103",
        "curriculum_steps": 3,
    },
    # That of the study of rate and distortion, which then reads the run's own metacontrollers.
    "metacontroller": {"gate": "gumbel"},
}
