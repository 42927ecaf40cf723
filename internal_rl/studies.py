"""Studies from Python: figures and tables of an agent, and of a work directory.

    agent = irl.load("gridworld-pinpad/small")
    found = agent.discover(agent.rollout(num_episodes=256, key=jax.random.key(0)))
    irl.studies.gates(found)

An agent is an object with a `world` and a steered `model`. What was found are arrays whose rows are
episodes, as `Agent.discover` returns them: `code` `(B, T, n_z)`, `mean` and `kl` of the posterior,
`beta` and `active` `(B, T)`, `observation` `(B, T, d)`, `subgoal` `(B, T)`, which is None where it
is not known, and `last_observation` `(B, d)`, without which paths end one step early. A function
that needs what the world or the data do not tell raises ValueError.

Figures are matplotlib's. Tables show themselves in a notebook; `as_dict` gives their numbers.
"""

import os
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np
from matplotlib.figure import Figure

from internal_rl.analysis import base_model
from internal_rl.analysis import codes as _codes
from internal_rl.analysis import encoder_injection as _encoder_injection
from internal_rl.analysis import gates as _gates
from internal_rl.analysis import injection as _injection
from internal_rl.analysis import learning as _learning
from internal_rl.analysis import paths as _paths
from internal_rl.analysis import probe as _probe
from internal_rl.analysis import steering as _steering
from internal_rl.analysis import switching as _switching
from internal_rl.analysis import transitions as _transitions
from internal_rl.analysis.code_tests import examine_codes
from internal_rl.analysis.found import bank_of_found, rows_of_found
from internal_rl.analysis.injected_paths import draw_pairs
from internal_rl.analysis.report import report_figures, table_rows
from internal_rl.analysis.results import RunResults, read_run
from internal_rl.analysis.study import Study, all_studies, as_arrays, register_study
from internal_rl.analysis.sweeps.report import read_sweep, studies_in
from internal_rl.analysis.sweeps.sweep import all_sweeps, sweep_named
from internal_rl.analysis.table import Table
from internal_rl.arguments import checked_integer, entries_of
from internal_rl.envs.world import capabilities
from internal_rl.methods import probing
from internal_rl.methods import steering as steering_method
from internal_rl.methods.code_tests import CodeTestSettings
from internal_rl.methods.evaluation import held_out
from internal_rl.methods.method import Method
from internal_rl.methods.switching import SWITCH_THRESHOLD
from internal_rl.models.controllers import Controllers
from internal_rl.stages import running
from internal_rl.stages.places import Places
from internal_rl.types import DataSource

__all__ = [
    "Study",
    "Table",
    "all_studies",
    "base_success",
    "codes",
    "encoder_injection",
    "figures",
    "gates",
    "injection",
    "learning",
    "paths",
    "probe",
    "register_study",
    "report",
    "steering",
    "sweep",
    "switching",
    "table",
    "transitions",
]


# Of an agent.


def gates(found: Any, *, count: int = 5) -> Figure:
    """The gate along the first episodes, against the true subgoal where that is known.

    Args:
      found: see the top of this file.
      count: how many episodes.

    Raises:
      ValueError: the count is no whole number from 1 on.
    """
    count = checked_integer("count", count, 1)
    subgoal = None if found.subgoal is None else np.asarray(found.subgoal[:count])
    active = np.asarray(found.active[:count])
    return _gates.gates(np.asarray(found.beta[:count]), subgoal, active)


def switching(found: Any, *, tolerance: int = 1) -> Table:
    """How well switches follow the changes of subgoal.

    Args:
      found: see the top of this file; with subgoals.
      tolerance: steps by which a close match may be off; that of an agent's world is
        `agent.switch_tolerance`.

    Raises:
      ValueError: there are no subgoals or none that changes, or the tolerance is no whole number
        from 0.
    """
    if not isinstance(tolerance, int | np.integer) or tolerance < 0:
        raise ValueError(f"tolerance: {tolerance!r} given, allowed is a whole number, 0 or more")
    metrics = _switching.examine_switches(found.beta, rows_of_found(found), tolerance)
    if not metrics["changes_per_trajectory"] > 0:
        raise ValueError(
            "found holds no change of subgoal, allowed are episodes of tasks that the model gets on"
            " with (free-running ones have a single subgoal, which stays)"
        )
    close = {"f1_close": f"F1 within {tolerance} step{'' if tolerance == 1 else 's'}"}
    return Table.of(metrics, _switching.ROW_LABELS | close)


def codes(agent: Any, found: Any, *, key: chex.PRNGKey | None = None) -> Table:
    """How well subgoals are decoded from codes, and how many dimensions of the code are in use.

    Args:
      agent: whose world tells the number of subgoals.
      found: see the top of this file; with subgoals.
      key: randomness of the split in fitted and tested codes; None takes a fixed one.

    Raises:
      ValueError: there are no subgoals, or fewer than two codes that reached theirs.
    """
    _require(agent, "codes", {"subgoals"})
    key = jax.random.key(0) if key is None else key
    decoding = _codes.decoding_accuracy(
        bank_of_found(agent.world, found), agent.world.num_subgoals, key
    )
    units = _codes.active_units(found.mean, rows_of_found(found))
    values = as_arrays(decoding) | {"active_units": units.active_units}
    return Table.of(values, _codes.ROW_LABELS)


def injection(
    agent: Any,
    *,
    num_episodes: int = 1_024,
    settings: CodeTestSettings | None = None,
    key: chex.PRNGKey | None = None,
) -> dict[str, Figure]:
    """The paper's tests: whether codes of random rollouts lead to the same place in other episodes.

    Args:
      agent: whose model is injected into.
      num_episodes: rollouts out of which codes come, and episodes per test and arm.
      settings: how codes are collected and when they are injected; None for the defaults.
      key: randomness; None takes a fixed one.

    Returns:
      `code_injection`, rates with the code and without, and where the world tells a scene
      `injected_paths`; empty where no code was found.

    Raises:
      ValueError: the world does not tell what is needed.
    """
    _require(agent, "injection", _injection.STUDY.needs)
    key = jax.random.key(0) if key is None else key
    found = examine_codes(
        agent.world, agent.model, key, num_episodes, settings or CodeTestSettings()
    )
    figures = {"code_injection": _injection.draw_rates(found.reached)}
    if found.pairs is not None:
        figures["injected_paths"] = draw_pairs(found.pairs, agent.world.grid_size)
    return {name: figure for name, figure in figures.items() if figure is not None}


def encoder_injection(
    agent: Any, found: Any, *, num_episodes: int = 256, key: chex.PRNGKey | None = None
) -> Figure:
    """Whether codes that the encoder found lead to the same place in other episodes.

    Against a random code and none. This is easier than the paper's test, see `injection`.

    Args:
      agent: whose model is injected into.
      found: whose codes are injected; see the top of this file; with subgoals.
      num_episodes: episodes per arm and moment.
      key: randomness; None takes a fixed one.

    Raises:
      ValueError: there are no subgoals, or the world does not tell what is needed.
    """
    _require(agent, "encoder_injection", _encoder_injection.STUDY.needs - {"labels"})
    key = jax.random.key(0) if key is None else key
    reach = _encoder_injection.examine_injection(
        agent.world, agent.model, bank_of_found(agent.world, found), key, num_episodes
    )
    return _encoder_injection.injected_codes(_encoder_injection.reach_by_moment(reach))


def paths(agent: Any, found: Any, *, count: int = 5) -> Figure:
    """The first episodes from above, in the colour of the active code.

    Args:
      agent: whose world tells what an observation shows of the plane.
      found: see the top of this file.
      count: how many episodes.

    Raises:
      ValueError: the world tells no scene.
    """
    _require(agent, "paths", {"scene"})
    scene = agent.world.scene(found.observation[:count])
    place, active = np.asarray(scene.place), np.asarray(found.active[:count])
    last_place = _paths.at_last_step(place, active)
    last_observation = getattr(found, "last_observation", None)
    if last_observation is not None:
        last_place = np.asarray(agent.world.scene(last_observation[:count]).place)
    shown = _paths.Paths(
        place=place,
        last_place=last_place,
        colours=np.asarray(scene.colours)[:, 0],
        walls=np.asarray(scene.walls)[:, 0],
        code=np.asarray(found.code[:count]),
        switch=np.asarray(found.beta[:count]) >= SWITCH_THRESHOLD,
        mask=active,
    )
    return _paths.draw_paths(shown, agent.world.grid_size)


def base_success(
    agent: Any, *, num_episodes: int = 1_024, key: chex.PRNGKey | None = None
) -> float:
    """Success of the base model alone on the post-training task.

    Args:
      agent: whose base model acts.
      num_episodes: how many episodes.
      key: randomness; None takes a fixed one.
    """
    key = jax.random.key(0) if key is None else key
    result = base_model.sample_success(agent.world, agent.model, key, num_episodes)
    return float(result.sampled_success)


def transitions(agent: Any, *, num_episodes: int = 1_024, key: chex.PRNGKey | None = None) -> Table:
    """Whether the base model takes the transitions that only the post-training task needs.

    Args:
      agent: whose base model acts.
      num_episodes: how many episodes, which run free of any task.
      key: randomness; None takes a fixed one.

    Raises:
      ValueError: the world does not tell what is needed.
    """
    _require(agent, "transitions", _transitions.STUDY.needs)
    key = jax.random.key(0) if key is None else key
    counted = _transitions.count_transitions(agent.world, agent.model, key, num_episodes)
    arrays = as_arrays(counted)
    del arrays["transition_counts"]
    return Table.of(arrays)


def probe(
    agent: Any,
    source: DataSource,
    *,
    config: probing.Config | None = None,
    key: chex.PRNGKey | None = None,
) -> dict[str, Figure]:
    """Trains a probe at every layer and shows where the subgoal can be read.

    Args:
      agent: whose base model is read.
      source: trajectories with subgoals, such as `agent.make_data()`.
      config: how the probes are trained; None for about what the grid world's preset `small` has:
        500 updates of 88 trajectories at a learning rate of 1e-2, 64 held-out rows. Other worlds
        may need longer; the presets in `configs/` tell of theirs.
      key: randomness of the data; None takes a fixed one.

    Returns:
      `probe_accuracy` by layer and time, and `probe_beliefs` along one trajectory.

    Raises:
      ValueError: the source has no labels, or trajectories that do not fit the base model.
    """
    _require(agent, "probe", {"subgoals"})
    config = config or _PROBING
    limit = agent.world.time_limit
    method = probing.Probing(config, agent.model, source, agent.world.num_subgoals, limit)
    weights = _train(method, key)["weights"]
    rows = held_out(source, config.evaluation_rows, source.arrays)
    return _probe.draw_result(_probe.examine_probes(agent.model, weights, rows, limit))


def steering(
    agent: Any,
    source: DataSource,
    *,
    config: steering_method.Config | None = None,
    key: chex.PRNGKey | None = None,
) -> Figure:
    """Trains supervised controllers at every layer and lets them solve the post-training task.

    Args:
      agent: whose base model is steered.
      source: clean trajectories with subgoals, such as `agent.make_data("clean")`.
      config: how the controllers are trained; None for about what the grid world's preset `small`
        has: rank 8, 1,000 updates of 88 trajectories at a learning rate that falls from 1e-2 to
        1e-3, then 1,024 episodes for each layer. Other worlds may need other settings; the presets
        in `configs/` tell of theirs.
      key: randomness of parameters and data; None takes a fixed one.

    Raises:
      ValueError: the source has no labels, or trajectories that do not fit the base model.
    """
    _require(agent, "steering", _steering.STUDY.needs)
    config = config or _STEERING
    method = steering_method.Steering(config, agent.model, source, agent.world.num_subgoals)
    params = _train(method, key)
    layers = [Controllers(**params[f"layer_{i}"]) for i in range(len(params))]
    result = _steering.examine_controllers(
        agent.world, agent.model, layers, config.evaluation_episodes
    )
    return _steering.steering_success({f"{len(layers) - 1} blocks": result.success})


# Of a work directory.


def learning(workdir: str | os.PathLike, upstream: Sequence[str | os.PathLike] = ()) -> Figure:
    """Success of reinforcement learning against episodes.

    Args:
      workdir: of a run.
      upstream: other work directories in which its base models and its expert may lie.

    Raises:
      ValueError: no stage of reinforcement learning has begun there.
    """
    return _one(_learning.figures(read_run(workdir, upstream)), "internal_rl or raw_rl", workdir)


def sweep(
    workdir: str | os.PathLike, study: str, upstream: Sequence[str | os.PathLike] = ()
) -> dict[str, Figure]:
    """Figures of a study over several runs by name, see `experiments.sweep`.

    Args:
      workdir: in whose folder `sweep` the study lies.
      study: its name, such as `"rate_distortion"`.
      upstream: other work directories in which its expert may lie.

    Raises:
      ConfigError: there is no such study.
      ValueError: nothing of it is finished.
    """
    upstream = entries_of("upstream", upstream, "work directories")
    found = sweep_named(study).figures(read_sweep(workdir, study, upstream))
    _one(found, f"finished runs of {study}", workdir)
    return dict(found)


def figures(
    workdir: str | os.PathLike, upstream: Sequence[str | os.PathLike] = ()
) -> dict[str, Figure]:
    """All figures of a report by name, of whatever stages and sweeps a work directory holds.

    Args:
      workdir: of a run.
      upstream: other work directories in which its base models and its expert may lie.

    Raises:
      ValueError: there is nothing of a run.
    """
    found, sweeps = report_figures(_run(workdir, upstream)), all_sweeps()
    for study in filter(sweeps.__contains__, studies_in(workdir)):
        found |= sweeps[study].figures(read_sweep(workdir, study, upstream))
    return found


def table(workdir: str | os.PathLike, upstream: Sequence[str | os.PathLike] = ()) -> Table:
    """The table of a report, of whatever stages a work directory holds; as `figures`."""
    return Table(tuple(table_rows(_run(workdir, upstream))))


def report(
    workdir: str | os.PathLike,
    upstream: Sequence[str | os.PathLike] = (),
    *,
    only: Sequence[str] = (),
) -> dict:
    """Writes `<workdir>/report/` and returns its summary.

    Args:
      workdir: as `figures`.
      upstream: as `figures`.
      only: names of studies that are shown, in `<workdir>/report/only/`; empty for all.

    Raises:
      ConfigError: there is no study of a name.
      ValueError: as `figures`.
    """
    folders = entries_of("upstream", upstream, "work directories")
    only = entries_of("only", only, "names of studies")
    return running.report(Places(workdir, tuple(map(os.fspath, folders))), only=only)


# What these share.


def _require(agent: Any, study: str, needs: set[str] | frozenset[str]) -> None:
    """Raises ValueError unless the world of an agent has the capabilities `needs`."""
    missing = sorted(needs - capabilities(agent.world))
    if missing:
        raise ValueError(
            f"study {study}: this world does not tell {', '.join(missing)}; allowed are worlds"
            f" with {', '.join(sorted(needs))}, see internal_rl.envs.world.CAPABILITIES"
        )


# Trainings that nobody has set otherwise: near those of the grid world's preset `small`.
_TRAINING = {"batch_size": 88, "learning_rate": 1e-2}
_PROBING = probing.Config(steps=500, evaluation_rows=64, **_TRAINING)
_STEERING = steering_method.Config(
    steps=1_000,
    final_learning_rate=1e-3,
    num_parts=1,
    rank=8,
    evaluation_episodes=1_024,
    **_TRAINING,
)


def _train(method: Method, key: chex.PRNGKey | None) -> chex.ArrayTree:
    """Parameters after all updates of a method."""
    # Arrays of the host would be copied to the device at every update.
    key, frozen = jax.random.key(0) if key is None else key, jax.device_put(method.frozen)
    state, update = jax.jit(method.init)(key, frozen), jax.jit(method.update)
    for _ in range(method.config.steps):
        state, _ = update(state, frozen)
    return method.params(state)


def _run(workdir: str | os.PathLike, upstream: Sequence[str | os.PathLike]) -> RunResults:
    """The stages of a work directory that holds any, or a study over several runs."""
    run = read_run(workdir, upstream)
    if not run and not studies_in(workdir):
        raise ValueError(f"{workdir}: nothing to show, allowed are work directories of runs")
    return run


def _one(found: dict[str, Figure | None], needed: str, workdir: str | os.PathLike) -> Figure:
    """The figure of a study of one figure."""
    if not found:
        raise ValueError(f"{workdir}: nothing to show, allowed are runs with {needed}")
    return next(iter(found.values()))
