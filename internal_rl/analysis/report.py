"""Gathers the stages of a work directory into `<workdir>/report/`.

Whatever is there is shown: the report of a partial run leaves out the figures and rows that it has
no data for. Written are the figures as PNG, an episode of internal RL as GIF, `table.md` and
`table.csv` with one row per quantity, and `summary.json` with the medians over seeds.
"""

import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from internal_rl import envs
from internal_rl.analysis import figures
from internal_rl.analysis.code_injection import ARMS
from internal_rl.analysis.examination import INJECTION_MOMENTS
from internal_rl.analysis.rate_distortion import summarise_sweep
from internal_rl.analysis.report_table import (
    RL_STAGES,
    format_csv,
    format_markdown,
    loss_accounting,
    solutions_of,
    table_rows,
)
from internal_rl.analysis.run_results import RunResults, read_sweep, stacked_curves
from internal_rl.analysis.switching import SWITCH_THRESHOLD
from internal_rl.envs.ant_render import RenderError
from internal_rl.envs.ant_render import frames_of_observations as ant_frames
from internal_rl.envs.render import frames_of_observations, save_gif
from internal_rl.errors import StorageError
from internal_rl.files import storage_faults, write_atomically, write_json

# Keys that every summary holds, whatever has been run.
EXPECTED = ("internal_rl_success", "raw_rl_success", "switching_f1")
# Keeps the animation of an ant's hundreds of steps small.
ANT_STEPS_PER_FRAME = 4


def write_report(workdir: str | os.PathLike, wall_seconds: float = math.nan) -> dict:
    """Writes the report.

    Args:
      workdir: work directory of the run.
      wall_seconds: duration of the whole run; if unknown, the sum over its stages.

    Returns:
      What `summary.json` holds: medians over seeds by key, None where there is no data.

    Raises:
      StorageError: there is nothing to report, or files cannot be read or written.
    """
    runs = read_sweep(workdir)
    run = runs[0]
    if not run:
        raise StorageError(f"{workdir}: holds no stage of a run, nothing to report")
    rows = table_rows(run)
    summary = dict.fromkeys(EXPECTED) | {row.key: row.median for row in rows}
    if math.isnan(wall_seconds):
        wall_seconds = float(np.nansum([seeds[0].last("seconds") for seeds in run.values()]))
    summary["wall_seconds"] = wall_seconds
    folder = pathlib.Path(workdir) / "report"
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in report_figures(runs).items():
            figures.save_figure(figure, folder / f"{name}.png")
        if frames := _episode(run):
            save_gif(folder / "episode.gif", frames)
        write_atomically(folder / "table.md", format_markdown(rows, loss_accounting(run)))
        write_atomically(folder / "table.csv", format_csv(rows))
        write_json(folder / "summary.json", summary)
    return summary


def report_figures(runs: Sequence[RunResults]) -> dict[str, Figure]:
    """All figures that there is data for, by file name.

    Args:
      runs: the run, and runs that repeat its metacontroller with other settings.
    """
    run = runs[0]
    made = {
        "pretraining": _pretraining(run),
        "probe_beliefs": _probe_beliefs(run),
        "probe_accuracy": _probe_accuracy(run),
        "steering": _steering(run),
        "gates": _gates(run),
        "paths": _paths(run),
        "internal_rl_path": _internal_rl_path(run),
        "rate_distortion": _rate_distortion(runs),
        "code_injection": _code_injection(run),
        "reinforcement_learning": _reinforcement_learning(run),
        "gradient_variance": _gradient_variance(run),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def _pretraining(run: RunResults) -> Figure | None:
    steps, values = stacked_curves(run.get("pretrain", ()), "action_nll")
    if not len(steps):
        return None
    first = run["pretrain"][0]
    batch_size = first.config["pretrain"]["batch_size"]
    references = {name: first.last(f"reference/{name}") for name in figures.REFERENCE_STYLES}
    held_steps, held_out = stacked_curves(run["pretrain"], "evaluation/action_nll")
    return figures.pretraining_curve(
        steps * batch_size,
        values,
        {name: value for name, value in references.items() if not math.isnan(value)},
        (held_steps * batch_size, held_out) if len(held_steps) else None,
    )


def _with(run: RunResults, stage: str, artifact: str) -> list:
    """Seeds of a stage that have an artifact."""
    return [results for results in run.get(stage, ()) if artifact in results.artifacts]


def _probe_beliefs(run: RunResults) -> Figure | None:
    seeds = _with(run, "probe", "example_beliefs")
    if not seeds:
        return None
    artifacts = seeds[0].artifacts
    first = artifacts["example_segment"] == 0
    return figures.probe_beliefs(
        artifacts["example_beliefs"][:, first], artifacts["example_subgoal"][first]
    )


def _probe_accuracy(run: RunResults) -> Figure | None:
    ages = {}
    for stage in run:
        seeds = _with(run, stage, "accuracy_by_time") if stage.startswith("probe") else []
        if seeds:
            # The final parameters, written as age 0, are the oldest.
            ages[seeds[0].config["probe"]["base_step"] or math.inf] = seeds
    if not ages:
        return None
    accuracy = {
        "final" if math.isinf(age) else f"{age:,} updates": np.stack(
            [results.artifacts["accuracy"] for results in ages[age]]
        )
        for age in sorted(ages)
    }
    oldest = ages[max(ages)][0].artifacts
    by_time = oldest["accuracy_by_time"]
    known = ~np.all(np.isnan(by_time), axis=0)
    num_subgoals = oldest["example_beliefs"].shape[-1]
    return figures.probe_accuracy(accuracy, by_time[:, known], 1.0 / num_subgoals)


def _steering(run: RunResults) -> Figure | None:
    seeds = _with(run, "steer", "success")
    if not seeds:
        return None
    success = np.stack([results.artifacts["success"] for results in seeds])
    return figures.steering_success({f"{success.shape[1] - 1} blocks": success})


def _gates(run: RunResults) -> Figure | None:
    seeds = _with(run, "metacontroller", "example_beta")
    if not seeds:
        return None
    names = ("example_beta", "example_subgoal", "example_mask")
    return figures.gates(*(seeds[0].artifacts[name] for name in names), SWITCH_THRESHOLD)


def _paths(run: RunResults) -> Figure | None:
    seeds = _with(run, "metacontroller", "example_place")
    if not seeds:
        return None
    found = {
        name: seeds[0].artifacts[f"example_{name}"]
        for name in ("place", "colours", "walls", "code", "beta", "mask")
    }
    return figures.paths(
        found["place"],
        found["colours"][:, 0],
        found["walls"][:, 0],
        found["code"],
        found["beta"] >= SWITCH_THRESHOLD,
        found["mask"],
        seeds[0].config["environment"]["grid_size"],
    )


def _internal_rl_path(run: RunResults) -> Figure | None:
    seeds = _with(run, "internal_rl", "episode_place")
    if not seeds:
        return None
    found = {
        name: seeds[0].artifacts[f"episode_{name}"]
        for name in ("place", "colours", "walls", "code", "ask")
    }
    return figures.paths(
        found["place"][None],
        found["colours"][:1],
        found["walls"][:1],
        found["code"][None],
        found["ask"][None],
        np.ones((1, len(found["place"])), bool),
        seeds[0].config["environment"]["grid_size"],
    )


def _rate_distortion(runs: Sequence[RunResults]) -> Figure | None:
    rows = summarise_sweep([solution for run in runs for solution in solutions_of(run)])
    if len({row["alpha"] for row in rows}) < 2:
        return None
    first = runs[0].get("metacontroller", ())
    values = {
        name: first[0].last(f"reference/{name}") if first else math.nan
        for name in ("bayes", "goal_given")
    }
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    return figures.rate_distortion(rows, known)


def _code_injection(run: RunResults) -> Figure | None:
    reach = {}
    for visits in INJECTION_MOMENTS:
        names = [f"injection_{visits}_reach_{arm}" for arm in ARMS]
        seeds = _with(run, "metacontroller", names[0])
        if seeds:
            label = "at the start" if visits == 0 else f"after visit {visits}"
            values = [np.median([results.scalar(name) for results in seeds]) for name in names]
            reach[label] = dict(zip(ARMS, values, strict=True))
    return figures.injected_codes(reach) if reach else None


def _reinforcement_learning(run: RunResults) -> Figure | None:
    curves = {}
    for stage, label in RL_STAGES.items():
        episodes, success = stacked_curves(run.get(stage, ()), "success", against="episodes")
        if len(episodes):
            curves[label] = (episodes, success)
    return figures.rl_curves(curves) if curves else None


def _gradient_variance(run: RunResults) -> Figure | None:
    seeds = _with(run, "internal_rl", "gradient_code_score")
    if not seeds:
        return None
    artifacts = seeds[0].artifacts
    # Without a single success the advantage is zero and so are both estimates.
    suffix, note = ("", "") if np.nanmax(artifacts["gradient_code"]) > 0 else ("_score", ", A = 1")
    return figures.gradient_variance(
        {
            f"code actions{note}": artifacts[f"gradient_code{suffix}"],
            f"raw actions{note}": artifacts[f"gradient_raw{suffix}"],
        }
    )


def _episode(run: RunResults) -> list[np.ndarray]:
    """Frames of an episode of internal RL with its gate and codes; empty without one."""
    seeds = _with(run, "internal_rl", "episode_observation")
    if not seeds:
        return []
    artifacts, environment = seeds[0].artifacts, seeds[0].config["environment"]
    observations = artifacts["episode_observation"]
    controls = artifacts["episode_beta"], artifacts["episode_code"]
    if environment["name"] == "ant-pinpad":
        world = envs.make_from_config(environment)
        try:
            return ant_frames(world, observations, ANT_STEPS_PER_FRAME, *controls)
        except RenderError as error:
            logging.warning("no episode.gif: %s", error)
            return []
    return frames_of_observations(
        observations, environment["grid_size"], environment["num_colours"], *controls
    )
