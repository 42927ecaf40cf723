"""What is decoded from codes, and which of their dimensions are in use."""

import types

import jax
import numpy as np
import pytest

from internal_rl.analysis import codes
from internal_rl.analysis.code_bank import CodeBank
from internal_rl.types import Trajectory


def make_bank(informative, num_codes=800):
    rng = np.random.default_rng(0)
    subgoal = rng.integers(0, 4, num_codes)
    code = rng.normal(size=(num_codes, 3)).astype(np.float32)
    if informative:
        code += 6.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])[subgoal]
    return CodeBank(code, subgoal, np.zeros(num_codes, np.uint32))


def test_goals_are_decoded_from_codes_that_hold_them():
    result = codes.decoding_accuracy(make_bank(True), 4, jax.random.key(0))
    assert result.decoding_accuracy > 0.95
    assert result.decoding_majority < 0.4


def test_nothing_is_decoded_from_noise():
    result = codes.decoding_accuracy(make_bank(False), 4, jax.random.key(0))
    assert result.decoding_accuracy < 0.35


def test_an_empty_bank_is_refused():
    with pytest.raises(ValueError, match="bank holds 1 codes"):
        codes.decoding_accuracy(make_bank(True, 1), 4, jax.random.key(0))


def test_a_stage_with_too_little_held_out_has_no_accuracy(monkeypatch):
    ones = np.ones((1, 4), bool)
    context = types.SimpleNamespace(
        examination_keys={"split": jax.random.key(0)},
        world=types.SimpleNamespace(num_subgoals=4),
        discovery=types.SimpleNamespace(mean=np.zeros((1, 4, 3))),
        rows=Trajectory(None, None, None, ones, 0 * ones, 0 * ones),
    )
    for num_codes in (1, 2):
        monkeypatch.setattr(codes, "bank_of", lambda _, num=num_codes: make_bank(True, num))
        measured = codes.measure(context)
        assert np.isnan(measured["decoding_accuracy"]) == (num_codes == 1)
        assert measured["active_units"] == 0


def test_active_units_are_those_whose_mean_varies_where_goals_begin():
    rng = np.random.default_rng(0)
    subgoal = rng.integers(0, 3, (4, 30))
    segment = np.repeat(np.arange(4), 30).reshape(4, 30) // 2
    mask = rng.random((4, 30)) < 0.9
    mean = rng.normal(0.5, [1.0, 0.3, 0.09, 0.0], (4, 30, 4))
    kept = [
        mean[b, t]
        for b in range(4)
        for t in range(30)
        if mask[b, t]
        and (t == 0 or segment[b, t] != segment[b, t - 1] or subgoal[b, t] != subgoal[b, t - 1])
    ]
    units = codes.active_units(mean, Trajectory(None, None, None, mask, subgoal, segment))
    np.testing.assert_allclose(units.code_variance, np.var(kept, axis=0), rtol=1e-4, atol=1e-9)
    assert units.active_units == 2
