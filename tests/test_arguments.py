"""What the doors for Python refuse, and in which words."""

import copy
import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import internal_rl as irl
from internal_rl import pretrained
from internal_rl.acting.episodes import NoControl, act
from internal_rl.analysis.study import Study
from internal_rl.analysis.sweeps.sweep import Sweep
from internal_rl.errors import ConfigError, StageMissingError
from internal_rl.models.blocks import registered_blocks
from internal_rl.stages.catalogue import register_stage
from internal_rl.testing.episodes import random_actions
from internal_rl.training.loggers import register_logger
from internal_rl.types import ActionSpec, ObservationSpec

KEY = jax.random.key(0)
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def agent():
    return irl.load("gridworld-pinpad/small")


@pytest.fixture(scope="module")
def episodes(agent):
    return agent.rollout(2, KEY, keep=["action"], num_slots=1)


CODE = np.zeros(8)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"num_episodes": 0}, "num_episodes is 0, allowed is a whole number from 1 on"),
        ({"num_episodes": 2.5}, "num_episodes is 2.5, allowed is"),
        ({"num_episodes": True}, "num_episodes is True, allowed is"),
        ({"key": 0}, "key is 0, allowed is one key"),
        ({"key": jax.random.split(KEY)}, r"key is an array \(2,\) of key<fry>, allowed is one"),
        ({"key": jnp.zeros(3, jnp.uint32)}, r"key is an array \(3,\) of uint32, allowed is one"),
        ({"keep": ("observations",)}, "keep contains 'observations', allowed are 'observation'"),
        ({"keep": "reward"}, "keep is 'reward', allowed is a tuple of some of 'observation'"),
        ({"inject": CODE, "at_step": -1}, "at_step is -1, allowed is .* from 0 to 49, a step"),
        ({"inject": CODE, "at_step": 50}, "at_step is 50, allowed is .* from 0 to 49"),
        ({"inject": CODE, "at_step": 1.0}, "at_step is 1.0, allowed is"),
        ({"at_step": 3}, "at_step is 3 without inject, allowed is both or none"),
        ({"inject": CODE * np.nan}, "inject holds NaN or infinity, allowed are finite"),
        ({"inject": np.zeros(3)}, r"inject has the shape \(3,\), allowed is \(8,\)"),
        ({"inject": "left"}, r"inject is 'left', allowed is an array \(8,\)"),
        ({"inject": CODE, "control": NoControl()}, "inject and control are both given"),
        ({"control": "none"}, "control is 'none', which has no num_keys, allowed is a control"),
        ({"num_slots": -1}, "num_slots is -1, allowed is a whole number from 0 on"),
        ({"deterministic": "no"}, "deterministic is 'no', allowed are True and False"),
        ({"free_running": 1}, "free_running is 1, allowed are True and False"),
        ({"task": (9, 9)}, r"task is \[9, 9\], allowed are one or more colours, 0 to 4"),
        ({"task": 0}, r"task has shape \(\), allowed is \(K,\)"),
    ],
)
def test_rollouts_name_the_argument_that_does_not_fit(agent, arguments, words):
    with pytest.raises(ValueError, match=words):
        agent.rollout(**({"num_episodes": 2, "key": KEY} | arguments))


def test_codes_may_be_whole_numbers_and_keys_of_the_older_kind(agent):
    options = {"keep": ("visit",), "num_slots": 1}
    told = agent.rollout(2, KEY, inject=[0] * 8, **options)
    numbers = {"at_step": jnp.int32(0), "deterministic": np.bool_(False)}
    same = agent.rollout(jnp.int32(2), jax.random.PRNGKey(0), inject=CODE, **numbers, **options)
    np.testing.assert_array_equal(told.visit, same.visit)


def test_codes_and_their_moment_may_be_traced(agent):
    options = {"keep": ("visit",), "num_slots": 1}

    def visits(code, step):
        return agent.rollout(2, KEY, inject=code, at_step=step, **options).visit

    both = jax.vmap(visits, (None, 0))(jnp.ones(8), jnp.array([0, 3]))
    for step, found in zip((0, 3), both, strict=True):
        np.testing.assert_array_equal(found, visits(np.ones(8), step))


def test_episodes_without_what_is_asked_for_say_so(agent, episodes):
    for ask in (agent.residuals, agent.discover):
        with pytest.raises(ValueError, match="no observation, allowed are those .* in `keep`"):
            ask(episodes)
    for name, lacking in (("returns", "reward"), ("success", "reward"), ("furthest", "progress")):
        with pytest.raises(ValueError, match=f"have no {lacking}, allowed are"):
            getattr(episodes, name)


def test_pictures_of_nothing_are_refused(tmp_path):
    for count in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"count is {count}, allowed is a whole number from 1"):
            irl.studies.gates(None, count=count)
    for show in (irl.studies.table, irl.studies.figures):
        with pytest.raises(ValueError, match="nothing to show, allowed are work directories of r"):
            show(tmp_path / "typo")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"observation_spec": ObservationSpec("bernoulli", 7)}, "observations of kind bernoulli"),
        ({"observation_spec": ObservationSpec("gaussian", 294)}, "observations of kind gaussian"),
        ({"action_spec": ActionSpec("gaussian", 4)}, "actions of kind gaussian and size 4"),
        ({"time_limit": 51}, "episodes of the world last 51 steps, allowed are up to 50"),
    ],
)
def test_worlds_that_the_model_cannot_act_in_are_told(agent, change, words):
    world = copy.copy(agent.world)
    for name, value in change.items():
        setattr(world, name, value)
    with pytest.raises(ValueError, match=words):
        agent.replace(world=world).rollout(2, KEY)


def test_observations_of_another_world_are_told(agent, episodes):
    others = episodes.replace(observation=jnp.zeros((2, 50, 3), jnp.uint8))
    for ask in (agent.residuals, agent.discover):
        with pytest.raises(ValueError, match="observations of size 3, allowed is"):
            ask(others)


@pytest.mark.parametrize("layer", [-1, 5, 1.5, True])
def test_residuals_name_the_layers_there_are(agent, episodes, layer):
    with pytest.raises(ValueError, match=f"layer is {layer}, allowed is .* from 0 to 4"):
        agent.residuals(episodes, layer=layer)


def test_worlds_whose_tasks_end_all_episodes_do_not_run_freely(agent):
    class Ending:
        time_limit = 3

    with pytest.raises(ValueError, match="free_running: tasks end all episodes of this world"):
        act(Ending(), agent.model, NoControl(), (), KEY, free_running=True)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            {"stages": "pretrain"},
            r"stages: 'pretrain' given, .* names of stages, as \['pretrain'\]",
        ),
        ({"stages": 1}, "stages: 1 given, allowed is a list of names of stages"),
        ({"upstream": "runs/base"}, "upstream: 'runs/base' given, allowed is a list of work dir"),
        ({"upstream": pathlib.Path("runs")}, "upstream: 'runs' given, allowed is a list of work"),
        ({"loggers": "tensorboard"}, "loggers: 'tensorboard' given, allowed is a list of names"),
    ],
)
def test_lists_are_not_one_name(tmp_path, arguments, words):
    with pytest.raises(ConfigError, match=words):
        irl.run_stages({}, tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_upstream_is_a_list_at_every_door(tmp_path):
    studies = irl.studies
    doors = (studies.learning, studies.figures, studies.table, studies.report)
    for door in (*doors, lambda workdir, upstream: studies.sweep(workdir, "selection", upstream)):
        with pytest.raises(ConfigError, match="upstream: 'base' given, allowed is a list of work"):
            door(tmp_path, upstream="base")
    with pytest.raises(ConfigError, match="upstream: 'base' given, allowed is a list of work"):
        irl.load(tmp_path, upstream="base")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a world that is never made."""

    size: int = 3


@dataclasses.dataclass(frozen=True)
class Named:
    """Settings whose field would hide the name of the world."""

    name: str = "mine"


@dataclasses.dataclass(frozen=True)
class Nested:
    """Settings that come back from a file as something else."""

    walls: Any = Settings()


def nested(walls):
    return {"config": Nested, "presets": {"small": Nested(walls)}}


WORLD = {"name": "wrong", "make": object, "config": Settings, "presets": {"small": Settings()}}


@pytest.mark.parametrize(
    "given, words",
    [
        ({"name": ""}, "name of a world is '', allowed is a text"),
        ({"make": "World"}, "make of world 'wrong' is 'World', allowed is a function"),
        ({"config": Settings()}, "config of wrong is .*, allowed is a frozen dataclass"),
        ({"presets": {}}, "presets of wrong are {}, allowed are one or more"),
        ({"presets": [Settings()]}, r"presets of wrong are \[.*, allowed are one or more"),
        (
            {"presets": {"small": {"size": 3}}},
            "preset 'small' of wrong is .* allowed is a Settings",
        ),
        ({"data": 3}, "data of world 'wrong' is 3, allowed is a function"),
        (
            {"config": Named, "presets": {"small": Named()}},
            "config of wrong has the field 'name', allowed are others",
        ),
        (nested(Settings()), r"preset 'small' of wrong has walls = Settings\(size=3\), allowed"),
        (nested(np.zeros(2)), r"preset 'small' of wrong has walls = array.*, allowed are"),
        (nested([{1, 2}]), r"preset 'small' of wrong has walls = \[\{1, 2\}\], allowed are"),
    ],
)
def test_worlds_are_registered_with_what_makes_them(given, words):
    with pytest.raises(ValueError, match=words):
        irl.register_world(**(WORLD | given))
    with pytest.raises(ValueError, match="environment name is 'wrong'"):
        irl.make_world("wrong")


def test_blocks_and_loggers_are_registered_with_functions():
    with pytest.raises(ValueError, match="make of block 'wrong' is None, allowed is a function"):
        irl.register_block("wrong", None)
    assert "wrong" not in registered_blocks()
    with pytest.raises(ValueError, match="make of logger 'wrong' is 'w', allowed is a function"):
        register_logger("wrong", "w")


@pytest.mark.parametrize(
    "given, words",
    [
        ({"name": 3}, "name of a study is 3, allowed is a text"),
        (
            {"stages": "metacontroller"},
            "stages of study 'wrong' are 'metacontroller', allowed is a",
        ),
        ({"stages": 5}, "stages of study 'wrong' are 5, allowed is a tuple of names"),
        ({"needs": "scene"}, "needs of study 'wrong' is 'scene', allowed is a tuple of some of"),
        ({"needs": frozenset({"places"})}, "needs of study 'wrong' contains 'places', allowed are"),
        ({"measure": 3}, "measure of study 'wrong' is 3, allowed is a function"),
        ({"figures": {}}, "figures of study 'wrong' is {}, allowed is a function"),
    ],
)
def test_studies_are_made_of_what_they_ask_for(given, words):
    with pytest.raises(ValueError, match=words):
        Study(**({"name": "wrong", "stages": ("pretrain",)} | given))


@pytest.mark.parametrize("needs", [["scene"], ("scene",), {"scene"}])
def test_needs_of_a_study_may_stand_in_any_order(needs):
    assert Study("right", ["pretrain"], needs=needs).needs == frozenset({"scene"})


def test_what_is_registered_as_a_study_is_one():
    with pytest.raises(ValueError, match="study is 'gates', allowed is a Study"):
        irl.register_study("gates")
    with pytest.raises(ValueError, match="sweep is 'selection', allowed is a Sweep"):
        irl.register_sweep("selection")
    with pytest.raises(ValueError, match="stage is 'late', allowed is a StageSpec"):
        register_stage("late")
    with pytest.raises(ValueError, match="runs of sweep 'wrong' is None, allowed is a function"):
        irl.register_sweep(Sweep("wrong", "Wrong", None, print, print))


def test_install_names_the_stages_that_are_shipped(tmp_path):
    told = "no 'steer' of gridworld-pinpad/small is shipped, allowed are metacontroller, pretrain"
    with pytest.raises(StageMissingError, match=told):
        pretrained.install("gridworld-pinpad", "small", tmp_path, "steer")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["own_world.py", "own_block.py"])
def test_examples_tell_how_they_are_called(name):
    process = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True)
    assert process.returncode == 1 and f"python examples/{name} runs/" in process.stderr
    assert "Traceback" not in process.stderr


def test_worlds_that_cannot_be_hashed_are_acted_in(agent):
    class Changing(type(agent.world)):
        __hash__ = None

    world = copy.copy(agent.world)
    world.__class__ = Changing
    options = {"keep": ("action",), "num_slots": 1}
    found = agent.replace(world=world).rollout(2, KEY, **options)
    np.testing.assert_array_equal(found.action, agent.rollout(2, KEY, **options).action)


def test_codes_are_inferred_with_what_the_last_step_led_to_in_view(agent):
    episodes = agent.rollout(2, KEY, num_slots=1)
    found, length = agent.discover(episodes), episodes.length
    assert found.code.shape == (*episodes.active.shape, 8)
    infer = jax.jit(lambda *row: agent.model.infer(*row))
    # One episode at a time as a row of the data: its steps and one more token.
    for k, key in enumerate(jax.random.split(jax.random.key(0), 2)):
        steps = int(length[k])
        row = jnp.concatenate([episodes.observation[k, :steps], episodes.last_observation[k, None]])
        padded = jnp.zeros((51, row.shape[1]), row.dtype).at[: steps + 1].set(row)
        segment = jnp.where(jnp.arange(51) <= steps, 0, -1)
        alone = infer(padded[None], segment[None], key)
        np.testing.assert_allclose(found.mean[k, :steps], alone.mean[0, :steps], atol=1e-5)
    blind = agent.discover(episodes.replace(last_observation=None))
    assert np.abs(blind.mean - found.mean).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ObservationSpec("bernoulli", (7, 7, 3)), r"observation size is \(7, 7, 3\), "),
        (lambda: ObservationSpec("gaussian", 0), "observation size is 0, allowed is a whole numb"),
        (lambda: ActionSpec("gaussian", 2.0), "action size is 2.0, allowed is a whole number"),
        (lambda: ActionSpec("categorical", True), "action size is True, allowed is a whole"),
        (lambda: ActionSpec("gaussian", 2, -np.inf, np.inf), "low, high are -inf, inf, allowed"),
        (lambda: ActionSpec("gaussian", 2, np.zeros(2), np.ones(2)), "one of each for all dimens"),
        (lambda: ActionSpec("gaussian", 2, 1.0, 1.0), "low, high are 1.0, 1.0, .* low below high"),
    ],
)
def test_specs_that_no_model_can_have_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_random_actions_go_beyond_both_bounds():
    actions = random_actions(ActionSpec("gaussian", 2, 2.0, 10.0), KEY, (500,))
    assert 0.0 <= actions.min() < 1.0 and 11.0 < actions.max() <= 12.0


@pytest.mark.parametrize("given", ["yes", 1])
def test_whether_a_policy_acts_is_true_or_false(given):
    with pytest.raises(ConfigError, match=f"policy: {given!r} given, allowed are True and False"):
        irl.load("gridworld-pinpad/small", policy=given)
    with pytest.raises(StageMissingError, match="internal_rl seed_0 is not shipped"):
        irl.load("gridworld-pinpad/small", policy=True)


def test_a_report_of_some_studies_names_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="only: 'gates' given, allowed is a list of names of st"):
        irl.studies.report(tmp_path, only="gates")
    with pytest.raises(ConfigError, match="--only: .*'moon'"):
        irl.studies.report(tmp_path, only=["moon"])
