"""Compiles stages for TPUs that are not there; `benchmarks.tpu` starts it in a process of its own.

`python -m benchmarks.tpu_programs REQUEST`, where REQUEST is JSON with `topology`, `preset`,
`num_seeds` (0 for those that the preset trains together), `episode_steps` (0 for the time limit),
`programs`, pairs of world and stage, and `dump`, the folder that `hlo_cost.kernel_dump_options`
names in `LIBTPU_INIT_ARGS`. Prints one line of JSON for each program, led by `RESULT `.
"""

import json
import math
import os
import pathlib
import sys
import time

# Before jax is imported: libtpu asks the cloud for its machine otherwise.
os.environ.update(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_ACCELERATOR_TYPE="v5litepod-8",
    # Nothing is locked: there is no chip.
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)

import jax
import numpy as np
from jax.experimental import topologies

from benchmarks import flops, hlo_cost, memory
from benchmarks.random_inputs import dataset_bytes
from benchmarks.tpu import CHIPS, MARK
from benchmarks.training import segment_lengths
from internal_rl.backend import traced_for
from internal_rl.stages.settings import Settings
from internal_rl.training.mesh import side_by_side
from internal_rl.training.program import Program

# Loops that end when data say so. Floods and relaxations go around the walls of a 13x13 grid.
FLOOD_STEPS, RELAX_STEPS, REDRAWS = 4, 24, 2
# Raw steps from one decision of the policy over codes to the next.
STEPS_PER_DECISION = 10


def devices_of(topology: str) -> list[jax.Device]:
    """The described devices of a topology such as `v5e:2x4`."""
    sizes = [int(size) for size in topology.partition(":")[2].split("x")]
    bounds = {}
    if np.prod(sizes) == 1:
        bounds = {"chips_per_host_bounds": [1, 1, 1], "num_slices": 1}
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **bounds)
    return found.devices


def trip_counts(
    name: str, settings: Settings, episode_steps: int, shares: int = 1
) -> dict[str, float]:
    """How often loops are taken to run whose end depends on data, by their names.

    Args:
      name: of the stage.
      settings: of the run.
      episode_steps: length of every episode.
      shares: devices that share the episodes of a seed.
    """
    trips = {"flood": FLOOD_STEPS, "relax": RELAX_STEPS, "redraw": REDRAWS}
    if name not in ("internal_rl", "raw_rl"):
        return trips
    section = settings.sections[name]
    decisions = episode_steps if name == "raw_rl" else -(-episode_steps // STEPS_PER_DECISION)
    episodes = -(-section.episodes_per_update // shares)
    rows, length = section.update_settings().part_shape(episodes, settings.world.time_limit)
    return trips | {
        # All episodes run side by side and end together.
        "episode_steps": episode_steps,
        "last_episode_steps": 0,
        "policy_calls": -(-episodes // STEPS_PER_DECISION // 64),
        # As many whole episodes stand in a row as fit.
        "packed_parts": -(-episodes // (length // decisions) // rows),
    }


def needed_flops(name: str, settings: Settings, episode_steps: int) -> float:
    """Operations that an update of one seed needs, see `benchmarks.flops`."""
    shape = flops.BaseModelShape.of(settings)
    if name in ("internal_rl", "raw_rl"):
        lengths = np.full(settings.sections[name].episodes_per_update, episode_steps)
        return _acting(name, settings, shape, lengths)
    lengths = _lengths(name, settings)
    tokens, pairs = float(lengths.sum()), flops.causal_pairs(lengths)
    forward = flops.base_forward(shape, tokens, pairs, observation_head=False)
    if name == "pretrain":
        return flops.base_training(shape, tokens, pairs, settings.base.observation_loss > 0)
    if name == "probe":
        return forward
    if name == "steer":
        # Every layer has a model of its own above it, forward and backward.
        return sum(forward + share * forward / shape.depth for share in range(shape.depth + 1))
    if name == "compile":
        # Without heads and controllers. Encoder and upper half run once for each segment, the
        # encoder once more for the boundaries that the gate learns from.
        count, below = settings.compile.num_segments, settings.compile.layer / shape.depth
        return forward * (3 * (below + count * (1 - below)) + 4 * count * below)
    above = 1 - settings.metacontroller.layer / shape.depth
    return forward * (1 + above) + 3 * tokens * flops.steering_step(settings)


def _acting(name, settings, shape, lengths) -> float:
    tokens, pairs = float(lengths.sum()), flops.causal_pairs(lengths)
    acting = flops.base_forward(shape, tokens, pairs, observation_head=False)
    if name == "raw_rl":
        training = flops.base_training(shape, tokens, pairs, False)
        return acting + settings.raw_rl.num_epochs * training
    decisions, policy = tokens / STEPS_PER_DECISION, flops.policy_forward(settings)
    training = settings.internal_rl.num_epochs * 3 * decisions * policy
    return acting + tokens * flops.steering_step(settings) + decisions * policy + training


def _lengths(name: str, settings: Settings) -> np.ndarray:
    """Lengths of the trajectories of one update."""
    section, data = settings.sections[name], settings.data
    if settings.collect is not None:
        mean = data.sequence_length / data.trajectories_per_row
        return np.full(section.batch_size, mean)
    # Rows as they are drawn; few of them stand for the batch.
    with traced_for("cpu"):
        source = memory.random_method(name, settings).source
        batch = jax.jit(lambda key: source.held_out(key, 32, source.arrays))(jax.random.key(0))
    lengths = segment_lengths(batch.segment)
    return np.resize(lengths, section.batch_size)


def measure(world: str, name: str, request: dict, devices: list[jax.Device]) -> dict:
    """Everything that is told about one program."""
    settings = Settings.read(memory.WORLDS[world][0].get_config(request["preset"]))
    episode_steps = request["episode_steps"] or settings.world.time_limit
    chip = CHIPS[request["topology"].partition(":")[0]]
    with traced_for("tpu"):
        stage = memory.make_stage(name, settings, request["num_seeds"])
        program = Program(stage, devices)
        started = time.monotonic()
        program.compile_update()
        seconds = time.monotonic() - started
    held = dataset_bytes(settings) if name in memory.READS_DATASET else 0
    shares = len(devices) // math.gcd(len(devices), len(stage.seeds))
    with traced_for("tpu"), side_by_side(len(stage.seeds) * shares // len(devices)):
        trips = trip_counts(name, settings, episode_steps, shares)
    # The loop over updates inside of a call runs once.
    kernels = hlo_cost.kernel_cycles(pathlib.Path(request["dump"]))
    text, bytes_per_cycle = program.compiled.as_text(), chip.bandwidth / chip.clock
    cost = hlo_cost.Program(text, trips, kernels=kernels, bytes_per_cycle=bytes_per_cycle).cost()
    needed = needed_flops(name, settings, episode_steps) * len(stage.seeds)
    time_of_update = cost.cycles / chip.clock
    return {
        "seeds": len(stage.seeds),
        "memory_bytes": memory.compiled_memory(program)["total"] + held,
        "cycles": cost.cycles,
        "seconds": time_of_update,
        "share_of_peak": needed / (time_of_update * chip.peak * len(devices)),
        "collectives": {
            kind: {"count": count, "bytes": size}
            for kind, (count, size) in cost.collectives.items()
        },
        "compile_seconds": seconds,
        "assumed_trips": dict(cost.assumed),
        "largest": sorted(cost.parts.items(), key=lambda part: -part[1])[: request["parts"]],
    }


def main() -> None:
    """Measures what is asked for."""
    request = json.loads(sys.argv[1])
    devices = devices_of(request["topology"])
    for world, name in request["programs"]:
        try:
            result = measure(world, name, request, devices)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
        print(MARK + json.dumps({"world": world, "stage": name, **result}), flush=True)
        jax.clear_caches()
        for path in pathlib.Path(request["dump"]).iterdir():
            path.unlink()


if __name__ == "__main__":
    main()
