"""Programs that no memory holds are refused when they are traced, before anything is written."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from internal_rl.errors import ConfigError
from internal_rl.section import SettingError
from internal_rl.training.loop import run_stage
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.traced_size import size_faults
from tests.training.toy import make_stage


def stage_with(update=None, init=None, **fields):
    stage = make_stage(8)
    config = StageConfig({"toy": {"steps": 8, **fields}}, length="toy.steps")
    return dataclasses.replace(
        stage, update=update or stage.update, init=init or stage.init, config=config
    )


def in_a_loop(state, frozen):
    stage = make_stage(8)

    def body(carry, _):
        wide = carry[:, None] * jnp.ones((1, 2**14))
        return carry + (wide @ wide.T).sum(), None

    large, _ = jax.lax.scan(body, jnp.ones(2**14), length=2)
    state, metrics = stage.update(state, frozen)
    return state, metrics | {"large": large.sum()}


def test_a_product_inside_of_a_loop_that_does_not_fit_is_refused(tmp_path):
    message = r"toy: an update needs 1\.0 GiB at least .*\[16384, 16384\] numbers .* batch_size, sm"
    with (
        mock.patch("internal_rl.memory._host_memory", lambda: 2**29),
        pytest.raises(ConfigError, match=message),
    ):
        run_stage(stage_with(in_a_loop, batch_size=2), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_state_that_does_not_fit_is_refused(tmp_path):
    def init(key, frozen):
        state = make_stage(8).init(key, frozen)
        return state.replace(key=jnp.zeros((2**40,)))

    def update(state, frozen):
        return state, {"loss": state.params["layer"]["bias"]}

    with pytest.raises(ConfigError, match="toy: an update needs [0-9,.]+ GiB at least"):
        run_stage(stage_with(update, init), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_setting_that_is_refused_while_tracing_is_one_line(tmp_path):
    def init(key, frozen):
        raise SettingError("width", "3 given, allowed is 8")

    with pytest.raises(ConfigError, match="config.toy: width: 3 given, allowed is 8"):
        run_stage(stage_with(init=init), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [MemoryError("x"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")]
)
def test_memory_that_ends_later_is_one_line(error):
    message = "config.toy: memory is not enough .*; what was saved stays"
    with pytest.raises(ConfigError, match=message), size_faults(make_stage(8)):
        raise error


@pytest.mark.parametrize(
    ("fields", "remedies"),
    [
        ({"batch_size": 8, "num_parts": 1}, "a smaller batch_size, a larger num_parts .*, smaller"),
        ({"batch_size": 8}, "a smaller batch_size, smaller models"),
        ({"episodes_per_update": 8}, "a smaller episodes_per_update, smaller models"),
        ({}, "smaller batches, smaller models"),
    ],
)
def test_what_would_help_are_fields_that_the_stage_has(fields, remedies):
    stage = dataclasses.replace(stage_with(**fields), name="toy_variant")
    message = f"config.toy: memory .* allowed is {remedies}"
    with pytest.raises(ConfigError, match=message), size_faults(stage):
        raise MemoryError


def test_other_faults_of_the_runtime_stay_what_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), size_faults(make_stage(8)):
        raise jax.errors.JaxRuntimeError("INTERNAL: x")
