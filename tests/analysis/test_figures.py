"""Every figure is drawn from plain arrays and written as a PNG that is not empty."""

import io

import numpy as np
import pytest
from PIL import Image

from internal_rl.analysis import (
    base_model,
    credit,
    drawing,
    encoder_injection,
    gates,
    learning,
    paths,
    probe,
    steering,
)
from internal_rl.analysis.results import SeedResults

RNG = np.random.default_rng(0)
LAYERS, STEPS, SUBGOALS = 5, 12, 6
SUBGOAL = np.repeat([2, 0, 4], 4)


def draw(name):
    if name == "pretraining_curve":
        references = {"bayes": 0.2, "goal_blind": 0.5, "goal_given": 0.1, "other": 0.3}
        held_out = (np.array([100, 200]), RNG.random((2, 2)))
        return base_model.pretraining_curve(
            np.arange(1, 9) * 100, RNG.random((2, 8)), references, held_out
        )
    if name == "probe_beliefs":
        return probe.probe_beliefs(RNG.random((LAYERS, STEPS, SUBGOALS)), SUBGOAL)
    if name == "probe_accuracy":
        by_time = RNG.random((LAYERS, STEPS))
        by_time[:, -1] = np.nan
        return probe.probe_accuracy({"final": RNG.random((3, LAYERS))}, by_time, 1 / SUBGOALS)
    if name == "steering_success":
        return steering.steering_success({"4 blocks": RNG.random((3, LAYERS))})
    if name == "gates":
        mask = np.arange(STEPS) < np.array([[STEPS], [7]])
        return gates.gates(RNG.random((2, STEPS)), np.stack([SUBGOAL, SUBGOAL]), mask, 0.5)
    if name == "gates_without_labels":
        return gates.gates(RNG.random((2, STEPS)), None, np.ones((2, STEPS), bool))
    if name == "paths":
        place = np.cumsum(RNG.normal(size=(2, STEPS + 1, 2)), axis=1) / 4
        cells = np.array([[-1.5, 0.5], [0.5, 1.5]])
        shown = paths.Paths(
            place=place[:, :-1],
            last_place=place[:, -1],
            colours=np.stack([cells, -cells]),
            walls=np.zeros((2, 1, 2)) + 0.5,
            code=RNG.random((2, STEPS, 4)),
            switch=RNG.random((2, STEPS)) < 0.3,
            mask=np.arange(STEPS) < np.array([[STEPS], [7]]),
        )
        return paths.draw_paths(shown, 4)
    if name == "rl_curves":
        episodes = np.arange(10) * 1000
        curves = {
            "internal RL": learning.Curve(episodes, RNG.random((3, 10)), evaluated=0.625),
            "raw actions": learning.Curve(episodes, np.zeros((1, 10)), "1 run"),
        }
        return learning.rl_curves(curves)
    if name == "injected_codes":
        return encoder_injection.injected_codes(
            {"at the start": {"injected": 0.8, "uncontrolled": 0.2}}
        )
    variance = np.append(np.arange(1.0, 9.0), np.nan)
    raw = np.stack([variance, 2 * variance])
    return credit.draw_variance({"code actions": np.ones((2, 9)), "raw actions": raw})


@pytest.mark.parametrize(
    "name",
    [
        "pretraining_curve",
        "probe_beliefs",
        "probe_accuracy",
        "steering_success",
        "gates",
        "gates_without_labels",
        "paths",
        "rl_curves",
        "injected_codes",
        "gradient_variance",
    ],
)
def test_figure_is_written_with_labelled_axes(name):
    figure = draw(name)
    labels = [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes]
    assert any(labels)
    pixels = np.asarray(Image.open(io.BytesIO(drawing.as_png(figure))).convert("L"))
    assert pixels.min() < 100 < pixels.max()
    assert min(pixels.shape) > 200


def line_of(axes, label):
    return next(line for line in axes.get_lines() if line.get_label().startswith(label))


@pytest.mark.parametrize("name", ["probe_accuracy", "rl_curves"])
def test_what_is_told_below_a_figure_fits_into_it(name):
    figure = draw(name)
    words = "; ".join(f"{age},000 updates: 3 runs, 3 base models" for age in range(6))
    drawing.tell(figure, f"{words}\nAnother line")
    figure.canvas.draw()
    width, _ = figure.canvas.get_width_height()
    text = figure.legends[-1].get_title() if figure.legends else figure._supxlabel
    box = text.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= width and text.get_text().endswith("\nAnother line")
    assert f"{words} Another line." in drawing.told(figure)


def variance_of(*codes):
    """The figure of runs with these variances at the first step, which then doubles thrice."""
    growth = 2.0 ** np.arange(4)
    found = [
        {
            "gradient_code": code * growth,
            "gradient_raw": code * growth**2,
            "gradient_code_score": growth,
            "gradient_raw_score": 3 * growth**2,
        }
        for code in codes
    ]
    seeds = [
        SeedResults("internal_rl", seed, {}, (), artifacts) for seed, artifacts in enumerate(found)
    ]
    return credit.figures({"internal_rl": seeds})["gradient_variance"]


def test_variance_of_the_gradient_is_that_of_all_runs_with_a_success():
    figure = variance_of(1.0, 4.0, 0.0, 9.0)
    code, growth = (line_of(panel, "code actions").get_ydata() for panel in figure.axes)
    np.testing.assert_allclose(code, [4, 8, 16, 32])
    np.testing.assert_allclose(growth, [1, 2, 4, 8])
    np.testing.assert_allclose(line_of(figure.axes[1], "raw").get_ydata(), [1, 4, 16, 64])
    told = drawing.told(figure)
    assert "over 3 runs" in told and "1 without a success left out" in told
    # Without any success the scores are all there is to see.
    figure = variance_of(0.0, 0.0)
    np.testing.assert_allclose(line_of(figure.axes[0], "raw actions, A = 1").get_ydata()[0], 3)
    assert "2 runs" in drawing.told(figure) and "left out" not in drawing.told(figure)


def test_zero_success_is_drawn_at_one_success_in_all_episodes_that_were_run():
    figure = draw("rl_curves")
    # Three runs of 9,000 episodes; the other way to learn has one.
    raw = line_of(figure.axes[1], "raw actions").get_ydata()
    np.testing.assert_allclose(raw, 1 / 27_000)
    assert "one success in 27k episodes" in drawing.told(figure)
    assert not line_of(figure.axes[0], "raw actions").get_ydata().any()


def test_the_legend_shows_the_success_of_evaluations():
    labels = [text.get_text() for text in draw("rl_curves").legends[0].get_texts()]
    assert labels == ["internal RL, 3 runs: evaluated 0.625", "raw actions, 1 run: not evaluated"]


def test_curves_are_divided_by_the_success_of_the_expert_and_say_so():
    success = np.linspace(0.1, 0.4, 4)
    curves = {"internal RL": learning.Curve(np.arange(1, 5) * 100, success[None])}
    figure = learning.rl_curves(curves, expert=0.8)
    for panel in figure.axes:
        np.testing.assert_allclose(line_of(panel, "internal RL").get_ydata(), success / 0.8)
        assert "over that of the expert" in panel.get_ylabel()
    assert "Divided by the expert's success on the post-training task, 0.8" in drawing.told(figure)


def test_curves_show_median_and_quartiles_over_runs():
    success = np.random.default_rng(1).random((5, 4))
    figure = learning.rl_curves({"internal RL": learning.Curve(np.arange(1, 5), success)})
    panel = figure.axes[0]
    median = line_of(panel, "internal RL").get_ydata()
    np.testing.assert_allclose(median, np.sort(success, axis=0)[2])
    ends = panel.collections[0].get_paths()[0].vertices[:, 1]
    assert {*np.sort(success, axis=0)[[1, 3]].ravel()} <= {*ends}


def test_paths_are_drawn_to_where_the_last_step_led():
    place = np.array([[[-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]])
    shown = paths.Paths(
        place=place,
        last_place=np.array([[1.0, 1.0]]),
        colours=np.zeros((1, 1, 2)),
        walls=np.zeros((1, 0, 2)),
        code=np.eye(3)[None],
        switch=np.array([[True, False, True]]),
        mask=np.ones((1, 3), bool),
    )
    panel = paths.draw_paths(shown, 4).axes[0]
    lines = panel.collections[0]
    assert lines.get_segments()[-1].tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert len(lines.get_segments()) == len(lines.get_colors()) == 3


@pytest.mark.parametrize("count", [1, 8, 13])
def test_palette_has_as_many_different_colours_as_asked(count):
    assert len({tuple(np.atleast_1d(colour)) for colour in drawing.palette(count)}) == count
