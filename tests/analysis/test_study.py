"""Studies of a stage: which there are, which are left out, and what they measure.

What they measure of a whole run: `tests/stages/test_stages.py`.
"""

import dataclasses
import logging
import types

import jax
import numpy as np
import pytest

from internal_rl.analysis import study
from internal_rl.analysis.study import Study, StudyContext, measure_stage, register_study
from internal_rl.methods import discovery, internal_rl, pretraining, probing, raw_action
from internal_rl.types import Timestep
from tests.marks import quick

SHORT = {"steps": 1, "log_every": 1, "checkpoint_every": 1, "evaluate_every": 0}
ROWS = SHORT | {"batch_size": 8, "num_parts": 1, "evaluation_rows": 6, "evaluation_episodes": 16}


class PlainWorld:
    """The same world with nothing but the protocol."""

    def __init__(self, world):
        self.observation_spec, self.action_spec = world.observation_spec, world.action_spec
        self.time_limit, self.post_training_task = world.time_limit, world.post_training_task
        self._world = world

    def _plain(self, state, timestep):
        return state, Timestep(timestep.observation, timestep.reward, timestep.done)

    def reset(self, key, task):
        return self._plain(*self._world.reset(key, task))

    def step(self, state, action):
        return self._plain(*self._world.step(state, action))


@pytest.fixture(scope="module")
def plain(world):
    return PlainWorld(world)


@pytest.fixture(scope="module")
def unlabelled(source):
    """The same source without labels."""

    class Unlabelled:
        labelled, arrays = False, None
        trajectories_per_row = source.trajectories_per_row
        sequence_length = source.sequence_length
        init = staticmethod(source.init)

        @staticmethod
        def next(position, arrays):
            position, batch = source.next(position, arrays)
            return position, batch.replace(subgoal=None)

        @staticmethod
        def held_out(key, num_rows, arrays):
            return source.held_out(key, num_rows, arrays).replace(subgoal=None)

    return Unlabelled()


def context_of(world, model, method, source=None):
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    return StudyContext(world, model, method, state, method.frozen, source)


def discovery_context(world, steered, source):
    config = discovery.Config(
        code_size=3, rank=2, history_size=8, embedding_size=8, layer=1, **ROWS
    )
    method = discovery.CodeDiscovery(config, steered.alone(), source)
    return context_of(world, steered, method, source)


@pytest.mark.slow
def test_a_variant_is_measured_like_its_stage(world, steered, source):
    context = discovery_context(world, steered, source)
    own, varied = (
        measure_stage(name, context) for name in ("metacontroller", "metacontroller_forced")
    )
    assert set(varied) == set(own)
    np.testing.assert_array_equal(varied["f1"], own["f1"])


def test_studies_that_lack_something_are_left_out_in_one_line_each(
    plain, steered, unlabelled, caplog
):
    context = discovery_context(plain, steered, unlabelled)
    with caplog.at_level(logging.INFO):
        results = measure_stage("metacontroller", context)
    assert set(results) == {"example_beta", "example_code", "example_mask", study.SKIPPED}
    lines = results[study.SKIPPED].tolist()
    assert "study codes left out: labels, subgoals missing" in lines
    assert "study paths left out: scene missing" in lines
    assert len(lines) == 6


def test_the_base_model_is_measured_with_what_the_world_tells(plain, model, source):
    method = pretraining.Pretraining(
        pretraining.Config(snapshot_steps=(), **ROWS), model.base, source
    )
    less = measure_stage("pretrain", context_of(plain, model, method, source))
    assert set(less) == {"sampled_success", "sampled_episodes", study.SKIPPED}


def test_probes_are_measured_by_layer_time_and_age(world, model, source):
    config = probing.Config(batch_size=8, evaluation_rows=6, **SHORT)
    method = probing.Probing(config, model, source, world.num_subgoals, world.time_limit)
    results = measure_stage("probe_16000", context_of(world, model, method, source))
    layers = model.base.depth + 1
    assert results["accuracy"].shape == results["cross_entropy"].shape == (layers,)
    assert results["accuracy_by_time"].shape == (layers, world.time_limit)
    assert results["accuracy_by_age"].shape == (layers, world.time_limit)
    length = source.sequence_length
    assert results["example_beliefs"].shape == (layers, length, world.num_subgoals)
    assert results["example_subgoal"].shape == results["example_segment"].shape == (length,)
    # Untrained probes find all subgoals equally likely.
    np.testing.assert_allclose(results["cross_entropy"], np.log(world.num_subgoals), rtol=1e-5)


@pytest.mark.parametrize("kind", quick(["internal_rl", "raw_rl"], ["raw_rl"]))
def test_policies_are_measured(world, plain, steered, kind):
    settings = SHORT | {"episodes_per_update": 8, "evaluation_episodes": 16}
    for where in (world, plain):
        if kind == "raw_rl":
            method = raw_action.RawActionRL(raw_action.Config(**settings), where, steered)
        else:
            config = internal_rl.Config(policy_width=16, **settings)
            method = internal_rl.InternalRL(config, where, steered)
        results = measure_stage(kind, context_of(where, steered, method))
        assert 0.0 <= results["success"] <= 1.0
        assert 0.0 <= results["deterministic_success"] <= 1.0
        assert ("progress" in results) == (where is world)
        assert ("episode_beta" in results) == (kind == "internal_rl")
        assert ("gradient_raw_score" in results) == (kind == "internal_rl")
        assert ("episode_place" in results) == (kind == "internal_rl" and where is world)
        assert study.SKIPPED not in results


@pytest.fixture
def registered(monkeypatch):
    """Registers studies for one test."""
    study.all_studies()
    monkeypatch.setattr(study, "_STUDIES", dict(study._STUDIES))
    return register_study


def test_a_study_from_outside_is_measured_with_the_others(world, model, source, registered):
    registered(Study("mine", ("probe",), measure=lambda context: {"mine": context.rows.mask.sum()}))
    config = probing.Config(batch_size=8, evaluation_rows=6, **SHORT)
    method = probing.Probing(config, model, source, world.num_subgoals, world.time_limit)
    context = context_of(world, model, method, source)
    results = measure_stage("probe", context)
    assert results["mine"] == context.rows.mask.sum()
    assert "accuracy" in results


def test_a_study_takes_the_place_of_one_with_its_name(registered):
    registered(Study("probe", ()))
    assert [x.stages for x in study.all_studies() if x.name == "probe"] == [()]


def test_two_studies_may_not_give_the_same_artifact(registered):
    for name in ("one", "two"):
        registered(Study(name, ("somewhere",), measure=lambda context: {"value": np.zeros(1)}))
    with pytest.raises(ValueError, match="study two: value is there already"):
        measure_stage("somewhere", types.SimpleNamespace(known=frozenset()))


def test_fields_become_artifacts_unless_they_are_none():
    @dataclasses.dataclass
    class Result:
        first: int
        second: None = None

    assert study.as_arrays(Result(3), "my_") == {"my_first": 3}
