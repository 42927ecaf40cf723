"""Tasks, task sets, config files and overrides of any text: read, or one line, and soon."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internal_rl.envs import tasks
from internal_rl.errors import ConfigError
from internal_rl.stages.config_file import DEFAULT_CONFIG, find_config, load_config
from internal_rl.stages.launch import _check_overrides

SIGNS = st.text(st.sampled_from("0123456789-,:walksp \u00b2\u0663x.\n"), max_size=30)


@settings(max_examples=300, deadline=None)
@given(text=SIGNS | st.text(max_size=20))
def test_a_task_is_read_or_refused_in_one_line(text):
    try:
        task = tasks.parse_task(text)
    except ValueError as error:
        assert "allowed" in str(error) and "int()" not in str(error)
    else:
        assert tasks.parse_task(tasks.format_task(task)) == task or len(task) == 1


NUMBERS = st.integers(0, 12) | st.integers(0, 10**30)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["walks", "pair-walks"]),
    colours=NUMBERS,
    length=NUMBERS,
    task=st.lists(st.integers(0, 5), min_size=1, max_size=6),
)
def test_a_task_set_named_by_numbers_is_small_or_refused_at_once(kind, colours, length, task):
    name = f"{kind}:{colours}:{length}:{tasks.format_task(tuple(task))}"
    started = time.monotonic()
    try:
        found = tasks.task_set(name)
    except ValueError as error:
        assert any(word in str(error) for word in ("allowed", "holds no task"))
    else:
        assert len(found.pretraining) <= tasks.MAX_WALKS
    assert time.monotonic() - started < 20


def test_walks_are_counted_as_they_are_made():
    subgoals = [(0,), (1,), (2,), (3,)]
    for length in range(1, 7):
        made = len(tasks.markov_task_set(4, length, (0, 1)).pretraining)
        assert tasks._most_walks(subgoals, length, {((0,), (1,))}) == made


OVERRIDES = st.text(st.sampled_from("abst._[](){}='123 "), max_size=15)


@settings(max_examples=200, deadline=None)
@given(text=OVERRIDES)
def test_an_override_names_a_field_or_is_refused_in_one_line(text):
    try:
        _check_overrides("configs/gridworld.py:smoke", ["script", f"--config.{text}"])
    except ConfigError as error:
        assert "config" in str(error)


@pytest.mark.parametrize("value", ["-" * 9_000 + "1", "1+" * 9_000 + "1"])
def test_a_tuple_that_is_nested_too_deep_is_refused_by_name(value):
    argument = f"--config.pretrain.snapshot_steps={value}"
    with pytest.raises(ConfigError, match="config.pretrain.snapshot_steps: .* allowed is a tuple"):
        _check_overrides("configs/gridworld.py:smoke", ["script", argument])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("raise SystemExit('executed')", "defines no get_config, allowed is a file such as"),
        ("import os", "defines no get_config"),
        ("def get_config(:", "cannot be read as Python"),
        ("\0", "cannot be read as Python"),
        ("def get_config():\n    return 3", "returns int, allowed is a ConfigDict"),
        ("def get_config():\n    return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("import no_such_module\ndef get_config(): ...", "line 1: ModuleNotFoundError"),
        ("get_config = 3", "TypeError: 'int' object is not callable"),
    ],
)
def test_a_config_file_is_run_only_if_it_is_one(content, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(ConfigError, match="config: ") as caught:
        load_config(str(file))
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_a_path_with_a_colon_is_told_to_be_moved(tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "mine.py").write_text("def get_config(): ...")
    for text in (f"{folder}/mine.py", f"{folder}/mine.py:small"):
        with pytest.raises(ConfigError, match="one colon alone, before the preset"):
            find_config(text)
    assert find_config(DEFAULT_CONFIG) == DEFAULT_CONFIG
