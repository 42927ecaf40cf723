"""Settings of every stage on the ant: presets `smoke`, `small` and `paper`.

`smoke` shows with a few updates that the mechanics work, `small` is real science on two CPU cores,
`paper` holds the tables of the paper. Choose with `--config=configs/ant.py:small`, change single
fields with `--config.pretrain.steps=100`. Here stands only what differs from the defaults of the
sections, which document their fields; the world itself is a preset of `internal_rl.envs.ant`.
"""

from ml_collections import ConfigDict

from internal_rl.stages.settings import make_config
from internal_rl.stages.sizes import schedule


def get_config(preset: str = "small") -> ConfigDict:
    """All settings of one preset.

    Raises:
      ValueError: for an unknown preset.
    """
    # Sizes are those of a world whose observations tell where things are.
    overlays = {"paper": _PAPER, "small": _SMALL, "smoke": _SMOKE}
    return make_config("ant-pinpad", preset, overlays, size="paper")


_REINFORCEMENT = {"episodes_per_update": 256, **schedule(51_200, 50, 500, 10)}
# The paper's tables; a field that the paper leaves open says so.
_PAPER = {
    # Successful episodes on the pretraining tasks, for D and for the cleaner D* alike: the paper
    # does not say how many (open), nor how the expert is trained (open).
    "expert": {},
    "collect": {},
    # Whole episodes with their terminal observations (open).
    "data": {"sequence_length": 512, "trajectories_per_row": 3.3},
    "base": {"block": "hawk", "depth": 8, "num_heads": 8, "observation_loss": 10.0},
    "pretrain": {
        "batch_size": 512,
        "num_parts": 16,
        "evaluation_episodes": 1024,
        **schedule(204_800, 400, 2_000, 100),
    },
    # The paper probes the grid world alone; its settings are used here too (open).
    "probe": {},
    # Full-rank controllers.
    "steer": {"batch_size": 256, "rank": 0, "learning_rate": 3e-4},
    "metacontroller": {
        "layer": 4,
        # Where co-training starts; on the grid world from random parameters.
        "base_from": "pretrained",
        # Sees whole trajectories from the start (open).
        "embedding_slowness": 9.0,
        # A full-rank controller.
        "rank": 0,
        # About as often as subgoals change.
        "switch_rate": 0.02,
        "alpha_free_steps": 1_000,
        "alpha_ramp_steps": 1_000,
        "batch_size": 128,
        "num_parts": 8,
        "learning_rate": 3e-4,
        # About as long as the expert takes to a colour (open).
        "source_steps": 50,
        **schedule(32_000, 100, 1_000, 100),
    },
    "compile": {
        "layer": 4,
        "rank": 0,
        "batch_size": 128,
        "learning_rate": 3e-4,
        "source_steps": 50,
        **schedule(32_000, 100, 1_000, 100),
    },
    "internal_rl": _REINFORCEMENT,
    "raw_rl": _REINFORCEMENT,
    "quickstart": {"internal_rl": {"steps": 51_200}, "raw_rl": {"steps": 51_200}},
}

# Real science on two CPU cores: two base models, two metacontrollers on each, a policy on each of
# these.
_SMALL = {
    # Half an hour on two cores; rates fall as in the first rounds of `paper`.
    "expert": {"rounds": 8, "final_learning_rate": 2.449e-4},
    "collect": {
        "num_shards": 48,
        "batch_size": 512,
        # The cycle 0-3-2-1-0: the next colour follows from the last one.
        "curriculum_tasks": "032,321,210,103",
    },
    "data": {"held_out_shards": 1},
    "base": {
        "width": 128,
        "depth": 4,
        "num_heads": 4,
        "mlp_size": 256,
        "init_scale": 1.0,
        # With the paper's weight, gradients are mostly those of velocities that nothing
        # predicts: learning takes 1.5 times as many updates.
        "observation_loss": 0.1,
    },
    "pretrain": {
        "num_seeds": 2,
        "batch_size": 32,
        "num_parts": 1,
        "curriculum_steps": 3_000,
        "baseline_steps": 3_000,
        "snapshot_steps": (1_000, 3_000),
        "optimiser": "muon",
        "learning_rate": 4e-3,
        "warmup_steps": 200,
        "final_learning_rate": 1e-4,
        "max_gradient_norm": 1.0,
        **schedule(11_000, 50, 250, 50),
    },
    "probe": {
        "batch_size": 64,
        "learning_rate": 1e-2,
        **schedule(400, 50, 200, 50),
    },
    "steer": {
        "batch_size": 32,
        "num_parts": 1,
        "evaluation_episodes": 1_024,
        # About the spread of the expert's sampled actions; see the metacontroller.
        "min_action_std": 0.2,
        # Found without that floor, where most of the gradient is the change of spread from D to
        # D*, which all subgoals share.
        "optimiser": "muon",
        "learning_rate": 1e-2,
        "warmup_steps": 50,
        "final_learning_rate": 1e-3,
        **schedule(1_500, 50, 250, 50),
    },
    "metacontroller": {
        "seeds_per_input": 2,
        # Deeper than this even controllers with labels do not reach unseen transitions.
        "layer": 1,
        # Read by `embedding=step` alone. Half a second of the future is skipped: it would tell
        # how to turn, not where to go.
        "embedding_gap": 10,
        "alpha": 0.8,
        # While gates are held open every step pays for its code: a dearer start leaves codes
        # one dimension, which confuses two colours.
        "alpha_start": 0.003,
        "alpha_free_steps": 0,
        "alpha_ramp_steps": 3_000,
        # D* holds mean actions, without noise: codes are not to tell them to more digits.
        "min_action_std": 0.2,
        # Gates that are free from the start shut before codes mean anything. Once released they
        # fall from where they began: at changes of subgoal they only have to stay open.
        "gate_open_steps": 500,
        "gate_release_steps": 200,
        "switch_bias": 2.0,
        "batch_size": 32,
        "num_parts": 1,
        "evaluation_episodes": 512,
        "learning_rate": 2e-3,
        # While gates are held open their gradient is zero: a longer memory would then make the
        # first steps after the release several times too large.
        "b2": 0.98,
        "warmup_steps": 50,
        "final_learning_rate": 2e-4,
        "max_gradient_norm": 1.0,
        **schedule(4_000, 50, 250, 50),
    },
    # Nothing has been tried here: what differs from the metacontroller's is the paper's.
    "compile": {
        "seeds_per_input": 2,
        "layer": 1,
        # About as long as a subgoal lasts.
        "prior_rate": 50.0,
        # An update takes six times as long as the metacontroller's: every segment decodes all
        # steps, and the base model learns too.
        "weight_free_steps": 500,
        "weight_ramp_steps": 700,
        "min_action_std": 0.2,
        "batch_size": 32,
        "num_parts": 1,
        "evaluation_episodes": 512,
        "warmup_steps": 50,
        "final_learning_rate": 3e-5,
        "max_gradient_norm": 1.0,
        **schedule(2_000, 50, 250, 50),
    },
    "internal_rl": {
        "policy_width": 128,
        # Twice as many chance successes as with 1.
        "initial_std": 1.5,
        # So much noise costs no success; a narrower policy no longer learns.
        "min_std": 0.2,
        "episodes_per_update": 512,
        # Learns in less than half of AdamW's episodes.
        "optimiser": "muon",
        "learning_rate": 1e-3,
        # Success comes to a stand at 1e-3, and rises again at 3e-4.
        "final_learning_rate": 3e-4,
        "decay_steps": 100,
        **schedule(400, 10, 50, 5),
    },
    "raw_rl": {
        "seeds_per_input": 2,
        "episodes_per_update": 512,
        "learning_rate": 1e-4,
        **schedule(400, 10, 50, 5),
    },
    # So few updates learn at the full rate.
    "quickstart": {
        "internal_rl": {"steps": 200, "final_learning_rate": -1.0},
        "raw_rl": {"steps": 20},
    },
}

# Mechanics only: everything shrunk until a stage takes seconds.
_TINY = schedule(8, 2, 4, 2)
_ROWS = {"batch_size": 8, "evaluation_rows": 4}
_SMOKE = {
    "expert": {
        "rounds": 2,
        "steps_per_round": 512,
        "num_worlds": 16,
        "batch_size": 8,
        "num_minibatches": 2,
        "unroll_length": 8,
        "hidden_sizes": (16,),
        "evaluation_episodes": 8,
    },
    "collect": {
        "num_shards": 2,
        "episodes_per_shard": 4,
        "batch_size": 64,
        "curriculum_tasks": "02,10",
    },
    "data": {"sequence_length": 64, "trajectories_per_row": 4.0, "held_out_shards": 1},
    "base": {"width": 16, "depth": 2, "num_heads": 2, "mlp_size": 32, "init_scale": 1.0},
    "pretrain": {
        "num_seeds": 1,
        "evaluation_episodes": 8,
        "baseline_steps": 20,
        "snapshot_steps": (4,),
        "curriculum_steps": 2,
        "num_parts": 2,
        **_ROWS,
        **_TINY,
    },
    "probe": _ROWS | _TINY,
    "steer": {
        "batch_size": 8,
        "num_parts": 2,
        "min_action_std": 0.2,
        "evaluation_episodes": 8,
        **_TINY,
    },
    "metacontroller": {
        "seeds_per_input": 1,
        "layer": 1,
        "alpha_free_steps": 2,
        "alpha_ramp_steps": 2,
        "gate_open_steps": 2,
        "gate_release_steps": 2,
        "min_action_std": 0.2,
        "evaluation_episodes": 8,
        "num_parts": 2,
        **_ROWS,
        **_TINY,
    },
    "compile": {
        "seeds_per_input": 1,
        "layer": 1,
        "num_segments": 3,
        "min_action_std": 0.2,
        "evaluation_episodes": 8,
        "num_parts": 2,
        **_ROWS,
        **_TINY,
    },
    "internal_rl": {
        "policy_width": 16,
        "episodes_per_update": 8,
        "evaluation_episodes": 8,
        **_TINY,
    },
    "raw_rl": {"seeds_per_input": 1, "episodes_per_update": 8, "evaluation_episodes": 8, **_TINY},
}
