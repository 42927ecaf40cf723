"""A stage that is started by its command line in a process of its own, and stopped in time.

The process is a fork of this one, which has imported everything and started nothing: all that a
command line passes through is real, its flags are fresh, and what it does to a process is known.
What earlier stages would have left is made up, so that any of their settings can be tried.
"""

import dataclasses
import importlib
import os
import pathlib
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence

import jax
import numpy as np

from internal_rl import memory
from internal_rl.envs.world import DataRequest, register_world, world_entry
from internal_rl.experts.dataset import Dataset
from internal_rl.host_threads import backend_is_initialised
from internal_rl.methods.code_finding import expected_params
from internal_rl.stages import trained  # noqa: F401 (imported once, here)
from internal_rl.stages.build import make_base
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from internal_rl.training.stage_directory import StageDirectory

WORLDS = {"gridworld": "gridworld-pinpad", "ant": "ant-pinpad"}
ACCEPTED = 100
"""Exit code of a start that is stopped where it would begin to write."""

_ROOT = pathlib.Path(__file__).parents[1]
_MEMORY = 4 * 2**30
_MAX_TOKENS = 40


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long a start may take.

    Attributes:
      trace_seconds: of the processor's time, until the stage would begin to write.
      run_seconds: of the processor's time, from then on; 0 ends it there.
      idle_seconds: of the clock without any of the processor's: it waits for something.
    """

    trace_seconds: float
    run_seconds: float = 0.0
    idle_seconds: float = 120.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a start ended.

    Attributes:
      code: exit code; below 0 the signal that ended it.
      said: on both outputs.
      begun: it came to where it began to write.
      written: files under its work directory.
      seconds: of the processor's time.
      waited: it had to be ended because it waited.
    """

    code: int
    said: str
    begun: bool
    written: tuple[str, ...]
    seconds: float
    waited: bool = False


def start(stage: str, arguments: Sequence[str], folder: pathlib.Path, limits: Limits) -> Outcome:
    """Starts the script of a stage.

    Args:
      stage: its name.
      arguments: of the command line, without `--workdir`.
      folder: empty, for the work directory and what is said.
      limits: when it is ended.

    Raises:
      RuntimeError: jax has been started here.
    """
    if backend_is_initialised():
        raise RuntimeError("jax has been started in this process, of which no fork may be made")
    said, workdir, begun = folder / "said", folder / "run", folder / "begun"
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _be_started(stage, [*arguments, f"--workdir={workdir}"], said, begun, limits)
    code, seconds, waited = _end_of(child, limits.idle_seconds)
    written = tuple(str(path.relative_to(workdir)) for path in workdir.rglob("*"))
    text = said.read_bytes().decode(errors="replace") if said.exists() else ""
    return Outcome(code, text, begun.exists(), written, seconds, waited)


def _end_of(child: int, idle_seconds: float) -> tuple[int, float, bool]:
    """Exit code, seconds of the processor, and whether it was ended because it waited."""
    ticks, moved, waited = [], time.monotonic(), False
    ended = os.pidfd_open(child)
    while not select.select([ended], [], [], 1.0)[0]:
        now = _ticks_of(child)
        if now != ticks:
            ticks, moved = now, time.monotonic()
        elif time.monotonic() > moved + idle_seconds and not waited:
            os.kill(child, signal.SIGKILL)
            waited = True
    os.close(ended)
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, waited


def _ticks_of(child: int) -> list[str]:
    """Ticks of the processor that a process has had, in both modes."""
    # The name of the program, in brackets, may hold spaces.
    return pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]


def _be_started(
    stage: str,
    arguments: Sequence[str],
    said: pathlib.Path,
    begun: pathlib.Path,
    limits: Limits,
) -> None:
    """What the forked process does; never returns."""
    code = 1
    try:
        output = os.open(said, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(_ROOT)
        sys.argv = [f"experiments/{stage}.py", *arguments]
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _limit_time(limits.trace_seconds)
        make_up()
        _stop_where_it_writes(begun, limits.run_seconds)
        # Its flags are defined now, and look at the command line.
        importlib.import_module("internal_rl.stages.launch").run_stage(stage)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _limit_time(seconds: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    end = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))


def _stop_where_it_writes(begun: pathlib.Path, run_seconds: float) -> None:
    begin = StageDirectory.begin

    def begin_or_stop(*arguments, **keywords):
        begun.touch()
        if not run_seconds:
            sys.stderr.flush()
            os._exit(ACCEPTED)
        _limit_time(run_seconds)
        return begin(*arguments, **keywords)

    StageDirectory.begin = begin_or_stop


def make_up() -> None:
    """Puts random numbers in the place of what earlier stages leave, and a small machine."""
    memory._host_memory = lambda: _MEMORY
    made: dict[str, dict] = {}

    def load(places, settings, stage, seed, step=None):
        del places, seed, step
        # Hundreds of seeds may be asked for.
        if stage not in made:
            made[stage] = made_up(settings, stage)
        return made[stage]

    Places.load = load
    entry = world_entry(WORLDS["ant"])
    register_world(
        entry.name, entry.make, config=entry.config, presets=entry.presets, data=made_up_data
    )


def made_up(settings: Settings, stage: str) -> dict:
    """Random parameters such as a stage leaves."""
    if stage == "expert":
        return _made_up_expert(settings)
    base = make_base(settings)
    if stage == "pretrain":
        return _filled(jax.eval_shape(base.initial_params, jax.random.key(0)))
    return _filled(expected_params(settings.sections[stage], base))


def _filled(shapes) -> dict:
    rng = np.random.default_rng(0)

    def fill(leaf):
        # The same numbers again and again: leaves may be as large as memory allows.
        return np.resize((0.1 * rng.normal(size=997)).astype(leaf.dtype), leaf.shape)

    return jax.tree.map(fill, shapes)


def _made_up_expert(settings: Settings) -> dict:
    from internal_rl.experts import ant_ppo

    world, config = settings.world, settings.expert
    guided = ant_ppo.GuidedAnt(world, config, world.pretraining_tasks)
    nets = ant_ppo.make_networks(config, guided.observation_size, world.action_spec.size)

    def init(key):
        seen = jax.ShapeDtypeStruct((guided.observation_size,), np.float32)
        statistics = ant_ppo.brax_ppo.running_statistics.init_state(seen)
        return statistics, nets.policy_network.init(key), nets.value_network.init(key)

    statistics, policy, value = jax.eval_shape(init, jax.random.key(0))
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), statistics)
    return ant_ppo.as_tree((ones, _filled(policy), _filled(value)))


def made_up_data(request: DataRequest) -> Dataset:
    """A few random episodes in place of collected ones."""
    world, settings, rng = request.world, request.settings, np.random.default_rng(0)
    num, length = 12, min(world.time_limit, _MAX_TOKENS)
    data = Dataset.from_arrays(
        rng.normal(size=(num, length + 1, world.observation_spec.size)).astype(np.float32),
        rng.uniform(-1, 1, (num, length, world.action_spec.size)).astype(np.float32),
        np.full(num, length),
        rng.integers(0, world.num_subgoals, (num, length)),
        sequence_length=settings.sequence_length,
        held_out=4,
    )
    data.trajectories_per_row = settings.trajectories_per_row
    return data
