"""The report of a work directory whose stages are made up."""

import csv
import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from internal_rl import studies
from internal_rl.analysis import drawing, encoder_injection, report, study
from internal_rl.analysis.learning import episodes_to
from internal_rl.analysis.rate_distortion import loss_accounting
from internal_rl.analysis.results import (
    SeedResults,
    read_run,
    stacked_curves,
    standing,
    success_of_expert,
)
from internal_rl.analysis.study import Animation, Study, register_study
from internal_rl.analysis.table import Row, Table, format_markdown
from internal_rl.checksums import write_checked_json
from internal_rl.errors import ConfigError, StorageError
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_artifacts
from tests.analysis.made_up_run import rl_config, rl_lines, write_run, write_stage
from tests.stores import store


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_run(path)
    return path


def test_full_report_holds_all_figures_and_both_tables(workdir):
    summary = report.write_report(workdir, wall_seconds=12.5)
    folder = workdir / "report"
    assert {path.name for path in folder.iterdir()} == {
        "pretraining.png",
        "probe_beliefs.png",
        "probe_accuracy.png",
        "steering.png",
        "gates.png",
        "encoder_code_injection.png",
        "reinforcement_learning.png",
        "gradient_variance.png",
        "rate_distortion.png",
        "rate_distortion.md",
        "rate_distortion.csv",
        "table.md",
        "table.csv",
        "summary.json",
        report.FILES,
    }
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["internal_rl_success"] == pytest.approx(0.8)
    assert summary["raw_rl_success"] is None
    assert summary["raw_rl_success_at_first"] == 0.0
    assert summary["switching_f1"] == pytest.approx(0.91)
    assert summary["wall_seconds"] == 12.5
    assert summary["pretrain_excess"] == pytest.approx(1.1 / 4 - 0.1)
    assert summary["probe_accuracy_best_layer"] == 1
    assert summary["steering_success_best"] == pytest.approx(0.8)
    assert summary["internal_rl_episodes"] == 400
    assert summary["internal_rl_episodes_to_0.3"] == 300
    assert summary["raw_rl_episodes_to_0.3"] is None
    with open(folder / "table.csv") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert rows["switching_f1"]["values by seed"] == "0.95 0.91 0.5"
    assert float(rows["switching_f1"]["lowest"]) == 0.5
    assert rows["switching_f1"]["runs"] == "3" and rows["switching_f1"]["base models"] == "1"
    text = (folder / "table.md").read_text()
    assert "Loss accounting at alpha 0.3, cheapest first (nats per step); of several runs" in text
    assert "| solution | trained at alpha | NLL | KL | loss | F1 |\n|---|---:|---:|" in text
    assert "| discovered | 0.3 | 0.06 | 0.2 | 0.12 | 0.9" in text
    assert "| no code | – | 0.2 | 0 | 0.2 | – |" in text
    assert "| raw actions, episodes to success 0.3 | never | never to never | never | – | 1" in text
    assert "Highest success at first: none, all medians over runs are 0 (internal RL 0" in text


def test_every_figure_says_on_how_many_runs_it_stands(workdir):
    for name, figure in report.report_figures(read_run(workdir)).items():
        told = " ".join([drawing.told(figure), *map(Text.get_text, figure.findobj(Text))])
        assert re.search(r"\d+ runs?\b.*, \d+ base model", told), name


def test_success_rates_have_an_interval_over_their_episodes(workdir):
    row = next(r for r in report.table_rows(read_run(workdir)) if r.key == "internal_rl_success")
    assert row.episodes == (500, 500, 500)
    rate, episodes, (low, high) = row.rates[0]
    assert (rate, episodes) == (0.7, 500) and low < 0.7 < high
    markdown = format_markdown([row])
    # All three stand on one base model, which says nothing about others.
    assert "| internal RL, success on the task | 0.8 | 0.75 to 0.85 | 0.8 | – | 3 | 1 |" in markdown
    assert f"0.7 ({low:.4g} to {high:.4g}), " in markdown and "| 500 |" in markdown


def test_base_models_are_dealt_out_to_runs_in_turn(tmp_path):
    line = [(1, {"f1": 0.5})]
    for seed in range(4):
        write_stage(tmp_path / "base", "pretrain", seed, {}, line)
    for seed in (0, 1, 2, 3, 4, 5):
        write_stage(tmp_path / "run", "metacontroller", seed, {}, line)
    alone = read_run(tmp_path / "run")["metacontroller"]
    assert [results.base for results in alone] == [None] * 6
    assert standing(alone) == "6 runs"
    seeds = read_run(tmp_path / "run", [tmp_path / "base"])["metacontroller"]
    assert [results.base for results in seeds] == ["0", "1", "2", "3", "0", "1"]
    assert standing(seeds) == "6 runs, 4 base models"
    assert standing(seeds[:1]) == "1 run (seed 0), 1 base model"


def test_base_models_are_those_that_the_runs_tell(tmp_path):
    for seed in range(2):
        write_stage(tmp_path, "pretrain", seed, {}, [(1, {"loss": 0.5})])
    told = [{"metacontroller": 0, "pretrain": 1}, {"metacontroller": 1, "pretrain": 1}, None]
    for seed, reads in enumerate(told):
        lines = [(1, {"evaluation/success": 0.5})]
        write_stage(tmp_path, "internal_rl", seed, rl_config("internal_rl"), lines, reads=reads)
    run = read_run(tmp_path)
    # The last one is of a time before that was written down.
    assert [results.base for results in run["internal_rl"]] == ["1", "1", "0"]
    row = next(r for r in report.table_rows(run) if r.key == "internal_rl_success")
    assert row.bases == ("1", "1", "0") and row.base_models == 2
    report.write_report(tmp_path)
    with open(tmp_path / "report" / "table.csv") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert rows["internal_rl_success"]["base model by seed"] == "1 1 0"


def test_what_is_trained_from_random_parameters_has_base_models_of_its_own(tmp_path):
    line = [(1, {"f1": 0.5})]
    write_stage(tmp_path, "pretrain", 0, {}, line)
    for start, count in (("random", 2), ("pretrained", 1)):
        config = {"metacontroller": {"variant": "cotrained", "base_from": start}}
        for seed in range(2):
            write_stage(tmp_path / start, "metacontroller_cotrained", seed, config, line)
        for seed in range(4):
            write_stage(tmp_path / start, "internal_rl_cotrained", seed, config, line)
        for stage, runs in (("metacontroller_cotrained", 2), ("internal_rl_cotrained", 4)):
            seeds = read_run(tmp_path / start, [tmp_path])[stage]
            models = f"{count} base model{'s' if count > 1 else ''}"
            assert standing(seeds) == f"{runs} runs, {models}"
            own = [f"cotrained/{seed % 2}" for seed in range(runs)]
            assert [seed.base for seed in seeds] == (own if count > 1 else ["0"] * runs)


def write_expert(workdir, *success, seed=0):
    """An expert that was judged after every round."""
    judged = [{"post_training/success": value, "pretraining/success": 0.9} for value in success]
    lines = list(enumerate(judged, 1))
    write_stage(workdir, "expert", seed, {"expert": {"evaluation_episodes": 1000}}, lines)


def test_the_ant_is_measured_against_its_expert(tmp_path):
    write_expert(tmp_path, 0.8)
    write_stage(tmp_path, "internal_rl", 0, rl_config("internal_rl"), rl_lines([0.0, 0.4]))
    run = read_run(tmp_path)
    figure = report.report_figures(run)["reinforcement_learning"]
    assert figure.axes[0].get_lines()[0].get_ydata()[-1] == pytest.approx(0.5)
    row = next(r for r in report.table_rows(run) if r.key == "expert_post_training_success")
    assert row.values == (0.8,) and row.episodes == (1000,)


def write_policies(workdir, tasks):
    """A policy of internal RL and one of raw actions, each on its task, with an expert."""
    write_expert(workdir, 0.8)
    for stage, task in zip(("internal_rl", "raw_rl"), tasks, strict=True):
        config = rl_config(stage)
        config[stage]["task"] = task
        write_stage(workdir, stage, 0, config, rl_lines([0.0, 0.4]))
    return report.report_figures(read_run(workdir))["reinforcement_learning"]


@pytest.mark.parametrize(
    ("tasks", "of", "legend"),
    [
        (("", ""), "success over that of the expert", ("internal RL", "raw actions")),
        (("0-1", "0-1"), "success on task 0-1", ("internal RL", "raw actions")),
        (
            ("", "0-1"),
            "success, each on its task",
            ("internal RL on the post-training task", "raw actions on task 0-1"),
        ),
    ],
)
def test_success_on_another_task_is_not_divided_and_the_task_is_told(tmp_path, tasks, of, legend):
    figure = write_policies(tmp_path, tasks)
    panel = figure.axes[0]
    assert panel.get_ylabel() == of and figure.axes[1].get_ylabel() == f"{of} (log)"
    divided = not any(tasks)
    assert panel.get_lines()[0].get_ydata()[-1] == pytest.approx(0.5 if divided else 0.4)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [f"{name}, 1 run (seed 0): not evaluated" for name in legend]
    assert ("Divided by the expert's success" in drawing.told(figure)) == divided
    assert ("Not divided by the expert's success" in drawing.told(figure)) != divided


def test_a_task_is_told_where_there_is_no_expert(tmp_path):
    config = {"raw_rl": rl_config("raw_rl")["raw_rl"] | {"task": "0-1"}}
    write_stage(tmp_path, "raw_rl", 0, config, rl_lines([0.0, 0.4]))
    figure = studies.learning(tmp_path)
    assert figure.axes[0].get_ylabel() == "success on task 0-1"
    assert "divided" not in drawing.told(figure)


def test_runs_that_are_not_drawn_are_not_counted_and_curves_that_are_cut_say_so(tmp_path):
    write_stage(tmp_path, "internal_rl", 0, rl_config("internal_rl"), rl_lines([0.1, 0.2, 0.3]))
    write_stage(tmp_path, "internal_rl", 1, rl_config("internal_rl"), rl_lines([0.4, 0.5]))
    write_stage(tmp_path, "internal_rl", 2, rl_config("internal_rl"), [(1, {"seconds": 1.0})])
    write_stage(tmp_path, "raw_rl", 0, rl_config("raw_rl"), rl_lines([0.1, 0.2, 0.3]))
    figure = studies.learning(tmp_path)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0].startswith("internal RL, 2 runs:")
    assert "internal RL: drawn to the shortest run, 200 episodes." in drawing.told(figure)
    assert "raw actions: drawn" not in drawing.told(figure)


def test_the_curve_of_pretraining_counts_the_runs_that_have_one(tmp_path):
    config = {"pretrain": {"batch_size": 32}}
    for seed, name in enumerate(("action_nll", "action_nll", "seconds")):
        write_stage(tmp_path, "pretrain", seed, config, [(1, {name: 0.5}), (2, {name: 0.4})])
    figure = report.report_figures(read_run(tmp_path))["pretraining"]
    assert "over 2 runs, 2 base models" in drawing.told(figure)


def test_labels_of_the_table_stand_by_themselves():
    """Tables are sorted, by a click on a head: no row may need the one above it."""
    arrays = dict.fromkeys(encoder_injection.ROW_LABELS, np.array(0.5))
    arrays["sampled_code_found"] = np.array([3, 4])
    for test in ("step", "unseen"):
        for name in ("tried", "with_code", "without_code"):
            arrays[f"sampled_code_{test}_{name}"] = np.array([2])
    lines = [{"step": 1, "evaluation/action_nll": 0.5, "reference/bayes": 0.2}]
    rows = report.table_rows(
        {
            "pretrain": [SeedResults("pretrain", 0, {}, lines, {})],
            "metacontroller": [SeedResults("metacontroller", 0, {}, (), arrays)],
        }
    )
    labels = [row.label for row in rows]
    assert len(labels) >= 3 + 7 + 6 and len(set(labels)) == len(labels)
    assert not [label for label in labels if re.search(r"\bthe same\b|^fewest", label)]


def test_seconds_are_those_of_all_programs(tmp_path):
    """Two seeds of one program, one of another, and a stage with a program of its own."""
    for seed, (seconds, group) in enumerate([(60.0, [0, 1]), (60.0, [0, 1]), (120.0, [2])]):
        config = rl_config("internal_rl")
        write_stage(tmp_path, "internal_rl", seed, config, [(1, {"seconds": seconds})])
        file = tmp_path / f"internal_rl/seed_{seed}/config.json"
        write_checked_json(file, json.loads(file.read_text()) | {"seeds": group})
    write_stage(tmp_path, "raw_rl", 0, rl_config("raw_rl"), [(1, {"seconds": 5.0})])
    write_stage(tmp_path, "probe", 0, {}, [(1, {"loss": 5.0})])
    assert report.write_report(tmp_path)["wall_seconds"] == 60.0 + 120.0 + 5.0


def test_base_models_are_drawn_for_the_intervals_of_the_table(tmp_path):
    """Runs that stand on one base model and are alike say little about other base models."""
    for seed in range(2):
        write_stage(tmp_path, "pretrain", seed, {}, [(1, {"loss": 0.5})])
    for seed, f1 in enumerate((0.2, 0.8, 0.2, 0.8, 0.2, 0.8)):
        write_stage(tmp_path, "metacontroller", seed, {}, [(1, {"evaluation/f1": f1})])
    rows = {row.key: row for row in report.table_rows(read_run(tmp_path))}
    assert rows["switching_f1"].base_models == 2
    assert rows["switching_f1"].summary.interval == pytest.approx((0.2, 0.8))
    assert "| 0.2 to 0.8 | 6 | 2 |" in format_markdown([rows["switching_f1"]])
    alone = dataclasses.replace(rows["switching_f1"], bases=("0",) * 6)
    assert "| – | 6 | 1 |" in format_markdown([alone])


def test_curves_are_divided_by_the_expert_that_data_are_collected_with(tmp_path):
    for seed, success in ((10, 0.2), (2, 0.5), (3, 0.9)):
        write_expert(tmp_path, success, seed=seed)
    write_stage(tmp_path, "internal_rl", 0, rl_config("internal_rl"), rl_lines([0.0, 0.4]))
    assert success_of_expert(read_run(tmp_path)) == 0.5


def test_the_expert_may_lie_upstream_and_counts_as_it_was_judged_last(tmp_path):
    own, near, far = (tmp_path / name for name in ("own", "near", "far"))
    write_stage(own, "internal_rl", 0, rl_config("internal_rl"), rl_lines([0.0, 0.4]))
    write_expert(near, 0.2, 0.5)
    write_expert(far, 0.8)
    # What it was judged in the end was no number: whatever was before does not count.
    write_expert(tmp_path / "odd", 0.5, math.nan)
    nothing = [tmp_path / "odd"]
    for upstream, expert in (
        *(([], math.nan), (nothing, math.nan)),
        *(([far], 0.8), ([near, far], 0.5)),
    ):
        run = read_run(own, upstream)
        assert success_of_expert(run) == pytest.approx(expert, nan_ok=True)
        figure = studies.learning(own, upstream)
        last = figure.axes[0].get_lines()[0].get_ydata()[-1]
        assert last == pytest.approx(0.4 / expert if expert > 0 else 0.4)
    # What is read from upstream is no part of the run.
    assert list(run) == ["internal_rl"]


def test_the_gate_of_compile_stands_beside_the_boundaries_that_it_was_taught(tmp_path):
    found = {"f1": 0.5, "gate_f1": 0.25, "action_nll": 0.1, "code_kl": 2.0, "boundary_kl": 0.3}
    line = {f"evaluation/{name}": value for name, value in found.items()}
    write_stage(tmp_path, "compile", 0, {"compile": {}}, [(10, line)])
    rows = {row.key: row.values[0] for row in report.table_rows(read_run(tmp_path))}
    assert rows == {
        "compile_switching_f1": 0.5,
        "compile_switching_gate_f1": 0.25,
        "compile_losses_action_nll": 0.1,
        "compile_losses_code_kl": 2.0,
        "compile_losses_boundary_kl": 0.3,
    }


def test_partial_run_is_reported_without_what_is_missing(tmp_path):
    write_stage(tmp_path, "raw_rl", 0, rl_config("raw_rl"), rl_lines([0.0, 0.1]))
    summary = report.write_report(tmp_path)
    # Nothing was evaluated: training batches are no evaluation.
    assert summary["raw_rl_success"] is None
    assert summary["raw_rl_success_at_first"] == 0.0
    assert summary["internal_rl_success"] is None
    assert summary["switching_f1"] is None
    assert summary["wall_seconds"] == 2.0
    assert (tmp_path / "report" / "reinforcement_learning.png").exists()
    assert not (tmp_path / "report" / "gates.png").exists()


def test_empty_directory_is_refused_in_one_line(tmp_path):
    with pytest.raises(StorageError, match="nothing to report"):
        report.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_solutions_are_compared_at_the_alpha_of_the_discovered_one(workdir):
    rows = loss_accounting(read_run(workdir))
    losses = {row["name"]: row["loss"] for row in rows}
    assert losses["discovered"] == pytest.approx(0.06 + 0.3 * 0.2)
    assert losses["forced"] == pytest.approx(0.01 + 0.3 * 0.5)
    assert losses["no code"] == pytest.approx(0.2)
    assert losses["ideal goal codes"] == pytest.approx(0.05 + 0.3 * 0.15)


def test_seeds_of_different_length_are_cut_to_the_shortest(tmp_path):
    write_stage(tmp_path, "internal_rl", 0, rl_config("internal_rl"), rl_lines([0.1, 0.2, 0.3]))
    write_stage(tmp_path, "internal_rl", 1, rl_config("internal_rl"), rl_lines([0.4, 0.5]))
    seeds = read_run(tmp_path)["internal_rl"]
    episodes, success = stacked_curves(seeds, "success", against="episodes")
    np.testing.assert_array_equal(episodes, [100, 200])
    np.testing.assert_array_equal(success, [[0.1, 0.2], [0.4, 0.5]])
    assert episodes_to(seeds[1], 0.45) == 200
    assert np.isinf(episodes_to(seeds[1], 0.9))


def test_row_ignores_seeds_without_a_value():
    row = Row("key", "label", (1.0, float("nan"), 3.0))
    assert (row.lowest, row.median, row.highest) == (1.0, 2.0, 3.0)
    assert np.isnan(Row("key", "label", (float("nan"),)).median)


def test_a_seed_that_is_not_measured_yet_keeps_its_place(workdir):
    for stage, seeds in read_run(workdir).items():
        unmeasured = [dataclasses.replace(seeds[0], artifacts={}), *seeds[1:]]
        for row in report.table_rows({stage: unmeasured}):
            assert len(row.values) == len(seeds), row.key


def test_variants_come_behind_their_stage_and_carry_its_name(workdir):
    keys = [row.key for row in report.table_rows(read_run(workdir))]
    assert keys.index("switching_f1") < keys.index("losses_kl") < keys.index("forced_switching_f1")
    assert keys.index("pretrain_excess") < keys.index("probe_accuracy_best")
    assert keys.index("forced_losses_kl") < keys.index("internal_rl_success")


def test_a_study_from_outside_adds_row_figure_animation_and_text(tmp_path, monkeypatch):
    study.all_studies()
    monkeypatch.setattr(study, "_STUDIES", dict(study._STUDIES))
    frames = [np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)]
    register_study(
        Study(
            name="mine",
            stages=("raw_rl",),
            rows=lambda stage, seeds: [Row(f"{stage}_mine", "mine", (float(len(seeds)),))],
            figures=lambda run: {"mine": Figure()},
            animations=lambda run: {"mine": Animation(frames, 0.1)},
            text=lambda run: "What it means.\n",
        )
    )
    write_stage(tmp_path, "raw_rl", 0, rl_config("raw_rl"), rl_lines([0.0, 0.1]))
    assert report.write_report(tmp_path)["raw_rl_mine"] == 1.0
    folder = tmp_path / "report"
    assert (folder / "mine.png").exists()
    assert (folder / "mine.gif").exists()
    assert "What it means." in (folder / "table.md").read_text()


def test_studies_that_a_stage_left_out_are_named(tmp_path):
    skipped = {study.SKIPPED: np.array(["study paths left out: scene missing"])}
    write_stage(tmp_path, "raw_rl", 0, rl_config("raw_rl"), rl_lines([0.0, 0.1]), skipped)
    report.write_report(tmp_path)
    text = (tmp_path / "report" / "table.md").read_text()
    assert text.endswith("\n\n- raw_rl: study paths left out: scene missing\n")


def test_a_variant_that_nobody_has_named_is_reported_under_its_own_name(tmp_path):
    write_stage(tmp_path, "internal_rl_my_gate", 0, rl_config("internal_rl"), rl_lines([0.0, 0.1]))
    report.write_report(tmp_path)
    assert "internal RL, my gate, episodes" in (tmp_path / "report" / "table.md").read_text()


def test_a_table_shows_itself_and_gives_its_numbers():
    table = Table.of({"f1": 0.5}, {"f1": "F1 of the switches"})
    assert table.as_dict() == {"f1": 0.5}
    assert "| F1 of the switches | 0.5 |" in str(table)


def damage(workdir):
    """Harms one file after the other; the words by which each has to be named."""
    pretrain, probe = workdir / "pretrain" / "seed_0", workdir / "probe"
    metrics = pretrain / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + b'[1, 2]\n{"step": 9, "loss": "x"}\n{"step"')
    (probe / "seed_0" / "artifacts.npz").write_bytes(b"PK\x03\x04 and no more")
    shutil.copytree(probe / "seed_1", probe / "seed_1_old")
    (workdir / "steer" / "seed_0" / "config.json").write_text("[]")
    (workdir / "raw_rl" / "seed_0" / "metrics.jsonl").write_bytes(b"")
    (workdir / "raw_rl" / "seed_0" / "versions.json").write_text("{")
    controller = StageDirectory(workdir, "metacontroller", 0)
    arrays = load_artifacts(workdir, "metacontroller", 0)
    controller.save_artifacts(arrays | {"example_beta": np.zeros(3)})
    return (
        "pretrain/seed_0/metrics.jsonl: line 4 is damaged; 2 of 5 lines are left out",
        "probe/seed_0/artifacts.npz: altered since it was written",
        "probe/seed_1_old: left out, allowed are folders seed_0, seed_1",
        "steer/seed_0/config.json: damaged, no object of JSON; put back what it was",
        "raw_rl/seed_0/metrics.jsonl: holds no line, though the stage is finished",
        "raw_rl/seed_0/versions.json: damaged, not JSON; put back what it was",
        "study gates: cannot be shown, its data do not fit (",
    )


def test_what_is_damaged_is_named_and_all_else_is_shown(workdir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workdir, run, ignore=shutil.ignore_patterns("report", ".lock"))
    named = damage(run)
    found = report.gather(run)
    for words in named:
        assert sum(words in fault for fault in found.faults) == 1, (words, found.faults)
    assert len(found.faults) == len(named)
    figures = {picture.name for chapter in found.chapters for picture in chapter.figures}
    whole = {"pretraining", "probe_beliefs", "probe_accuracy", "encoder_code_injection"}
    assert figures == whole | {"reinforcement_learning", "gradient_variance"}
    assert [picture.name for shown in found.sweeps for picture in shown.figures] == [
        "rate_distortion"
    ]
    report.write_report(run)
    assert all(words in (run / "report" / "table.md").read_text() for words in named)


def test_a_reader_that_takes_no_notes_is_told_in_one_line(workdir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workdir / "raw_rl", run / "raw_rl", ignore=shutil.ignore_patterns(".lock"))
    (run / "raw_rl" / "seed_0" / "config.json").write_text("{")
    with pytest.raises(StorageError, match="config.json: damaged, not JSON"):
        read_run(run)
    with pytest.raises(StorageError, match="nothing to report; .*config.json: damaged, not JSON"):
        report.write_report(run)


def test_studies_are_chosen_by_name(workdir):
    found = report.gather(workdir, only=("learning",))
    assert [chapter.study.name for chapter in found.chapters] == ["learning"]
    assert {row.key.partition("_rl_")[0] for row in found.rows} == {"internal", "raw"}
    with pytest.raises(ConfigError, match="--only: 'figure5' given, allowed are .*learning"):
        report.gather(workdir, only=("figure5",))


def test_a_report_of_some_studies_leaves_the_whole_one(workdir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workdir / "raw_rl", run / "raw_rl", ignore=shutil.ignore_patterns(".lock"))
    report.write_report(run)
    whole = {path.name: path.read_bytes() for path in (run / "report").iterdir()}
    report.write_report(run, only=("learning",))
    part = run / "report" / "only"
    assert (part / "reinforcement_learning.png").exists()
    assert whole == {x.name: x.read_bytes() for x in part.parent.iterdir() if x.is_file()}
    # Figures of the part before it do not stay.
    report.write_report(run, only=("gates",))
    assert {path.name for path in part.iterdir()} == {
        *("table.md", "table.csv", "summary.json", report.FILES)
    }


def test_what_a_report_no_longer_holds_is_removed_and_all_else_stays(workdir, tmp_path):
    run = tmp_path / "run"
    for stage in ("raw_rl", "pretrain"):
        shutil.copytree(workdir / stage, run / stage, ignore=shutil.ignore_patterns(".lock"))
    report.write_report(run)
    folder = run / "report"
    assert (folder / "reinforcement_learning.png").exists()
    (folder / "mine.png").write_bytes(b"mine")
    shutil.rmtree(run / "raw_rl")
    (folder / report.FILES).write_text(
        (folder / report.FILES).read_text().replace("[", '["../pretrain", ', 1)
    )
    report.write_report(run)
    assert not (folder / "reinforcement_learning.png").exists()
    assert (folder / "mine.png").read_bytes() == b"mine" and (run / "pretrain").exists()
    (folder / report.FILES).write_text("damaged")
    report.write_report(run)
    assert (folder / "pretraining.png").exists()


@pytest.mark.slow
def test_the_report_of_a_run_on_a_store_is_that_of_its_copy_here(workdir, tmp_path, monkeypatch):
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("report", ".lock"))
    here = report.write_report(tmp_path / "run", wall_seconds=7.0)
    with store(monkeypatch, "gs") as objects:
        for path in workdir.rglob("*"):
            if path.is_file() and "report" not in path.parts:
                objects[f"gs://bucket/run/{path.relative_to(workdir)}"] = path.read_bytes()
        assert report.write_report("gs://bucket/run", wall_seconds=7.0) == here
        written = {name.rpartition("/")[2] for name in objects.below("gs://bucket/run/report")}
        assert written == {path.name for path in (tmp_path / "run" / "report").iterdir()}
        for name in ("table.md", "table.csv", "summary.json"):
            content = (tmp_path / "run" / "report" / name).read_bytes()
            assert objects[f"gs://bucket/run/report/{name}"] == content


def test_curves_are_joined_at_the_steps_that_all_seeds_have(tmp_path):
    def lines(*steps):
        return [(step, {"success": step / 100}) for step in steps]

    # One was stopped at step 3 and went on, one lacks a line.
    write_stage(tmp_path, "internal_rl", 0, rl_config("internal_rl"), lines(3, 4, 8, 12, 16))
    write_stage(tmp_path, "internal_rl", 1, rl_config("internal_rl"), lines(4, 8, 16, 20))
    write_stage(tmp_path, "internal_rl", 2, rl_config("internal_rl"), [(4, {"loss": 1.0})])
    seeds = read_run(tmp_path)["internal_rl"]
    steps, success = stacked_curves(seeds, "success")
    np.testing.assert_array_equal(steps, [4, 8, 16])
    np.testing.assert_allclose(success, [[0.04, 0.08, 0.16]] * 2)
    episodes, _ = stacked_curves(seeds, "success", against="episodes")
    np.testing.assert_array_equal(episodes, [400, 800, 1600])
    assert [len(x) for x in stacked_curves(seeds, "nothing")] == [0, 0]
