"""Numbers of any size in any field: taken, or refused by name; what is taken stays finite."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internal_rl.envs import tasks
from internal_rl.envs.ant import AntWorldConfig
from internal_rl.envs.gridworld import GridWorldConfig
from internal_rl.errors import ConfigError
from internal_rl.methods import compile, discovery
from internal_rl.models.sequence_embedding import later_in_segment
from internal_rl.section import LARGEST_WHOLE, SettingError
from internal_rl.stages.catalogue import section_types
from internal_rl.stages.config_file import load_config
from internal_rl.stages.settings import Settings

FIELDS = [
    (section, field.name)
    for section in section_types().values()
    for field in dataclasses.fields(section)
]
VALUES = (
    st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.booleans()
    | st.none()
    | st.text(max_size=5)
    | st.lists(st.integers() | st.floats(), max_size=3).map(tuple)
)


@settings(max_examples=500, deadline=None)
@given(field=st.sampled_from(FIELDS), value=VALUES)
def test_a_value_of_any_kind_is_taken_or_refused_by_name(field, value):
    section, name = field
    try:
        section(**{name: value})
    except SettingError as error:
        assert error.field and "allowed" in error.problem


@settings(max_examples=200, deadline=None)
@given(
    world=st.sampled_from([GridWorldConfig, AntWorldConfig]),
    index=st.integers(0, 30),
    value=VALUES,
)
def test_a_value_of_a_world_is_taken_or_refused_by_name(world, index, value):
    fields = dataclasses.fields(world)
    name = fields[index % len(fields)].name
    try:
        world(**{name: value})
    except ValueError as error:
        assert "allowed" in str(error) and " is " in str(error)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (discovery.Config, {"learning_rate": 1e30}, "learning_rate: 1e.30 given, allowed is above"),
        (discovery.Config, {"final_learning_rate": 1e30}, "final_learning_rate: .* up to 1000"),
        (discovery.Config, {"b1": 1 - 1e-9}, "b1: .* below 1"),
        (discovery.Config, {"temperature": 1e-40}, "temperature: 1e-40 given, allowed is above 0"),
        (discovery.Config, {"min_log_std": 3.0}, "min_log_std: 3.0 .* below max_log_std = 2.0"),
        (discovery.Config, {"initial_log_std": 5.0}, "initial_log_std: .* to max_log_std = 2.0"),
        (discovery.Config, {"embedding_slowness": 1e38}, "embedding_slowness: .* up to 16"),
        (compile.Config, {"prior_rate": 1e-40}, "prior_rate: 1e-40 given, allowed is above 0"),
        (compile.Config, {"code_weight": 1e38}, "code_weight: .* 0 to 1000000"),
        (
            discovery.Config,
            {"gate_open_steps": 2**30, "gate_release_steps": 2**30},
            f"gate_release_steps: .* up to {LARGEST_WHOLE - 2**30} behind gate_open_steps",
        ),
    ],
)
def test_what_32_bits_cannot_be_computed_with_is_refused(section, values, message):
    with pytest.raises(SettingError, match=message):
        section(**values)


@pytest.mark.parametrize("preset", ["../..", "a" * 3_000, "a/b", 3])
def test_a_preset_is_a_name(preset):
    config = load_config("configs/gridworld.py:smoke").to_dict()
    with pytest.raises(ConfigError, match="config.preset: .* allowed is the name of a preset"):
        Settings.read(config | {"preset": preset})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_colour_distance": 13}, "min_colour_distance is 13, allowed is up to 12"),
        ({"min_line_distance": 1}, "min_line_distance is 1, allowed is up to 0"),
        ({"clear_rectangles": True}, "allowed is False with more than 4 colours"),
    ],
)
def test_what_no_layout_can_hold_is_refused_before_any_is_drawn(fields, message):
    with pytest.raises(ValueError, match=message):
        GridWorldConfig(num_layouts=4, **fields)


def test_the_largest_task_sets_are_numbered_soon():
    found = tasks.task_set("pair-walks:54:3:0-1")
    assert 18_000 < len(found.pretraining) <= tasks.MAX_WALKS
    started = time.monotonic()
    ids = [found.subgoal_ids(task) for task in found.pretraining]
    assert ids[0] == tuple(colour // 2 for colour in found.pretraining[0])
    assert time.monotonic() - started < 10


def test_a_gap_beyond_the_row_reads_its_end():
    x, segment = np.arange(6.0).reshape(1, 6, 1), np.array([[0, 0, 0, 1, 1, 1]])
    for gap in (6, LARGEST_WHOLE):
        assert later_in_segment(x, segment, gap).ravel().tolist() == [2, 2, 2, 5, 5, 5]
