"""The study of sampled codes: what a stage keeps, and what the report makes of it."""

import numpy as np
import pytest

from internal_rl.analysis import injection
from internal_rl.analysis.code_tests import CodeTests, Reached
from internal_rl.analysis.injected_paths import Pairs
from internal_rl.analysis.results import SeedResults

WORLD = {"name": "gridworld-pinpad", "grid_size": 5, "num_colours": 2, "num_walls": 1}
WORLD |= {"time_limit": 24, "tasks": "walks:2:2:0-1"}


def reached(tried, with_code, without_code):
    tables = [np.zeros((3, 2), np.int32) for _ in range(3)]
    for table, count in zip(tables, (tried, with_code, without_code), strict=True):
        table[0, 1] = count
    return Reached(*tables)


def results(seed, step, unseen=None, codes=(4, 9), pairs=None):
    tests = {"step": reached(*step)} | ({} if unseen is None else {"unseen": reached(*unseen)})
    arrays = injection.arrays_of(CodeTests(np.array(codes), tests, pairs))
    return SeedResults("metacontroller", seed, {"environment": WORLD}, [], arrays)


@pytest.fixture(scope="module")
def run():
    place = np.cumsum(np.ones((2, 3, 24, 2)) * 0.1, axis=2) - 1.0
    visit = np.full((2, 3, 24), -1)
    visit[:, :, 20] = 1
    pairs = Pairs(
        place=place,
        visit=visit,
        active=np.ones((2, 3, 24), bool),
        colours=np.zeros((3, 2, 2)) + np.array([[-2, -2], [1, 1]]),
        walls=np.zeros((3, 1, 2)),
        step=np.full(3, 8),
        target=np.ones(3, int),
    )
    seeds = [
        results(0, (100, 60, 20), (50, 10, 2), pairs=pairs),
        results(1, (100, 40, 30), (50, 20, 4), codes=(0, 3)),
    ]
    return {"metacontroller": seeds}


def test_rows_hold_rates_and_codes_of_every_seed(run):
    rows = {row.key: row for row in injection.rows("metacontroller", run["metacontroller"])}
    prefix = "codes_sampled_code_"
    assert rows[f"{prefix}found"].values == (13.0, 3.0)
    assert rows[f"{prefix}fewest"].values == (4.0, 0.0)
    assert rows[f"{prefix}step_with"].values == (0.6, 0.4)
    assert rows[f"{prefix}unseen_without"].values == (0.04, 0.08)
    variant = injection.rows("metacontroller_forced", run["metacontroller"])
    assert variant[0].key == f"forced_{prefix}found"
    assert rows[f"{prefix}step_with"].episodes == (100, 100)
    assert "(paper, ant: 0.24)" in rows[f"{prefix}unseen_with"].label
    assert all(np.isnan(row.median) for row in injection.rows("metacontroller", []))


def test_text_tells_how_many_codes_were_found(run):
    assert "metacontroller: sampled codes that were kept: 4 of colour 0, 12 of colour 1" in (
        injection.text(run)
    )
    assert injection.text({"pretrain": run["metacontroller"]}) == ""


def test_figures_are_drawn_of_rates_and_paths(run):
    figures = injection.figures(run)
    assert set(figures) == {"code_injection", "injected_paths"}
    heights = [bar.get_height() for bar in figures["code_injection"].axes[0].containers[0]]
    np.testing.assert_allclose(heights, [0.5, 0.3])
    assert len(figures["injected_paths"].axes) == 6
    assert injection.figures({"metacontroller": []}) == {}


def test_a_run_without_codes_has_no_rates():
    empty = {"metacontroller": [results(0, (0, 0, 0), codes=(0, 0))]}
    rows = injection.rows("metacontroller", empty["metacontroller"])
    assert np.isnan(rows[-1].values[0])
    assert injection.figures(empty) == {"code_injection": None, "injected_paths": None}
