"""Tables and figures of studies whose runs are made up."""

import csv
import dataclasses
import json
import math
import re

import numpy as np
import pytest

from internal_rl.analysis.drawing import as_png, told
from internal_rl.analysis.statistics import wilson
from internal_rl.analysis.sweeps import (
    ablation_age,
    controllers,
    layer_by_depth,
    rate_distortion,
    selection_results,
)
from internal_rl.analysis.sweeps.rate_distortion import Point
from internal_rl.analysis.sweeps.sweep import FinishedRun, SweepResults, all_sweeps
from internal_rl.analysis.sweeps.table import SweepTable, told_rates
from tests.analysis.sweeps import made_up

CURVE = [Point(0.1, 0.02, 2.0), Point(0.3, 0.30, 1.0), Point(1.0, 0.40, 0.0)]


def cells(table, column):
    return [row[table.columns.index(column)] for row in table.rows]


def test_the_gap_is_the_largest_step_of_nll_between_neighbours_in_alpha():
    low, high = rate_distortion.widest_gap(CURVE)
    assert (low.alpha, high.alpha) == (0.1, 0.3)
    assert rate_distortion.widest_gap(CURVE[:1]) is None


def test_a_gap_is_horizontal_as_far_as_no_kl_is_saved_for_it():
    """Minima of `NLL + α KL` over one set have none; whoever stays behind at a higher α has."""
    rates = np.linspace(0.0, 3.0, 301)
    found = [(math.exp(-2 * rate), rate) for rate in rates]
    alphas = (0.05, 0.1, 0.3, 0.8, 1.5)
    optima = [Point(x, *min(found, key=lambda ends, x=x: ends[0] + x * ends[1])) for x in alphas]
    assert len({point.kl for point in optima}) == 5
    assert rate_distortion.horizontal_gap(optima) is None
    assert rate_distortion.horizontal_gap(optima[:1]) is None
    stuck = dataclasses.replace(optima[3], nll=optima[3].nll + 0.5)
    gap, low, high = rate_distortion.horizontal_gap([*optima[:3], stuck, optima[4]])
    assert (low, high) == (optima[2], stuck)
    saved = optima[2].kl - stuck.kl
    assert gap == pytest.approx(stuck.nll - optima[2].nll - 0.8 * saved) and 0 < gap < 0.5
    told = rate_distortion.table(made_up.rate_distortion_results()).notes[0]
    assert re.search(r"more than α times the KL that is saved: 0\.2\d* from α = 0.1 to 0.3\.", told)


def test_curves_are_compared_where_their_kl_is_the_same():
    points = [0.02, 0.30, 0.40]
    np.testing.assert_allclose(rate_distortion.nll_at(CURVE, [2.0, 1.0, 0.0]), points)
    assert np.isnan(rate_distortion.nll_at(CURVE, [2.5, -0.1])).all()
    assert np.isnan(rate_distortion.nll_at([], [1.0])).all()
    alone = rate_distortion.nll_at(CURVE[:1], [2.0, 1.0])
    np.testing.assert_array_equal(alone, [0.02, math.nan])
    # One KL twice counts as the mean of both.
    twice = rate_distortion.nll_at([*CURVE, Point(0.2, 0.20, 1.0)], [1.0])
    np.testing.assert_allclose(twice, [0.25])
    between = float(rate_distortion.nll_at(CURVE, [1.5])[0])
    frozen = [Point(0.2, 0.10, 1.5), Point(0.4, 0.1, 3.0)]
    apart = rate_distortion.distances(frozen, CURVE)
    assert apart[0.2] == pytest.approx(between - 0.10) and math.isnan(apart[0.4])
    assert rate_distortion.mean_distance(frozen, CURVE) == pytest.approx(between - 0.10)


def test_a_convex_curve_is_not_overestimated_between_its_points():
    """`exp(-2 R)`, a Gaussian source's, from seven points as uneven as those of a study."""
    rates = np.array([0.0, 0.2, 0.35, 0.45, 0.6, 0.85, 3.0])
    curve = [Point(rate, math.exp(-2 * rate), rate) for rate in rates]
    asked = np.linspace(0.05, 0.8, 30)
    error = rate_distortion.nll_at(curve, asked) - np.exp(-2 * asked)
    straight = np.interp(asked, rates, np.exp(-2 * rates)) - np.exp(-2 * asked)
    assert abs(error.mean()) < 0.3 * straight.mean()


def results_with_common_effects(spread, seeds=range(3)):
    """Two arms over three values of alpha, on all of which a seed moves the NLL by the same."""
    runs = []
    for arm, shift in (("frozen", 0.0), ("co-trained", 0.05)):
        for alpha, kl in ((0.1, 2.0), (0.3, 1.0), (1.0, 0.5)):
            found = [
                made_up.seed_results(
                    seed,
                    artifacts={
                        "action_nll": 0.1 / kl + shift + spread * (seed - 1),
                        "kl": kl + 0.1 * (arm == "frozen") * (kl < 2.0),
                    },
                )
                for seed in seeds
            ]
            labels = {"arm": arm, "alpha": alpha}
            runs.append(FinishedRun(f"{arm}{alpha}", labels, {}, found))
    return SweepResults(runs)


def test_the_interval_of_the_distance_holds_it_and_widens_with_the_spread_of_seeds():
    results = results_with_common_effects

    def interval(spread):
        return rate_distortion.distance_interval(results(spread))

    def mean(spread):
        curves = (rate_distortion.curve_of(results(spread), arm) for arm in rate_distortion.ARMS)
        return rate_distortion.mean_distance(*curves)

    assert interval(0.0) == pytest.approx((mean(0.0), mean(0.0)))
    (low, high), (lower, higher) = interval(0.01), interval(0.03)
    assert lower < low < mean(0.01) < high < higher
    told = rate_distortion.table(results(0.01)).notes[1]
    assert "95 % over 3 seeds" in told
    single = SweepResults(
        [dataclasses.replace(run, seeds=run.seeds[:1]) for run in results(0.01).runs]
    )
    assert np.isnan(rate_distortion.distance_interval(single)).all()
    assert "95 %" not in rate_distortion.table(single).notes[1]


def test_seeds_are_drawn_once_for_all_values_of_alpha():
    """What a seed has in common does not average out over alpha.

    Of three values the median of a resample is the smallest with probability 7 / 27; that of one
    arm is then so and the largest of the other one in 6.7 % of all cases, which is more than the
    2.5 % that an interval leaves out at an end.
    """
    results = results_with_common_effects(0.01)
    curves = (rate_distortion.curve_of(results, arm) for arm in rate_distortion.ARMS)
    mean = rate_distortion.mean_distance(*curves)
    # By their numbers, in whatever order they come; what is not there everywhere is left out.
    shuffled = [
        dataclasses.replace(run, seeds=[run.seeds[(i + at) % 3] for i in range(3)])
        for at, run in enumerate(results.runs)
    ]
    lost = {"action_nll": math.nan, "kl": 1.0}
    more = [
        dataclasses.replace(run, seeds=[*run.seeds, made_up.seed_results(8 + at, artifacts=ends)])
        for at, (run, ends) in enumerate(
            zip(shuffled, [lost, *({"action_nll": 9.0, "kl": 1.0},) * 5], strict=True)
        )
    ]
    interval = rate_distortion.distance_interval(SweepResults(more))
    assert interval == pytest.approx((mean - 0.02, mean + 0.02))
    one = [dataclasses.replace(run, seeds=run.seeds[: 1 + bool(at)]) for at, run in enumerate(more)]
    assert np.isnan(rate_distortion.distance_interval(SweepResults(one))).all()


def test_the_table_of_rate_and_distortion_tells_both_gaps():
    table = rate_distortion.table(made_up.rate_distortion_results())
    assert cells(table, "arm") == ["frozen"] * 5 + ["co-trained"] * 5
    assert cells(table, "seeds") == [3] * 10
    # The first step is counted.
    counted = cells(table, "switches per trajectory, the first step included")
    assert counted[:3] == [21.0, 9.0, pytest.approx(3.1)]
    distance = cells(table, "NLL of the co-trained arm at this KL, less NLL")
    assert distance[2] == pytest.approx(0.1, abs=0.03)
    assert all(math.isnan(value) for value in distance[5:])
    assert "from α = 0.1 to 0.3" in table.notes[0]
    assert "largest at the frozen α = 0.1" in table.notes[1]
    alone = rate_distortion.table(made_up.rate_distortion_results(arms=("frozen",)))
    assert "needs runs of both arms" in alone.notes[1]


@pytest.mark.parametrize("arms", [("frozen", "co-trained"), ("frozen",)])
def test_rate_and_distortion_are_drawn_arm_by_arm(arms):
    results = made_up.rate_distortion_results(arms)
    figure = rate_distortion.figures(results)["rate_distortion"]
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [f"{arm} base model" for arm in arms]
    assert all(len(axes.collections) >= 15 for axes in panels)
    assert "15 runs" in told(figure) or "30 runs" in told(figure)
    assert as_png(figure)


def test_success_of_controllers_is_told_at_the_best_and_at_the_middle_layer():
    label = ablation_age.LABEL
    results = made_up.controllers_results(label, (100, 1_000), depths=(4,))
    table = controllers.table_of_values(results, label)
    assert cells(table, label) == ["100", "1000"] and cells(table, "base models") == [5, 5]
    best = [told.median for told in cells(table, "success at the best layer")]
    middle = [told.median for told in cells(table, "success at the middle layer")]
    assert best[0] < best[1] and all(a >= b for a, b in zip(best, middle, strict=True))
    seed = results.runs[0].seeds[0]
    assert controllers.success_at_middle(seed) == seed.artifacts["success"][2]


@pytest.mark.parametrize("even", [True, False])
def test_success_is_drawn_against_a_value_with_a_line_for_each_depth(even):
    results = made_up.controllers_results("x", (0.0, 0.01, 0.1))
    figure = controllers.figure_of_values(results, "x", "Title", even=even)
    panel = figure.axes[0]
    assert panel.get_legend_handles_labels()[1] == ["4 blocks", "6 blocks"]
    assert list(panel.get_lines()[0].get_xdata()) == ([0, 1, 2] if even else [0.0, 0.01, 0.1])
    assert "5 base models each" in told(figure)
    assert as_png(figure)


def test_runs_with_fewer_base_models_leave_a_gap_and_nothing_else():
    results = made_up.controllers_results("x", (0.0, 0.1), depths=(4,))
    runs = list(results.runs)
    runs[0] = type(runs[0])(runs[0].name, runs[0].labels, {}, runs[0].seeds[:2])
    figure = controllers.figure_of_values(SweepResults(runs), "x", "Title", even=True)
    line = figure.axes[0].get_lines()[0].get_ydata()
    expected = [np.median(run.values(controllers.success_at_best)) for run in runs]
    np.testing.assert_allclose(line, expected)
    assert "2 or 5 base models each" in told(figure)


def test_layers_are_counted_from_the_middle():
    results = made_up.controllers_results("", (0,), depths=(3, 4))
    table = layer_by_depth.table(results)
    assert cells(table, "from the middle") == [-1.5, -0.5, 0.5, 1.5, -2.0, -1.0, 0.0, 1.0, 2.0]
    figure = layer_by_depth.figures(results)["layer_by_depth"]
    assert figure.axes[0].get_legend_handles_labels()[1] == ["3 blocks", "4 blocks"]
    assert as_png(figure)


def test_each_method_is_shown_at_its_best_median_and_the_mean_decides_between_equals():
    results = made_up.selection_results()
    best = selection_results.best_runs(results)
    assert {way: run.labels["rate"] for way, run in best.items()} == {
        "discovered": 1e-4,
        "raw_actions": 1e-4,
        "compile": 1e-4,
    }
    table = selection_results.table(results)
    assert cells(table, "best").count("yes") == 3 and len(table.rows) == 8
    assert "internal RL 3, raw actions 2, CompILE 3" in table.notes[0]
    assert "do not compare them yet" in table.notes[0]
    flags = "Flags of raw actions, also in `selection_raw_actions.flags`: `--config.raw_rl."
    assert any(note.startswith(flags) for note in table.notes)
    runs = [run for run in results.runs if run.labels["rate"] < 3e-4]
    partial = selection_results.table(SweepResults(runs, ["another"]))
    assert "Others are missing: the best may change." in partial.notes[0]


def test_the_flags_of_the_best_are_written_for_each_method():
    files = selection_results.files(made_up.selection_results())
    assert json.loads(files.pop("selection.json")) == {
        "discovered": {
            "metacontroller.variant": "discovered",
            "internal_rl.learning_rate": 0.0001,
        },
        "raw_actions": {"raw_rl.learning_rate": 0.0001},
        "compile": {"metacontroller.variant": "compile", "internal_rl.learning_rate": 0.0001},
    }
    assert files == {
        "selection_discovered.flags": (
            "--config.metacontroller.variant=discovered --config.internal_rl.learning_rate=0.0001\n"
        ),
        "selection_raw_actions.flags": "--config.raw_rl.learning_rate=0.0001\n",
        "selection_compile.flags": (
            "--config.metacontroller.variant=compile --config.internal_rl.learning_rate=0.0001\n"
        ),
    }


def test_trials_and_the_curves_of_the_best_are_drawn():
    figure = selection_results.figures(made_up.selection_results())["selection"]
    lines = [line for line in figure.axes[1].get_lines() if line.get_label()[0] != "_"]
    assert len(lines) == 3
    assert as_png(figure)


def test_trials_are_divided_by_the_success_of_the_expert():
    results = made_up.selection_results()
    divided = SweepResults(
        [
            dataclasses.replace(
                run, seeds=[dataclasses.replace(seed, expert=0.5) for seed in run.seeds]
            )
            for run in results.runs
        ]
    )
    alone = selection_results.figures(results)["selection"].axes
    figure = selection_results.figures(divided)["selection"]
    for panel, other in zip(figure.axes, alone, strict=True):
        assert panel.get_ylabel() == f"{other.get_ylabel()} over that of the expert"
        for line, same in zip(panel.get_lines(), other.get_lines(), strict=True):
            np.testing.assert_allclose(line.get_ydata(), np.asarray(same.get_ydata()) / 0.5)
    assert "Divided by the expert's success on the post-training task, 0.5" in told(figure)


@pytest.mark.parametrize("task", ["", "0-1"])
def test_trials_on_another_task_are_not_divided_and_tell_it(task):
    """Raw actions stay on the post-training task."""

    def on_task(run):
        config = {"raw_rl": {"task": ""}, "internal_rl": {"task": task}}
        lines = [seed.metrics for seed in run.seeds]
        lines[0] = lines[0][:-2] if run.seeds[0].stage == "internal_rl" else lines[0]
        return dataclasses.replace(
            run,
            seeds=[
                dataclasses.replace(seed, expert=0.5, config=config, metrics=metrics)
                for seed, metrics in zip(run.seeds, lines, strict=True)
            ],
        )

    runs = [on_task(run) for run in made_up.selection_results().runs]
    figure = selection_results.figures(SweepResults(runs))["selection"]
    labels = [text.get_text().partition(":")[0] for text in figure.legends[-1].get_texts()]
    told_label = figure.axes[0].get_ylabel()
    if task:
        assert labels[0] == "internal RL on task 0-1"
        assert labels[1] == "raw actions on the post-training task"
        assert "expert" not in told_label
        assert "Not divided by the expert's success" in told(figure)
        coded = [run for run in runs if run.seeds[0].stage != "raw_rl"]
        alone = selection_results.figures(SweepResults(coded))["selection"]
        assert alone.axes[0].get_ylabel().endswith(" on task 0-1")
    else:
        assert labels[:2] == ["internal RL", "raw actions"]
        assert told_label.endswith(" over that of the expert")
    assert "internal RL: drawn to the shortest run, 600 episodes." in told(figure)


@pytest.mark.parametrize("study", sorted(all_sweeps()))
def test_a_study_of_which_nothing_is_finished_has_an_empty_table_and_no_figure(study):
    sweep, nothing = all_sweeps()[study], SweepResults([], ["first"])
    assert sweep.table(nothing).rows in ([], ())
    assert not sweep.figures(nothing)
    assert not (sweep.files and sweep.files(nothing))


def test_tables_are_written_for_readers_and_for_programs():
    table = SweepTable(("name", "value"), [("a", 0.123456789), ("b", math.nan)], ["A note."])
    assert table.markdown() == (
        "| name | value |\n|---|---:|\n| a | 0.1235 |\n| b | – |\n\nA note.\n"
    )
    assert table.csv() == "name,value\na,0.123457\nb,nan\n"
    with pytest.raises(ValueError, match="row of 1 cells given, allowed are 2"):
        SweepTable(("name", "value"), [("a",)])


def test_values_of_several_runs_are_told_as_the_paper_does_and_with_an_interval_over_base_models():
    values = [0.1, 0.4, 0.2, 0.9]
    found = [
        dataclasses.replace(
            made_up.seed_results(seed, artifacts={"success": value}), base=f"{seed}"
        )
        for seed, value in enumerate(values)
    ]
    run = FinishedRun("run", {}, {}, found)
    told = run.summary(lambda seed: seed.scalar("success"))
    spread = told.lower, told.median, told.upper
    assert spread == pytest.approx(tuple(np.percentile(values, (25, 50, 75))))
    low, high = told.interval
    assert told.mean == pytest.approx(0.3) and 0.1 <= low < 0.3 < high <= 0.9
    table = SweepTable(("name", "success"), [("run", told)])
    head, line, row = table.markdown().splitlines()
    assert head == (
        "| name | success | success: quartiles | success: interquartile mean"
        " | success: 95 % interval |"
    )
    assert line == "|---|---:|---:|---:|---:|"
    assert row.startswith("| run | 0.3 | 0.175 to 0.525 | 0.3 | ")
    heads, numbers = csv.reader(table.csv().splitlines())
    assert dict(zip(heads, numbers, strict=True)) == {
        "name": "run",
        "success": "0.3",
        "success: lower quartile": "0.175",
        "success: upper quartile": "0.525",
        "success: interquartile mean": "0.3",
        "success: interval from": f"{told.interval[0]:.6g}",
        "success: interval to": f"{told.interval[1]:.6g}",
    }
    with pytest.raises(ValueError, match="column 'success' mixes summaries with other cells"):
        SweepTable(("name", "success"), [("run", told), ("other", 0.3)])
    # Runs that stand on one base model say nothing about others.
    same = [dataclasses.replace(seed, base="0") for seed in found]
    alone = FinishedRun("run", {}, {}, same).summary(lambda seed: seed.scalar("success"))
    assert alone.median == told.median and np.isnan(alone.interval).all()


def test_how_sure_rates_of_single_runs_are_is_told_by_the_widest_of_their_intervals():
    (note,) = told_rates([(0.5, 100), (0.9, 100), (math.nan, 100), (0.5, 0)])
    low, high = wilson(0.5, 100)
    assert "share of 100 episodes" in note and note.endswith(f"at most {high - low:.4g} wide.")
    assert "100 or 2,048" in told_rates([(0.5, 100), (0.9, 2_048)])[0]
    assert told_rates([(math.nan, 100)]) == []
