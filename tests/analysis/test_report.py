"""The report of a work directory whose stages are made up."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from internal_rl.analysis import drawing, report, study
from internal_rl.analysis.learning import episodes_to
from internal_rl.analysis.rate_distortion import loss_accounting
from internal_rl.analysis.results import read_run, read_sweep, stacked_curves, standing
from internal_rl.analysis.study import Animation, Study, register_study
from internal_rl.analysis.table import Row, Table, format_markdown
from internal_rl.errors import StorageError
from internal_rl.training.metrics import MetricsWriter
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.stage_directory import StageDirectory
from tests.stores import store

LAYERS, STEPS, SUBGOALS = 3, 10, 4
RNG = np.random.default_rng(0)


def write_stage(workdir, stage, seed, config, lines, artifacts=None, reads=None):
    directory = StageDirectory(workdir, stage, seed, reads)
    directory.begin(StageConfig(config), [seed])
    writer = MetricsWriter(directory.path, 0)
    for step, values in lines:
        writer.write(step, values, wall_time=0.0)
    writer.close()
    if artifacts:
        directory.save_artifacts(artifacts)
    directory.finish(lines[-1][0])
    directory.release()


def metacontroller_lines(nll, kl, f1):
    values = {"loss": nll + 0.3 * kl, "action_nll": nll, "kl": kl, "f1": f1}
    evaluation = {f"evaluation/{name}": value for name, value in values.items()}
    references = {"reference/bayes": 0.2, "reference/goal_given": 0.05}
    return [(10, values | evaluation | references | {"seconds": 3.0})]


RL_CONFIG = {
    section: {"episodes_per_update": 100, "evaluation_episodes": 500}
    for section in ("internal_rl", "raw_rl")
}


def rl_lines(success):
    return [
        (step, {"success": value, "seconds": 2.0}) for step, value in enumerate(success, start=1)
    ]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    pretrain = [
        (
            step,
            {
                "action_nll": 1 / step,
                "evaluation/action_nll": 1.1 / step,
                "reference/bayes": 0.1,
                "reference/goal_blind": 0.6,
                "seconds": 1.0,
            },
        )
        for step in (1, 2, 4)
    ]
    sampled = {"sampled_success": 0.0, "unseen_transition_rate": 0.005}
    write_stage(path, "pretrain", 0, {"pretrain": {"batch_size": 32}}, pretrain, sampled)
    for seed in range(2):
        probe = {
            "accuracy": np.array([0.3, 0.6, 0.5]) + 0.01 * seed,
            "accuracy_by_time": RNG.random((LAYERS, STEPS)),
            "example_beliefs": RNG.random((LAYERS, 20, SUBGOALS)),
            "example_subgoal": np.repeat([0, 3, 1, 2], 5),
            "example_segment": np.repeat([0, 1], 10),
        }
        line = [(5, {"loss": 1.0, "seconds": 1.0})]
        write_stage(path, "probe", seed, {"probe": {"base_step": 0}}, line, probe)
    write_stage(path, "steer", 0, {}, line, {"success": np.array([0.1, 0.8, 0.2])})
    codes = {
        "decoding_accuracy": np.array(0.9),
        "example_beta": RNG.random((2, STEPS)),
        "example_subgoal": np.tile(np.arange(STEPS) // 4, (2, 1)),
        "example_mask": np.ones((2, STEPS), bool),
        **{
            f"injection_{visits}_reach_{arm}": np.array(rate)
            for visits in (0, 1)
            for arm, rate in (("injected", 0.8), ("prior", 0.3), ("uncontrolled", 0.2))
        },
    }
    config = {"metacontroller": {"alpha": 0.3}}
    for seed, f1 in enumerate((0.95, 0.91, 0.5)):
        lines = metacontroller_lines(0.06, 0.2, f1)
        write_stage(path, "metacontroller", seed, config, lines, codes)
    lines = metacontroller_lines(0.01, 0.5, 0.2)
    write_stage(path, "metacontroller_forced", 0, config, lines)
    other = {"metacontroller": {"alpha": 1.0}}
    lines = metacontroller_lines(0.15, 0.02, 0.4)
    write_stage(path / "sweep" / "alpha_1", "metacontroller", 0, other, lines)
    gradient = {
        f"gradient_{name}": np.arange(1.0, 6.0)
        for name in ("code", "raw", "code_score", "raw_score")
    }
    for seed in range(3):
        success = {"success": np.array(0.7 + 0.1 * seed)}
        lines = rl_lines([0.0, 0.1, 0.4, 0.6 + 0.1 * seed])
        write_stage(path, "internal_rl", seed, RL_CONFIG, lines, success | gradient)
    write_stage(path, "raw_rl", 0, RL_CONFIG, rl_lines([0.0, 0.0, 0.0]))
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
        "rate_distortion.png",
        "code_injection.png",
        "reinforcement_learning.png",
        "gradient_variance.png",
        "table.md",
        "table.csv",
        "summary.json",
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
    assert "Loss accounting" in text
    assert "| raw actions, episodes to success 0.3 | never | never to never | never | – | 1" in text
    assert "Highest success at first: none, all medians over runs are 0 (internal RL 0" in text


def test_every_figure_says_on_how_many_runs_it_stands(workdir):
    for name, figure in report.report_figures(read_sweep(workdir)).items():
        told = " ".join([drawing.told(figure), *map(Text.get_text, figure.findobj(Text))])
        assert re.search(r"\d+ runs?\b.*, \d+ base model", told), name


def test_success_rates_have_an_interval_over_their_episodes(workdir):
    row = next(r for r in report.table_rows(read_run(workdir)) if r.key == "internal_rl_success")
    assert row.episodes == (500, 500, 500)
    rate, episodes, (low, high) = row.rates[0]
    assert (rate, episodes) == (0.7, 500) and low < 0.7 < high
    markdown = format_markdown([row])
    assert (
        "| internal RL, success on the task | 0.8 | 0.75 to 0.85 | 0.8 | 0.7 to 0.9 | 3 | 1 |"
        in (markdown)
    )
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
    assert [results.base for results in seeds] == [0, 1, 2, 3, 0, 1]
    assert standing(seeds) == "6 runs, 4 base models"
    assert standing(seeds[:1]) == "1 run (seed 0), 1 base model"


def test_base_models_are_those_that_the_runs_tell(tmp_path):
    for seed in range(2):
        write_stage(tmp_path, "pretrain", seed, {}, [(1, {"loss": 0.5})])
    told = [{"metacontroller": 0, "pretrain": 1}, {"metacontroller": 1, "pretrain": 1}, None]
    for seed, reads in enumerate(told):
        lines = [(1, {"evaluation/success": 0.5})]
        write_stage(tmp_path, "internal_rl", seed, RL_CONFIG, lines, reads=reads)
    drawn = {"metacontroller": {"base_from": "random", "alpha": 0.1}}
    write_stage(tmp_path, "metacontroller_cotrained", 0, drawn, [(1, {"loss": 0.5})])
    run = read_run(tmp_path)
    # The last one is of a time before that was written down.
    assert [results.base for results in run["internal_rl"]] == [1, 1, 0]
    assert run["metacontroller_cotrained"][0].base is None
    row = next(r for r in report.table_rows(run) if r.key == "internal_rl_success")
    assert row.bases == (1, 1, 0) and row.base_models == 2
    report.write_report(tmp_path)
    with open(tmp_path / "report" / "table.csv") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert rows["internal_rl_success"]["base model by seed"] == "1 1 0"


def test_the_ant_is_measured_against_its_expert(tmp_path):
    expert = {"post_training/success": 0.8, "pretraining/success": 0.9}
    write_stage(tmp_path, "expert", 0, {"expert": {"evaluation_episodes": 1000}}, [(1, expert)])
    write_stage(tmp_path, "internal_rl", 0, RL_CONFIG, rl_lines([0.0, 0.4]))
    run = read_run(tmp_path)
    figure = report.report_figures([run])["reinforcement_learning"]
    assert figure.axes[0].get_lines()[0].get_ydata()[-1] == pytest.approx(0.5)
    row = next(r for r in report.table_rows(run) if r.key == "expert_post_training_success")
    assert row.values == (0.8,) and row.episodes == (1000,)


def test_partial_run_is_reported_without_what_is_missing(tmp_path):
    write_stage(tmp_path, "raw_rl", 0, RL_CONFIG, rl_lines([0.0, 0.1]))
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
    write_stage(tmp_path, "internal_rl", 0, RL_CONFIG, rl_lines([0.1, 0.2, 0.3]))
    write_stage(tmp_path, "internal_rl", 1, RL_CONFIG, rl_lines([0.4, 0.5]))
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
            figures=lambda runs: {"mine": Figure()},
            animations=lambda run: {"mine": Animation(frames, 0.1)},
            text=lambda run: "What it means.\n",
        )
    )
    write_stage(tmp_path, "raw_rl", 0, RL_CONFIG, rl_lines([0.0, 0.1]))
    assert report.write_report(tmp_path)["raw_rl_mine"] == 1.0
    folder = tmp_path / "report"
    assert (folder / "mine.png").exists()
    assert (folder / "mine.gif").exists()
    assert "What it means." in (folder / "table.md").read_text()


def test_studies_that_a_stage_left_out_are_named(tmp_path):
    skipped = {study.SKIPPED: np.array(["study paths left out: scene missing"])}
    write_stage(tmp_path, "raw_rl", 0, RL_CONFIG, rl_lines([0.0, 0.1]), skipped)
    report.write_report(tmp_path)
    text = (tmp_path / "report" / "table.md").read_text()
    assert text.endswith("\n\n- raw_rl: study paths left out: scene missing\n")


def test_a_variant_that_nobody_has_named_is_reported_under_its_own_name(tmp_path):
    write_stage(tmp_path, "internal_rl_my_gate", 0, RL_CONFIG, rl_lines([0.0, 0.1]))
    report.write_report(tmp_path)
    assert "internal RL, my gate, episodes" in (tmp_path / "report" / "table.md").read_text()


def test_a_table_shows_itself_and_gives_its_numbers():
    table = Table.of({"f1": 0.5}, {"f1": "F1 of the switches"})
    assert table.as_dict() == {"f1": 0.5}
    assert "| F1 of the switches | 0.5 |" in str(table)


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
