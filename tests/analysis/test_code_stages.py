"""Studies of every stage that finds codes: rows and figures of each, under its name."""

import numpy as np
import pytest

from internal_rl.analysis import code_stages, drawing, gates, injection, paths, report
from internal_rl.analysis.results import SeedResults
from internal_rl.methods.code_finding import CODE_STAGES
from tests.analysis.test_injection import WORLD

OWN = "own_codes"
EXAMPLES = {
    "example_beta": np.linspace(0, 1, 12).reshape(2, 6),
    "example_mask": np.ones((2, 6), bool),
    "example_code": np.ones((2, 6, 3)),
    "example_place": np.zeros((2, 6, 2)),
    "example_colours": np.zeros((2, 6, 2, 2)),
    "example_walls": np.zeros((2, 6, 1, 2)),
    "f1": np.array(0.5),
}


def seeds_of(stage):
    return [SeedResults(stage, 0, {"environment": WORLD}, [], EXAMPLES)]


@pytest.fixture
def own(monkeypatch):
    """A stage of a user's own is among those that find codes."""
    monkeypatch.setattr(code_stages, "CODE_STAGES", [*CODE_STAGES, OWN])
    return OWN


def test_every_stage_that_finds_codes_has_figures_of_its_own(own):
    run = {stage: seeds_of(stage) for stage in ("metacontroller", "compile", own)}
    found = gates.figures(run) | paths.figures(run)
    assert set(found) == {
        f"{name}{ending}" for name in ("gates", "paths") for ending in ("", "_compile", f"_{own}")
    }
    assert drawing.told(found["gates"]).startswith("1 run (seed 0)")
    assert drawing.told(found[f"gates_{own}"]).startswith(f"{own}: 1 run (seed 0)")
    assert set(gates.figures({own: seeds_of(own)})) == {f"gates_{own}"}


def test_rows_of_codes_carry_the_name_of_their_stage(own):
    rows = report.table_rows({own: seeds_of(own)})
    (row,) = [row for row in rows if row.key == f"{own}_switching_f1"]
    assert row.median == 0.5 and row.label == f"{own}: F1 of the switches"


def test_captions_hold_for_the_figures_of_all_stages():
    captions = injection.STUDY.captions
    for name in ("code_injection", "injected_paths"):
        assert captions[f"{name}_{OWN}"] == captions[name] and len(captions[name]) > 40
    assert captions.get("gates", "none") == "none" and len(captions) == 2
