"""`python -m tests.methods.shared_work FILE SEEDS METHOD...`: three updates of each, at smoke size.

`pretrain_alone` has no curriculum, `cotrained` is the metacontroller with its base model.

Writes metrics and parameters to FILE (npz), and prints the collectives of each update.
"""

import json
import re
import sys

import jax
import numpy as np

from benchmarks.memory import make_stage
from configs import gridworld
from internal_rl.stages.settings import Settings
from internal_rl.training.program import Program


def run(name: str, num_seeds: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Metrics, evaluation and parameters by name, and the kinds of collectives."""
    config = gridworld.get_config("smoke")
    if name == "pretrain_alone":
        name, config.pretrain.curriculum_steps = "pretrain", 0
    if name == "cotrained":
        name, config.metacontroller.variant = "metacontroller", name
    # Four devices cannot share these evenly.
    config.internal_rl.episodes_per_update = config.raw_rl.episodes_per_update = 16
    stage = make_stage(name, Settings.read(config), num_seeds)
    program = Program(stage)
    program.compile_update()
    kinds = re.findall(
        r" (all-[a-z]+|reduce-scatter|collective-permute)\(", program.compiled.as_text()
    )
    state, metrics = program.advance(program.initial_state(), 3)
    params = stage.params(state)
    if num_seeds == 1:
        params = jax.tree.map(lambda leaf: leaf[None], params)
    found = {f"metrics/{key}": value for key, value in metrics.items()}
    found |= program.evaluate(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        found[f"params{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return found, kinds


def main() -> None:
    """Runs what the command line asks for."""
    file, num_seeds, *names = sys.argv[1:]
    found = {}
    for name in names:
        arrays, kinds = run(name, int(num_seeds))
        found |= {f"{name}/{key}": value for key, value in arrays.items()}
        print(json.dumps({"method": name, "collectives": kinds}), flush=True)
    np.savez(file, **found)


if __name__ == "__main__":
    main()
