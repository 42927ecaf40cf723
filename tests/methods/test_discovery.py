"""Discovery: its schedules, its variants, and what it needs no labels for."""

import json
import pathlib

import jax
import numpy as np
import pytest

import internal_rl
from internal_rl.experts.dataset import Dataset
from internal_rl.methods import compile, discovery, pretraining, steering
from internal_rl.methods.discovery import (
    CodeDiscovery,
    Config,
    alpha_schedule,
    discovery_losses,
    gate_schedule,
)
from internal_rl.methods.evaluation import evaluation_key
from internal_rl.models.base_model import BaseConfig
from internal_rl.models.metacontroller import MetacontrollerConfig
from internal_rl.section import SettingError
from tests.marks import quick
from tests.methods.toy import RISING_SHARES, RISING_STEPS, ToySource

SHORT = {
    "steps": 60,
    "batch_size": 16,
    "num_parts": 1,
    "evaluation_rows": 4,
    "layer": 1,
    "rank": 2,
    "code_size": 3,
    "alpha": 0.01,
    "alpha_free_steps": 0,
    "alpha_ramp_steps": 2,
    "learning_rate": 1e-2,
}
SWITCHING = {"precision", "recall", "f1", "soft_gate_share", "switches_per_trajectory"}


def values(schedule, config, steps):
    compiled = jax.jit(lambda step: schedule(config, step))
    return np.array([compiled(np.int32(step)) for step in steps])


@pytest.mark.parametrize(
    ("start", "expected"),
    [(0.0, [0, 0, 0.0, 0.15, 0.3, 0.3]), (0.03, [0, 0, 0.03, 0.0948683, 0.3, 0.3])],
)
def test_alpha_is_free_then_rises_then_stays(start, expected):
    config = Config(alpha=0.3, alpha_start=start, alpha_free_steps=10, alpha_ramp_steps=20)
    found = values(alpha_schedule, config, (0, 9, 10, 20, 30, 99))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("open_steps", "release", "expected"),
    [
        (0, 0, [0, 0, 0, 0, 0]),
        (0, 20, [1, 0.5, 0.25, 0, 0]),
        (10, 20, [1, 1, 0.75, 0, 0]),
        (10, 0, [1, 0, 0, 0, 0]),
    ],
)
def test_gates_are_held_open_then_released(open_steps, release, expected):
    config = Config(gate_open_steps=open_steps, gate_release_steps=release)
    found = values(lambda *args: gate_schedule(*args).floor, config, (0, 10, 15, 30, 99))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("free", "ramp", "expected"), RISING_SHARES)
def test_noise_of_gates_comes_late(free, ramp, expected):
    config = Config(gate_noise_free_steps=free, gate_noise_ramp_steps=ramp)
    found = values(lambda *args: gate_schedule(*args).noise, config, RISING_STEPS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def train(method, num_updates):
    state = jax.jit(method.init)(jax.random.key(0), method.frozen)
    update = jax.jit(method.update)
    lines = []
    for _ in range(num_updates):
        state, metrics = update(state, method.frozen)
        lines.append({name: float(value) for name, value in metrics.items()})
    return state, lines


def test_codes_make_the_experts_actions_likely(model):
    method = CodeDiscovery(Config(**SHORT), model, ToySource())
    state, lines = train(method, 60)
    assert set(lines[0]) == {"loss", "action_nll", "kl", "alpha", "gradient_norm"}
    np.testing.assert_allclose([line["alpha"] for line in lines[:4]], [0, 0.005, 0.01, 0.01])
    assert lines[-1]["action_nll"] < lines[0]["action_nll"] - 0.1
    evaluation = jax.device_get(jax.jit(method.evaluate)(state, method.frozen))
    assert {"loss", "action_nll", "kl"} | SWITCHING < set(evaluation)
    expected = evaluation["action_nll"] + 0.01 * evaluation["kl"]
    np.testing.assert_allclose(evaluation["loss"], expected, rtol=1e-6)

    # What later stages make of the parameters has the same losses.
    steered = method.steered(method.params(state), method.frozen)
    assert steered.layer == 1
    source = method.source

    @jax.jit
    def losses(steered):
        batch = source.held_out(evaluation_key("held out"), 4, source.arrays)
        return discovery_losses(steered, batch, jax.random.key(0), batch.num_targets())

    nll, kl, found = losses(steered)
    np.testing.assert_allclose([nll, kl], [evaluation["action_nll"], evaluation["kl"]], rtol=1e-5)
    assert found.code.shape == (4, 24, 3)


def test_labels_are_only_annotation(model):
    known, _ = train(CodeDiscovery(Config(**SHORT), model, ToySource()), 2)
    method = CodeDiscovery(Config(**SHORT), model, ToySource(labelled=False))
    blind, _ = train(method, 2)
    jax.tree.map(np.testing.assert_array_equal, known.params, blind.params)
    evaluation = jax.jit(method.evaluate)(blind, method.frozen)
    assert set(evaluation) == {"loss", "action_nll", "kl"}


def test_a_variant_sets_fields_of_the_metacontroller_and_leaves_the_others(monkeypatch):
    configs = {name: Config(variant=name, gate="gumbel") for name in discovery.VARIANTS}
    gates = {name: config.metacontroller_config.gate for name, config in configs.items()}
    assert gates.pop("discovered") == gates.pop("cotrained") == "gumbel"
    assert gates == {"forced": "one", "unaligned": "random"}
    config = Config(variant="forced", code_size=5, embedding="step").metacontroller_config
    assert config == MetacontrollerConfig(code_size=5, embedding="step", gate="one")
    with pytest.raises(SettingError, match="variant: 'free' given, allowed is discovered, forced"):
        Config(variant="free")
    # A new variant is an entry.
    monkeypatch.setitem(discovery.VARIANTS, "sparse", {"switch_bias": -3.0})
    object.__setattr__(config := Config(gate="gumbel"), "variant", "sparse")
    assert config.metacontroller_config == MetacontrollerConfig(gate="gumbel", switch_bias=-3.0)


@pytest.mark.parametrize("variant", quick(["forced", "unaligned"], ["unaligned"]))
def test_gates_of_the_controls(model, variant):
    config = Config(**SHORT, variant=variant, switch_rate=0.3)
    method = CodeDiscovery(config, model, ToySource())
    assert method.module.config.gate == {"forced": "one", "unaligned": "random"}[variant]
    state, lines = train(method, 2)
    assert np.isfinite(lines[-1]["loss"])
    evaluation = jax.jit(method.evaluate)(state, method.frozen)
    assert evaluation["soft_gate_share"] == 0
    if variant == "forced":
        assert evaluation["recall"] == 1 and evaluation["switches_per_trajectory"] == 8


def test_settings_that_do_not_fit_together_are_refused(model):
    with pytest.raises(SettingError, match="alpha_start: 0.2 given, allowed is 0 to 0.1"):
        Config(alpha=0.1, alpha_start=0.2)
    with pytest.raises(SettingError, match="layer: 3 given, allowed is 0 to 2"):
        CodeDiscovery(Config(layer=3), model, ToySource())


@pytest.mark.parametrize(
    "make",
    [
        lambda *given: CodeDiscovery(Config(**SHORT), *given),
        lambda *given: compile.SegmentDiscovery(compile.Config(layer=1), *given),
        lambda *given: steering.Steering(steering.Config(), *given, 3),
    ],
)
def test_arrays_that_the_model_would_misread_are_refused(model, make):
    seen, zeros = np.random.default_rng(0).integers(0, 2, (4, 12, 5)), np.zeros((4, 11), int)
    source = Dataset.from_arrays(seen, zeros, np.full(4, 11), zeros)
    with pytest.raises(ValueError, match="have up to 11 actions, allowed is 10, the max_length of"):
        make(model, source)


@pytest.mark.parametrize(
    "path", sorted(pathlib.Path(internal_rl.__file__).parent.glob("pretrained/**/config.json"))
)
def test_sections_of_shipped_weights_are_understood(path):
    config = json.loads(path.read_text())
    for name, section in (
        ("base", BaseConfig),
        ("pretrain", pretraining.Config),
        ("metacontroller", Config),
    ):
        if name in config:
            read = section.read(config[name]).as_dict()
            for field, value in config[name].items():
                assert read[field] == (tuple(value) if isinstance(value, list) else value)
