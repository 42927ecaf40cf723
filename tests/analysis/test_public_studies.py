"""Figures and tables from Python, of an agent and of what was found about episodes."""

import types

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from internal_rl import studies
from internal_rl.analysis import steering as steering_study
from internal_rl.analysis.examples import example_trajectories
from internal_rl.analysis.steering import SteeringResult
from internal_rl.errors import ConfigError
from internal_rl.experts.dataset import Dataset
from internal_rl.methods import probing, steering
from internal_rl.stages.sizes import SIZES

SHORT = {"steps": 2, "log_every": 1, "checkpoint_every": 1, "evaluate_every": 0}


@pytest.fixture(scope="module")
def agent(world, obedient):
    return types.SimpleNamespace(world=world, model=obedient)


@pytest.fixture(scope="module")
def found(batch):
    """Expert trajectories as episodes, with codes that are scores of their subgoals."""
    batch = jax.device_get(batch)
    arrays = {"observation": batch.observation, "subgoal": batch.subgoal}
    episodes = example_trajectories(arrays, batch.segment, batch.mask, 20)
    subgoal, active = episodes["subgoal"], episodes["mask"]
    begins = np.diff(subgoal, axis=1, prepend=-1) != 0
    code = np.eye(4, dtype=np.float32)[subgoal] * active[..., None]
    return types.SimpleNamespace(
        observation=episodes["observation"],
        subgoal=np.where(active, subgoal, -1),
        active=active,
        code=code,
        mean=code,
        kl=code[..., 0],
        beta=(begins & active).astype(np.float32),
    )


def unlabelled(found):
    return types.SimpleNamespace(**vars(found) | {"subgoal": None})


def test_gates_are_drawn_with_and_without_subgoals(found):
    assert len(studies.gates(found, count=3).axes) == 3
    assert isinstance(studies.gates(unlabelled(found)), Figure)


def test_switches_of_a_perfect_gate_are_told(found):
    table = studies.switching(found)
    assert table.as_dict()["f1"] == 1.0
    assert "F1 within 1 step " in str(table)
    assert "F1 within 5 steps " in str(studies.switching(found, tolerance=5))
    with pytest.raises(ValueError, match="subgoal of what was found is None"):
        studies.switching(unlabelled(found))
    constant = types.SimpleNamespace(**vars(found) | {"subgoal": 0 * found.subgoal})
    with pytest.raises(ValueError, match="found holds no change of subgoal, allowed are episodes"):
        studies.switching(constant)


def test_perfect_codes_are_decoded(agent, found):
    table = studies.codes(agent, found)
    assert table.as_dict()["decoding_accuracy"] == 1.0
    assert table.as_dict()["active_units"] == 4
    assert "dimensions of the code in use" in str(table)


def test_perfect_codes_lead_to_their_place(agent, found):
    figure = studies.encoder_injection(agent, found, num_episodes=64)
    injected = [bar.get_height() for bar in figure.axes[0].containers[0]]
    uncontrolled = [bar.get_height() for bar in figure.axes[0].containers[2]]
    assert injected[0] > 0.7 > 0.5 > uncontrolled[0]


def test_paths_are_drawn_where_the_world_tells_a_scene(agent, found):
    assert len(studies.paths(agent, found, count=2).axes) == 2


def test_a_world_that_tells_too_little_is_refused_in_one_line(world, found):
    class Blind:
        post_training_task = world.post_training_task
        reset = staticmethod(world.reset)

    agent = types.SimpleNamespace(world=Blind(), model=None)
    with pytest.raises(ValueError, match="study paths: this world does not tell scene; allowed"):
        studies.paths(agent, found)
    with pytest.raises(ValueError, match="study injection: .* layouts, .*"):
        studies.injection(agent)


def test_the_base_model_is_sampled(agent):
    assert studies.base_success(agent, num_episodes=16) == 0.0
    table = studies.transitions(agent, num_episodes=16).as_dict()
    assert table["transitions"] > 0


def test_probes_are_trained_and_drawn(world, steered, source):
    agent = types.SimpleNamespace(world=world, model=steered)
    config = probing.Config(batch_size=8, evaluation_rows=6, **SHORT)
    drawn = studies.probe(agent, source, config=config)
    assert set(drawn) == {"probe_accuracy", "probe_beliefs"}


def test_controllers_are_trained_and_their_success_is_drawn(world, steered, source, monkeypatch):
    trained = []

    def examine(world, model, layers, num_episodes):
        trained.extend(layers)
        return SteeringResult(np.array([0.1, 0.6, 0.2]), None, None)

    monkeypatch.setattr(steering_study, "examine_controllers", examine)
    agent = types.SimpleNamespace(world=world, model=steered)
    config = steering.Config(rank=2, batch_size=8, num_parts=1, evaluation_episodes=8, **SHORT)
    figure = studies.steering(agent, source, config=config)
    assert all(np.any(np.asarray(layer.write)) for layer in trained)
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_ydata(), [0.1, 0.6, 0.2])


@pytest.mark.parametrize("stage", ["probe", "steer"])
def test_trainings_that_nobody_sets_are_near_the_preset_small(stage):
    config = {"probe": studies._PROBING, "steer": studies._STEERING}[stage].as_dict()
    preset = SIZES["small"][stage]
    schedules = {"log_every", "evaluate_every", "checkpoint_every", "steps_per_call"}
    for name in preset.keys() - schedules - {"evaluation_episodes"}:
        assert config[name] == preset[name], name


def test_arrays_of_the_host_are_copied_to_the_device_once():
    class Method:
        config, frozen = types.SimpleNamespace(steps=3), {"data": np.ones(4), "more": None}
        init = staticmethod(lambda key, frozen: frozen["data"].sum())
        update = staticmethod(lambda state, frozen: (state + frozen["data"].sum(), {}))
        params = staticmethod(lambda state: state)

    key = jax.random.key(0)
    # Only what is asked for by `device_put` may go there.
    with jax.transfer_guard_host_to_device("disallow"):
        trained = studies._train(Method(), key)
    assert trained == 16.0


@pytest.mark.parametrize("study", [studies.probe, studies.steering])
def test_data_of_another_world_are_refused(world, steered, study):
    agent = types.SimpleNamespace(world=world, model=steered)
    steps = np.zeros((4, 5), int)
    source = Dataset.from_arrays(np.zeros((4, 6, 3), np.uint8), steps, np.full(4, 5), steps)
    with pytest.raises(ValueError, match=r"observations have the shape \(3,\), allowed is \("):
        study(agent, source)


def test_a_work_directory_without_the_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to show, allowed are runs with internal_rl"):
        studies.learning(tmp_path)
    with pytest.raises(ConfigError, match="the study rate_distortion has not been begun there"):
        studies.sweep(tmp_path, "rate_distortion")


def test_everything_that_is_public_has_a_docstring():
    for name in studies.__all__:
        assert getattr(studies, name).__doc__, name
