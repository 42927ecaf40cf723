"""The paper's tests of codes, with a model that walks to the colour its residual stream names."""

import types

import jax
import numpy as np
import pytest

from internal_rl import studies
from internal_rl.analysis import code_tests, sampled_codes
from internal_rl.analysis.injected_paths import next_visit, pairs_of
from internal_rl.analysis.sampled_codes import Rollouts
from internal_rl.methods.code_tests import CodeTestSettings
from internal_rl.types import Scene

SETTINGS = CodeTestSettings(source_layouts=3, source_steps=6, injection_step=5)
RNG = np.random.default_rng(0)
# Mostly no visit.
VISIT = np.where(RNG.random((40, 12)) < 0.8, -1, RNG.integers(0, 3, (40, 12)))
CODE = RNG.normal(size=(40, 12, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def found(world, obedient):
    return code_tests.examine_codes(world, obedient, jax.random.key(0), 96, SETTINGS)


def test_codes_of_a_model_that_obeys_lead_to_their_colour(found, world):
    step, unseen = found.reached["step"], found.reached["unseen"]
    assert found.found.sum() > 20 and (found.found > 0).all()
    assert 80 < step.total <= 96 and 0 < unseen.total <= 96
    assert step.rate("with") > 0.75 > 0.5 > step.rate("without")
    assert unseen.rate("with") > 0.7 > 0.5 > unseen.rate("without")
    # Never to the place visited last, and in the second test along unseen transitions alone.
    assert not step.tried[:4].diagonal().any()
    taken = set(zip(*np.nonzero(unseen.tried), strict=True))
    assert taken == world.unseen_transitions == {(0, 1), (1, 2), (2, 3)}
    for reached in found.reached.values():
        assert (reached.with_code <= reached.tried).all()
        assert (reached.without_code <= reached.tried).all()


def test_pairs_differ_from_the_injection_on_alone(found):
    pairs = found.pairs
    assert len(pairs.target) == 3
    for i, step in enumerate(pairs.step):
        assert step == 5
        np.testing.assert_array_equal(pairs.place[0, i, : step + 1], pairs.place[1, i, : step + 1])
        without, with_code = next_visit(pairs.visit[:, i], np.array([step, step]))
        assert with_code == pairs.target[i] != without


def test_the_next_seed_is_examined_by_the_same_programs(found, world, obedient, monkeypatch):
    assert found.found.sum() > 0

    def traced(*_):
        raise AssertionError("a program is made again")

    for name in ("step", "step_without_task", "start_without_task"):
        if hasattr(type(world), name):
            monkeypatch.setattr(type(world), name, traced)
    again = code_tests.examine_codes(world, obedient, jax.random.key(1), 96, SETTINGS)
    assert again.found.sum() > 0
    # Other sizes are other programs.
    with pytest.raises(AssertionError, match="made again"):
        code_tests.examine_codes(world, obedient, jax.random.key(1), 95, SETTINGS)


def test_codes_come_from_rollouts_that_visit_a_single_colour():
    layout = np.arange(40, dtype=np.uint32)
    bank = sampled_codes.codes_at_single_visits(VISIT, CODE, layout, 9)
    kept = 0
    for number in range(40):
        visits = [(t, int(place)) for t, place in enumerate(VISIT[number, :9]) if place >= 0]
        places = {place for _, place in visits}
        if len(places) != 1:
            assert bank.goal[number] == -1
            continue
        kept += 1
        assert bank.goal[number] == visits[0][1] and bank.layout[number] == number
        np.testing.assert_array_equal(bank.code[number], CODE[number, visits[0][0]])
    assert kept > 5


def rollouts_of(visit, moments):
    """Rollouts of 12 steps at most; `moments`: into which a code is put, when, and of what."""
    length = RNG.integers(6, 13, len(visit))
    target = np.full(visit.shape, -1)
    for number, (step, place) in moments.items():
        target[number, step:] = place
    active = np.arange(visit.shape[1]) < length[:, None]
    # As everything that is recorded of episodes: zero behind their end.
    return Rollouts(active, np.where(active, visit, -1), None, np.where(active, target, 0), None)


def test_next_visits_are_counted_as_in_a_plain_loop():
    moments = {
        number: (int(RNG.integers(0, 6)), int(RNG.integers(0, 3))) for number in range(0, 40, 2)
    }
    arms = {arm: rollouts_of(VISIT, moments) for arm in code_tests.ARMS}
    reached = code_tests.count_reached(arms, 3)
    for arm, table in (("with", reached.with_code), ("without", reached.without_code)):
        expected, tried = np.zeros((4, 3)), np.zeros((4, 3))
        for number, (step, place) in moments.items():
            visits = [int(x) for x in arms[arm].visit[number]]
            last = next((x for x in reversed(visits[:step]) if x >= 0), 3)
            after = next((x for x in visits[step:] if x >= 0), None)
            tried[last, place] += 1
            expected[last, place] += after == place
        np.testing.assert_array_equal(table, expected)
        np.testing.assert_array_equal(reached.tried, tried)
    assert reached.total == 20 and 0 < reached.hits("with") < 20


def test_episodes_in_which_the_code_decides_are_shown_first():
    visit = np.full((5, 8), -1)
    with_code = visit.copy()
    with_code[[1, 3], 4] = 2
    place = np.zeros((5, 8, 2))
    active = np.ones((5, 8), bool)
    arms = {
        arm: Rollouts(active, x, None, None, place)
        for arm, x in (("with", with_code), ("without", visit))
    }
    scene = Scene(None, np.arange(5)[:, None, None] + np.zeros((5, 3, 2)), np.zeros((5, 1, 2)))
    pairs = pairs_of(arms, (np.full(5, 2), np.array([-1, 2, 2, 2, 2])), scene)
    assert pairs.colours[:, 0, 0].tolist() == [1, 3, 2]


def test_the_moment_fits_the_world():
    settings = CodeTestSettings()
    assert [settings.injection_moment(limit) for limit in (500, 100, 50)] == [30, 30, 16]
    assert [settings.source_length(limit) for limit in (500, 100, 3)] == [100, 20, 1]
    assert CodeTestSettings(source_steps=7).source_length(500) == 7


def test_from_python_both_figures_are_drawn(found, world, obedient, monkeypatch):
    agent = types.SimpleNamespace(world=world, model=obedient)
    monkeypatch.setattr(studies, "examine_codes", lambda *arguments: found)
    assert set(studies.injection(agent)) == {"code_injection", "injected_paths"}
