"""Settings of every stage on the grid world: presets `smoke`, `small` and `paper`.

`smoke` shows in seconds that the mechanics work, `small` is real science on two CPU cores, `paper`
holds the tables of the paper. Choose with `--config=configs/gridworld.py:small`, change single
fields with `--config.pretrain.steps=100`.
"""

import dataclasses

from ml_collections import ConfigDict

from configs.presets import at_preset, optimiser, schedule
from internal_rl.envs import gridworld


def get_config(preset: str = "small") -> ConfigDict:
    """All settings of one preset.

    Raises:
      ValueError: for an unknown preset.
    """
    config = at_preset(preset, _paper, {"small": _small, "smoke": _smoke})
    config.environment.update(dataclasses.asdict(gridworld.PRESETS[preset]))
    return config


def _paper() -> ConfigDict:
    """The paper's tables; a field that the paper leaves open says so."""
    environment = {"name": "gridworld-pinpad"} | dataclasses.asdict(gridworld.PRESETS["paper"])
    data = {
        # Tokens in a row; whole trajectories are packed one behind the other (open).
        "sequence_length": 256,
        # Mean number of trajectories in a row, from which rows per update follow: every
        # `batch_size` counts trajectories, as the paper does.
        "trajectories_per_row": 7.7,
        # How the experts of pretraining and of the cleaner data D* break ties between shortest
        # paths ("random", "fixed", "fork", "axis",
        # "priority", "departures"), and their share of random harmless actions.
        "ties": "random",
        "epsilon": 0.0,
        "clean_ties": "random",
        "clean_epsilon": 0.0,
    }
    base = {
        "block": "transformer",
        "width": 256,
        "depth": 6,
        "num_heads": 4,
        "head_size": 64,
        "mlp_size": 512,
        "init_scale": 0.1,
        # λ, weight of the observation loss: the better of 0 and 0.01.
        "observation_loss": 0.01,
    }
    pretrain = {
        "num_seeds": 10,
        "batch_size": 1024,
        # Parts in which a batch passes through the model one after the other, to save memory (the
        # result is that of the whole batch).
        "num_parts": 8,
        # Tasks that the first updates are made on, such as "0432,1043", and the number of these
        # updates; a small model learns to plan sooner where the next colour is certain (open).
        "curriculum_tasks": "",
        "curriculum_steps": 0,
        # Rows of held-out data in an evaluation (open).
        "evaluation_rows": 64,
        # Episodes sampled on the post-training task at the end (open).
        "evaluation_episodes": 4096,
        # Trajectories over which the exact references are averaged (open).
        "reference_trajectories": 4096,
        # Training ages at which parameters are kept for the probes.
        "snapshot_steps": (16_000, 32_000, 64_000, 128_000),
        **optimiser(),
        **schedule(256_000, 500, 2_000, 100),
    }
    probe = {
        "num_seeds": 10,
        "batch_size": 512,
        "evaluation_rows": 64,
        # Training age of the base model; 0 for the final parameters.
        "base_step": 0,
        **optimiser(1e-3, 0.0),
        **schedule(8_000, 100, 1_000, 100),
    }
    steer = {
        "num_seeds": 10,
        "batch_size": 512,
        "num_parts": 8,
        "rank": 16,
        # Least standard deviation of actions in the loss, where they are continuous (open).
        "min_action_std": 0.0,
        # Episodes on the post-training task for each layer (open).
        "evaluation_episodes": 1024,
        **optimiser(1e-3),
        **schedule(3_200, 100, 800, 100),
    }
    metacontroller = {
        "num_seeds": 10,
        # "discovered": trained without labels; "forced": the same with β = 1 throughout;
        # "unaligned": a control whose switches are drawn at random.
        "variant": "discovered",
        # Controlled layer l = L/2.
        "layer": 3,
        "code_size": 8,
        "history_size": 32,
        # One embedding `s` of the whole trajectory, or one per "step" (open).
        "embedding": "trajectory",
        "embedding_size": 32,
        "embedding_depth": 1,  # open
        # How far the embedding sees at the start: about e^4 / 4 steps (open).
        "embedding_slowness": 4.0,
        # Steps of the future that `embedding=step` skips (open).
        "embedding_gap": 0,
        "encoder_size": 64,
        "switch_size": 32,  # open
        "decoder_size": 32,
        "rank": 16,
        # "sigmoid", "gumbel", "one", or "random" with this probability of a switch per step (open).
        "gate": "sigmoid",
        "temperature": 1.0,
        "switch_rate": 0.2,
        # Weight of the KL, from {0, 0.05, 0.1, 0.17, 0.3, 0.5, 1}: 0 for `alpha_free_steps`, then
        # rising over `alpha_ramp_steps`, from `alpha_start` by constant factors or, where that is
        # 0, linearly (open).
        "alpha": 0.17,
        "alpha_start": 0.0,
        "alpha_free_steps": 2_000,
        "alpha_ramp_steps": 2_000,
        "min_action_std": 0.0,
        # Gates are held open for so many updates, then released over so many (open).
        "gate_open_steps": 0,
        "gate_release_steps": 0,
        # Initial posterior, gate and controller (open).
        "initial_log_std": -2.0,
        "switch_bias": -1.0,
        "controller_gain": 0.35,
        "batch_size": 512,
        "num_parts": 4,
        "evaluation_rows": 64,
        # Episodes per arm of the code injection (open).
        "evaluation_episodes": 1024,
        **optimiser(1e-3),
        **schedule(64_000, 200, 1_000, 100),
    }
    reinforcement = {
        # Colours of the task, such as "0-1-2"; empty for the world's post-training task.
        "task": "",
        "episodes_per_update": 1024,
        # Trust region, passes over a batch and gradient steps per pass (open).
        "clip": 0.2,
        "num_epochs": 4,
        "num_minibatches": 1,
        "evaluation_episodes": 1024,
        **optimiser(3e-5, 0.0),
        **schedule(100_000, 50, 500, 10),
    }
    internal_rl = {
        # Policies for each metacontroller.
        "num_seeds": 3,
        "policy_width": 256,
        # Standard deviation of the untrained policy's codes (open).
        "initial_std": 1.0,
        # Smallest standard deviation of the codes (open).
        "min_std": 0.05,
        "threshold": 0.5,
        **reinforcement,
    }
    raw_rl = {"num_seeds": 3, **reinforcement}
    return ConfigDict(
        {
            "preset": "paper",
            # First seed; a stage trains `seed`, `seed + 1`, ... up to its `num_seeds`.
            "seed": 0,
            "environment": environment,
            "data": data,
            "base": base,
            "pretrain": pretrain,
            "probe": probe,
            "steer": steer,
            "metacontroller": metacontroller,
            "internal_rl": internal_rl,
            "raw_rl": raw_rl,
            # Fields that the quickstart changes, to end within minutes.
            "quickstart": {"internal_rl": {"steps": 100_000}, "raw_rl": {"steps": 100_000}},
        }
    )


def _small() -> dict:
    """Real science for one seed on two CPU cores."""
    return {
        "data": {
            "sequence_length": 128,
            "trajectories_per_row": 5.5,
            "ties": "axis",
            "clean_ties": "axis",
        },
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
            "evaluation_episodes": 40_000,
            # The cycle that runs backwards through the colours, in which every goal but the first
            # is certain.
            "curriculum_tasks": "0432,1043,2104,3210,4321",
            "curriculum_steps": 2_500,
            "snapshot_steps": (500, 2_500, 4_000),
            "optimiser": "muon",
            "learning_rate": 4e-3,
            "warmup_steps": 200,
            "final_learning_rate": 1.2e-4,
            **schedule(6_000, 50, 500, 50),
        },
        "probe": {
            "num_seeds": 1,
            "batch_size": 88,
            "evaluation_rows": 64,
            "learning_rate": 1e-2,
            **schedule(500, 50, 250, 50),
        },
        "steer": {
            "num_seeds": 1,
            "batch_size": 88,
            "num_parts": 1,
            "rank": 8,
            "evaluation_episodes": 2048,
            "learning_rate": 1e-2,
            "final_learning_rate": 1e-3,
            **schedule(1_000, 50, 250, 50),
        },
        "metacontroller": {
            "num_seeds": 1,
            "layer": 2,
            "rank": 8,
            "alpha": 0.1,
            "alpha_start": 0.01,
            "alpha_free_steps": 500,
            "alpha_ramp_steps": 700,
            # As often as subgoals change.
            "switch_rate": 0.17,
            "batch_size": 88,
            "num_parts": 1,
            "evaluation_rows": 128,
            "learning_rate": 4e-3,
            "warmup_steps": 50,
            "final_learning_rate": 4e-4,
            "max_gradient_norm": 1.0,
            **schedule(2_500, 50, 250, 50),
        },
        "internal_rl": {
            "num_seeds": 1,
            "policy_width": 64,
            # Codes spread wider than the prior at this alpha: a random one then takes an unseen
            # transition more often, and the first successes come sooner.
            "initial_std": 2.0,
            "learning_rate": 1e-3,
            **schedule(400, 10, 50, 5),
        },
        "raw_rl": {
            "num_seeds": 1,
            "learning_rate": 1e-4,
            **schedule(400, 10, 50, 5),
        },
        "quickstart": {
            "internal_rl": {"steps": 200},
            "raw_rl": {"steps": 30},
        },
    }


def _smoke() -> dict:
    """Mechanics only: the small world's shapes shrunk until a stage takes seconds."""
    tiny = {"num_seeds": 1, **schedule(8, 2, 4, 2)}
    rows = {"batch_size": 16, "evaluation_rows": 4}
    parts = {"num_parts": 2}
    return {
        "data": {"sequence_length": 64, "trajectories_per_row": 5.0, "clean_ties": "fork"},
        "base": {
            "width": 16,
            "depth": 2,
            "num_heads": 2,
            "head_size": 8,
            "mlp_size": 32,
            "init_scale": 1.0,
        },
        "pretrain": {
            "evaluation_episodes": 16,
            "reference_trajectories": 64,
            "snapshot_steps": (),
            "optimiser": "muon",
            "curriculum_tasks": "032,103",
            "curriculum_steps": 3,
            **rows,
            **parts,
            **tiny,
        },
        "probe": rows | tiny,
        "steer": {"batch_size": 16, "rank": 4, "evaluation_episodes": 16, **parts, **tiny},
        "metacontroller": {
            "layer": 1,
            "rank": 4,
            "alpha_free_steps": 2,
            "alpha_ramp_steps": 2,
            "evaluation_episodes": 16,
            **rows,
            **parts,
            **tiny,
        },
        "internal_rl": {
            "policy_width": 16,
            "episodes_per_update": 16,
            "evaluation_episodes": 16,
            **tiny,
        },
        "raw_rl": {"episodes_per_update": 16, "evaluation_episodes": 16, **tiny},
    }
