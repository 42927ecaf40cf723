"""What an agent tells of its episodes, and of the data that its model learnt from."""

import dataclasses
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import internal_rl as irl
from internal_rl.agent import Agent
from internal_rl.experts.data_section import DataSection
from internal_rl.training_data import TrainingData
from tests.acting.steered import CODE_SIZE, make_model, make_world

KEY = jax.random.key(0)
SHIPPED = pathlib.Path(irl.__file__).parent / "pretrained"


@pytest.fixture(scope="module")
def agent():
    return Agent(make_world(), make_model())


@pytest.fixture(scope="module")
def episodes(agent):
    found = agent.rollout(8, KEY, num_slots=8)
    length = np.asarray(found.length)
    assert length.min() < length.max()
    return found


def test_nothing_is_found_behind_the_end_of_an_episode(agent, episodes):
    found = agent.discover(episodes)
    running = np.asarray(episodes.active)
    for name in ("beta", "code", "mean", "kl"):
        values = np.asarray(getattr(found, name))
        assert np.any(values[running]) and not np.any(values[~running]), name
    # The first step of each episode is a switch.
    assert (np.asarray(found.beta)[:, 0] == 1).all()


def test_above_the_controlled_layer_steered_episodes_have_no_residuals(agent, episodes):
    steered = agent.rollout(8, KEY, inject=jnp.ones(CODE_SIZE), num_slots=8)
    words = "layer is 2 for episodes under a control, which recorded beta, held, target, allowed is"
    with pytest.raises(ValueError, match=f"{words} 0 to 1, the controlled layer"):
        agent.residuals(steered, layer=2)
    assert agent.residuals(episodes, layer=2).shape == (*episodes.active.shape, 16)
    for layer in (0, 1):
        assert np.isfinite(agent.residuals(steered, layer=layer)).all()


def test_codes_are_found_at_the_layer_of_the_metacontroller_alone(agent, episodes):
    elsewhere = agent.replace(model=agent.model.at_layer(2))
    with pytest.raises(ValueError, match="this agent has no metacontroller"):
        elsewhere.discover(episodes)
    same = agent.replace(model=agent.model.at_layer(1))
    np.testing.assert_array_equal(same.discover(episodes).code, agent.discover(episodes).code)


def shipped_data(name):
    stage = SHIPPED / name / "small" / "metacontroller" / "seed_0"
    return TrainingData.of_config(json.loads((stage / "config.json").read_text())["config"])


def test_shipped_models_know_the_data_that_they_learnt_from():
    data = irl.load("gridworld-pinpad/small").data
    assert data == shipped_data("gridworld-pinpad")
    assert data.world_name == "gridworld-pinpad" and not data.collected
    found = data.section
    assert (found.ties, found.clean_ties) == ("axis", "axis")
    assert (found.sequence_length, found.trajectories_per_row) == (128, 5.5)
    assert TrainingData.of_config({"environment": {}}) is None


def test_data_of_an_agent_are_made_with_the_settings_of_its_training(agent):
    section = DataSection(
        sequence_length=64, trajectories_per_row=5.0, ties="axis", clean_ties="fork"
    )
    agent = agent.replace(data=TrainingData("gridworld-pinpad", section))
    for role, ties in (("pretraining", "axis"), ("clean", "fork")):
        source = agent.make_data(role)
        assert source.world is agent.world and source.ties == ties
        assert (source.sequence_length, source.trajectories_per_row) == (64, 5.0)
        assert not source.include_terminal
    other = agent.make_data("curriculum", tasks="032", include_terminal=True, sequence_length=80)
    assert other.sequence_length == 80 and other.include_terminal
    np.testing.assert_array_equal(other.tasks, [[0, 3, 2]])


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ({}, {"role": "testing"}, "role is 'testing', allowed are pretraining, clean, curriculum"),
        ({}, {"tasks": "032"}, "tasks are '032', allowed is '' for the role 'pretraining'"),
        ({}, {"rows": 3}, "rows: unknown field, allowed are clean_epsilon"),
        ({}, {"ties": "all"}, "ties: 'all' given, allowed is"),
        ({"collected": True}, {}, "data of gridworld-pinpad are on disk, .* stage collect leaves"),
    ],
)
def test_data_that_cannot_be_made_are_refused(agent, change, arguments, words):
    data = TrainingData("gridworld-pinpad", DataSection(sequence_length=64))
    agent = agent.replace(data=dataclasses.replace(data, **change))
    with pytest.raises(ValueError, match=words):
        agent.make_data(**arguments)


def test_the_data_of_the_ant_are_known_to_be_collected(agent):
    data = shipped_data("ant-pinpad")
    assert data.collected and data.section.sequence_length == 512
    with pytest.raises(ValueError, match="data of ant-pinpad are on disk"):
        agent.replace(data=data).make_data()
    with pytest.raises(ValueError, match="data of this agent is None, allowed is an agent that"):
        agent.make_data()


def test_arrays_that_are_none_of_the_world_are_refused(agent, monkeypatch):
    def foreign(request):
        assert isinstance(request.settings, DataSection) and request.role == "clean"
        numbers = np.zeros((4, 3, 2), np.uint8)
        return irl.Dataset.from_arrays(numbers, np.zeros((4, 3), int), np.full(4, 3))

    entry = types.SimpleNamespace(make_data=foreign)
    monkeypatch.setattr("internal_rl.experts.source_checks.world_entry", lambda name: entry)
    agent = agent.replace(data=TrainingData("gridworld-pinpad", DataSection()))
    with pytest.raises(ValueError, match=r"observations have the shape \(2,\), allowed is"):
        agent.make_data("clean")
