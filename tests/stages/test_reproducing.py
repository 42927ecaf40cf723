"""A whole run with the studies over several runs."""

import pytest

from configs import ant, gridworld
from internal_rl.errors import ConfigError, UserError
from internal_rl.stages import reproducing, running
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings

OF_THE_METHOD = {
    *("ablation_age", "ablation_weight_decay", "ablation_observation_loss", "ablation_noise"),
    *("layer_by_depth", "rate_distortion"),
}


@pytest.fixture(scope="module")
def grid():
    return Settings.read(gridworld.get_config("smoke"))


@pytest.fixture(scope="module")
def legs():
    return Settings.read(ant.get_config("smoke"))


def names(sweeps):
    return {sweep.name for sweep in sweeps}


def test_all_studies_of_the_method_are_made_that_a_world_allows(grid, legs):
    assert names(reproducing.chosen_sweeps(grid)) == OF_THE_METHOD
    assert names(reproducing.chosen_sweeps(legs)) == OF_THE_METHOD - {"ablation_noise"}


def test_studies_are_made_that_are_asked_for(grid, legs):
    assert names(reproducing.chosen_sweeps(grid, ["selection", "gates"])) == {"selection"}
    assert not reproducing.chosen_sweeps(grid, ["gates"])
    with pytest.raises(ConfigError, match="--only=ablation_noise: .*collect"):
        reproducing.chosen_sweeps(legs, ["ablation_noise"])


def test_stages_that_a_study_reads_are_made_before(grid, legs):
    needed = running.needed_stages
    # A study within a run has this name too, and looks at every metacontroller.
    shown = {f"metacontroller{name}" for name in ("", "_forced", "_unaligned", "_cotrained")}
    assert needed(legs, ["rate_distortion"]) == {"expert", "collect", "pretrain", *shown}
    assert needed(legs, ["ablation_weight_decay"]) == {"expert", "collect"}
    assert needed(grid, ["rate_distortion"]) == {"pretrain", *shown}
    # Its own runs make the metacontrollers.
    assert needed(grid, ["selection"]) == {"pretrain"}
    assert needed(grid, ["selection", "probe"]) >= {"pretrain", "probe"}


def test_a_study_that_fails_does_not_stop_the_others(grid, tmp_path, monkeypatch):
    done = []

    def run_sweep(sweep, settings, places):
        done.append(sweep.name)
        if sweep.name == "layer_by_depth":
            raise UserError("1 of 2 runs failed: depth3: no space")

    monkeypatch.setattr(reproducing, "run_sweep", run_sweep)
    monkeypatch.setattr(reproducing.running, "run_all", lambda *given: done.append(given[-1]))
    monkeypatch.setattr(reproducing.running, "report", lambda *_, **__: done.append("report"))
    with pytest.raises(UserError, match="study layer_by_depth: 1 of 2 runs failed"):
        reproducing.reproduce(grid, Places(tmp_path), ["layer_by_depth", "rate_distortion"])
    only = ["layer_by_depth", "rate_distortion"]
    assert done == [only, "layer_by_depth", "rate_distortion", "report"]
    done.clear()
    reproducing.reproduce(grid, Places(tmp_path), only, with_sweeps=False)
    assert done == [only]


def test_unknown_studies_are_refused_before_anything_is_made(grid, tmp_path):
    with pytest.raises(ConfigError, match="--only: 'moon' given, allowed are"):
        reproducing.reproduce(grid, Places(tmp_path / "run"), ["moon"])
    assert not (tmp_path / "run").exists()
